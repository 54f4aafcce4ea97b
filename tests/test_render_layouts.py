"""Laws of the scenes after the first set, and of the tiles that shapes are tested at."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from datool.render import Look, render
from datool.render.draws import Draws
from datool.render.figures import beasts, persons
from datool.render.film import tone
from datool.render.limbs import aim, limb
from datool.render.props import Stage
from datool.render.renderer import cameras
from datool.render.scenes import FAMILIES, LAYOUTS, build, choose_layouts
from datool.render.tiles import LENGTH, blocks, strips
from datool.render.tracing import occlusion, rays, trace
from datool.render.vehicles import vehicles

SIZE = (45, 62)  # no multiple of a tile's side


def test_tiles_hold_every_pixel_and_none_beyond() -> None:
    for tiles in (blocks(*SIZE, torch.device("cpu")), strips(SIZE[0] * SIZE[1], torch.device("cpu"))):
        assert tiles.shape[1] == LENGTH
        assert torch.equal(tiles.flatten().unique(), torch.arange(SIZE[0] * SIZE[1]))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_tiles_miss_no_shape_that_a_test_at_every_pixel_finds(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rays of the camera, rays that start elsewhere, and the way to the light, against the code without tiles."""
    scene = build(11, torch.arange(2), layout, Look())
    ray = rays(cameras(scene.view_b2, *SIZE), *SIZE)
    tiles = blocks(*SIZE, ray.device)
    depth, _ = trace(scene, ray, tiles_tk=tiles)
    start = 0.5 * depth.clamp_max(50)[:, None] * ray
    onward = ray.roll(100, 2) * ray.new_tensor([1.0, -1.0, -1.0])[:, None]
    lamp = scene.light_b4[:, 3, None, None]
    to_light = scene.light_b4[:, :3, None] * (1 + (1 - lamp) * 300) - lamp * start
    everywhere = torch.ones_like(depth, dtype=torch.bool)
    found = [depth, trace(scene, onward, start)[0], occlusion(scene, start, to_light, everywhere, tiles)]
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        expected = [trace(scene, ray)[0], trace(scene, onward, start)[0], occlusion(scene, start, to_light, everywhere)]
    for name, one, other in zip(("camera", "elsewhere", "light"), found, expected, strict=True):
        # rounding decides at borders of shapes
        assert torch.isclose(one, other, rtol=1e-4, atol=1e-3).float().mean() > 0.998, name


def test_every_layout_is_drawn_about_as_often_as_it_shall_be() -> None:
    index = torch.arange(800)
    for number, layout in enumerate(LAYOUTS.values()):
        for share, expected in ((0.0, layout.first), (1.0, layout.share)):
            got = (choose_layouts(3, index, None, share) == number).float().mean()
            assert abs(got - expected) < 0.06
    names = list(LAYOUTS)
    for family in FAMILIES:
        drawn = choose_layouts(3, index[:300], family, 0.8).unique().tolist()
        assert {names[number] for number in drawn} == {name for name in names if LAYOUTS[name].family == family}
    assert sum(layout.share for layout in LAYOUTS.values()) == pytest.approx(1)
    assert sum(layout.first for layout in LAYOUTS.values()) == pytest.approx(1)


def order(depth_bhw: Tensor) -> Tensor:
    """(B,) Spearman's correlation of nearness with the row, downwards."""
    height, width = depth_bhw.shape[1:]
    near = (1 / depth_bhw).flatten(1).argsort(1).argsort(1).float()
    row = torch.arange(height).float()[:, None].expand(-1, width).flatten()
    return torch.stack([torch.corrcoef(torch.stack([one, row]))[0, 1] for one in near])


def test_what_is_lower_is_not_always_nearer() -> None:
    depth = render(5, range(64), 32, 40).depth_bhw
    assert (depth > 0).all() and not depth.isnan().any()
    some = depth.isinf().flatten(1).float().mean(1) < 0.95  # all sky has no order
    assert some.float().mean() > 0.9
    found = order(depth[some])
    assert found.mean() < 0.65 and (found < 0.3).float().mean() > 0.15


def test_a_limb_goes_from_joint_to_joint() -> None:
    way = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    way[0, 0] = torch.tensor([0.0, 0.0, -2.0])
    axes = aim(way)
    torch.testing.assert_close(axes @ axes.transpose(-1, -2), torch.eye(3).double().expand(3, 5, 3, 3))
    assert (torch.linalg.det(axes) > 0.99).all()
    stage = Stage(Draws(0, torch.arange(3), stream=0))
    start = torch.zeros_like(way)
    yes = torch.ones(3, 5, dtype=torch.bool)
    limb(stage, start, way, torch.full((3, 5), 0.1).double(), way, yes, "cylinder")
    run = stage.runs()[0]
    end = run.centre + run.half[..., 2:] * run.axes[..., 2, :]
    torch.testing.assert_close(end, way)


@pytest.mark.parametrize("kind", ["person", "animal", "car"])
def test_what_stands_on_the_ground_touches_it_and_has_its_size(kind: str) -> None:
    draws = Draws(2, torch.arange(40), stream=0)
    stage, one = Stage(draws), torch.ones(40, 1).double()
    eye, xy, there = torch.tensor([[-50.0, 0, 2]]).double().expand(40, 3), torch.zeros(40, 1, 2).double(), one > 0
    if kind == "person":
        persons(stage, eye, xy, 0 * one, 0 * one, 1.8 * one, ~there, there)
        low, high = (1.4, 2.4), (0.2, 2.0)  # a stride to a raised arm
    elif kind == "animal":
        beasts(stage, eye, xy, 0 * one, 0 * one, one, there)
        low, high = (0.3, 2.2), (0.8, 3.0)
    else:
        vehicles(stage, eye, xy, 0 * one, there)
        low, high = (1.2, 4.1), (3.5, 12.5)
    runs = stage.runs()
    centre, half, axes = (torch.cat([getattr(run, name) for run in runs], 1) for name in ("centre", "half", "axes"))
    round_ = torch.cat(
        [torch.full_like(run.centre[..., 0], kind_ != "box") for kind_, rs in stage.shapes.items() for run in rs], 1
    )
    edges = half[..., None] * axes
    reach = torch.where(round_[..., None] > 0, edges.square().sum(2).sqrt(), edges.abs().sum(2))
    bottom, top = (centre - reach).amin(1), (centre + reach).amax(1)
    assert (bottom[:, 2].abs() < 0.05).all()
    for size, (least, most) in ((top[:, 2] - bottom[:, 2], low), (top[:, 0] - bottom[:, 0], high)):
        assert (size > least).all() and (size < most).all()


def test_the_tone_sets_black_and_white_and_leaves_a_picture_alone_at_0() -> None:
    picture = 0.4 + 0.2 * torch.rand(2, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    picture = picture.mean(1, keepdim=True).expand(-1, 3, -1, -1).clone()
    made = tone(picture, torch.tensor([[0.05, 0.9, 1.0, 0.0, 1.0], [0.05, 0.9, 2.0, 1.0, 0.0]]))
    torch.testing.assert_close(made[1], picture[1])
    ends = made[0].flatten().quantile(torch.tensor([0.01, 0.99]))
    torch.testing.assert_close(ends, torch.tensor([0.05, 0.9]), atol=0.05, rtol=0)
    assert made[0].std() > 2 * picture[0].std()


def test_lenses_go_further_than_the_first_sets() -> None:
    views = torch.cat([build(1, torch.arange(150), "sky", Look(lens=share)).view_b2[:, :1] for share in (0.0, 1.0)], 1)
    degrees = views * 180 / math.pi
    assert degrees[:, 0].min() > 29.9 and degrees[:, 0].max() < 90.1
    assert degrees[:, 1].min() < 25 and degrees[:, 1].max() > 100
    assert ((degrees[:, 1] < 40.1) | (degrees[:, 1] > 84.9)).all()
