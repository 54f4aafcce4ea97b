"""Laws of the renderer: exact depth, and images that depend on nothing but (seed, index, size)."""

from __future__ import annotations

import math
from dataclasses import astuple, fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from datool.errors import DatoolError
from datool.render import Look, Photos, render
from datool.render.draws import COLUMN, MATERIAL_COLUMNS, Draws, splitmix64
from datool.render.film import defocus, move
from datool.render.props import KINDS_OF_SHAPE, NUM_PLANES
from datool.render.renderer import picture
from datool.render.scenes import AWAY_M, FAMILIES, LAYOUTS, Scene, build
from datool.render.terrain import draw_waves, height, meet
from datool.render.tracing import FAR_M, rays, trace

SIZE = (48, 64)
CAMERA = torch.tensor([[60.0, 60.0, 32.0, 24.0]])


PLAIN = Look.plain()
ADD_SHAPES = ("layouts", "tilt", "overhang", "terrain", "foliage", "fences", "cables", "panes", "night", "lamps")
CHANGE_THE_IMAGE = ("glass", "mirrors", "polish", "detail", "wear", "photos", "fog", "focus", "motion", "tone")
FACING = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # normal to the camera


def one_shape(shape: str, centre: list[float], half: list[float], axes: Tensor | None = None) -> Scene:
    """A scene of one shape in camera axes; "plane" looks at the camera along its third axis."""
    counts = tuple(int(kind == shape) for kind in KINDS_OF_SHAPE)
    eye = torch.eye(3) if axes is None else axes
    planes = NUM_PLANES - (shape == "plane")
    rows = sum(counts) + NUM_PLANES
    return Scene(
        centre_bp3=torch.cat([torch.tensor([centre]), torch.tensor([[0, 0, 1e9]]).expand(planes, 3)])[None],
        axes_bp33=torch.cat([eye[None], FACING.expand(planes, 3, 3)])[None],
        half_bp3=torch.cat([torch.tensor([half]), torch.ones(planes, 3)])[None],
        material_bpk=torch.full((1, rows + 1, len(MATERIAL_COLUMNS)), 0.5),
        light_b4=torch.tensor([[0.0, -1.0, 0.0, 0.0]]),
        light_colour_b3=torch.ones(1, 3),
        ambient_b3=torch.ones(1, 3),
        up_b3=torch.tensor([[0.0, -1.0, 0.0]]),
        haze_b3=torch.ones(1, 3),
        fog_b=torch.zeros(1),
        view_b2=torch.tensor([[1.0, 0.0]]),
        lens_bk=torch.tensor([[1.0, 1, 0, 0, 0.1, 0, 1, 1]]),
        salt_b=torch.zeros(1, dtype=torch.int32),
        pose_b34=torch.eye(4)[None, :3],
        cut_bp4=torch.tensor([[[8.0, 20.0, 0.45, 0.0]]])[:, : sum(counts[3:])],
        waves_bw4=torch.zeros(1, 0, 4),
        lamp_bl6=torch.zeros(1, 0, 6),
        focus_b2=torch.zeros(1, 2),
        motion_b4=torch.zeros(1, 4),
        counts=counts,
    )


def traced(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Depth with sky as +inf, and the rays' x and y, all (H*W,) float64."""
    ray = rays(CAMERA, *SIZE)
    depth, winner = trace(scene, ray)
    sky = scene.centre_bp3.shape[1]
    assert torch.equal(winner == sky, depth >= FAR_M)
    x, y = ray[0, 0].double(), ray[0, 1].double()
    return torch.where(depth[0] < FAR_M, depth[0], torch.inf).double(), x, y


def agree(depth: Tensor, expected: Tensor) -> None:
    hit = torch.isfinite(expected)
    assert torch.equal(torch.isfinite(depth), hit) and hit.any()
    torch.testing.assert_close(depth[hit], expected[hit], rtol=1e-5, atol=0)


def test_a_sphere_is_where_the_quadratic_says() -> None:
    centre, radius = (0.3, -0.2, 4.0), 1.1
    depth, x, y = traced(one_shape("ellipsoid", list(centre), [radius] * 3))
    a = x * x + y * y + 1
    b = x * centre[0] + y * centre[1] + centre[2]
    square = b * b - a * (sum(c * c for c in centre) - radius**2)
    agree(depth, torch.where(square > 0, (b - square.clamp_min(0).sqrt()) / a, torch.inf))


def test_a_box_shows_its_front_and_its_side() -> None:
    depth, x, y = traced(one_shape("box", [1.2, 0.1, 5.0], [0.5, 0.7, 1.0]))
    front = torch.where((4 * x - 1.2).abs().maximum((4 * y - 0.1).abs() - 0.2) <= 0.5, 4.0, torch.inf)
    side = 0.7 / x  # its left wall is x = 0.7
    side = torch.where((side > 4) & (side <= 6) & ((side * y - 0.1).abs() <= 0.7), side, torch.inf)
    agree(depth, torch.minimum(front, side))


def test_a_cylinder_shows_its_round_and_its_cap() -> None:
    # its axis is the camera's y: local z -> y; the camera stands above its upper cap, at y = 0.5
    upright = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    depth, x, y = traced(one_shape("cylinder", [0.0, 1.0, 3.0], [0.6, 0.6, 0.5], upright))
    a, b = x * x + 1, torch.full_like(x, 3.0)
    square = b * b - a * (9 - 0.36)
    wall = torch.where(square > 0, (b - square.clamp_min(0).sqrt()) / a, torch.inf)
    wall = torch.where(((wall * y) - 1.0).abs() <= 0.5, wall, torch.inf)
    cap = torch.where(y > 0, 0.5 / y, torch.inf)
    cap = torch.where((cap * x) ** 2 + (cap - 3) ** 2 <= 0.36, cap, torch.inf)
    agree(depth, torch.minimum(wall, cap))


def test_a_plane_across_the_axis_has_one_depth_and_the_ground_is_a_plane() -> None:
    facing = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    depth, _, _ = traced(one_shape("plane", [0.4, 0.1, 7.0], [1.0] * 3, facing))
    torch.testing.assert_close(depth, torch.full_like(depth, 7.0), rtol=1e-6, atol=0)
    up = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    depth, _, y = traced(one_shape("plane", [0.0, 1.5, 0.0], [1.0] * 3, up))
    expected = torch.where(y > 1.5 / FAR_M, 1.5 / y, torch.inf)
    agree(depth, expected)


def test_what_lies_behind_the_camera_or_holds_it_is_not_seen() -> None:
    for centre in ([0.0, 0, -4], [0.0, 0, 0.5], [0.0, 0, -AWAY_M]):
        for shape in ("box", "ellipsoid", "cylinder"):
            depth, _, _ = traced(one_shape(shape, centre, [1.0, 1.0, 1.0]))
            assert torch.isinf(depth).all()


def test_an_axis_parallel_ray_through_a_face_is_no_nan() -> None:
    camera = torch.tensor([[60.0, 60.0, 32.5, 24.5]])  # one ray is exactly (0, 0, 1)
    for shape in ("box", "ellipsoid", "cylinder"):
        image, depth = picture(one_shape(shape, [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]), camera, *SIZE)
        assert not depth.isnan().any() and depth[0, 24, 32] == pytest.approx(2.0, rel=1e-6)
        assert image.shape == (1, 3, *SIZE)


def test_what_is_cut_out_of_a_card_is_not_there() -> None:
    """Eight upright bars, each 0.45 of an eighth of the card, between two rails."""
    depth, x, y = traced(one_shape("bars", [0.0, 0.0, 4.0], [1.6, 1.2, 1.0]))
    u, v = 4 * x / 1.6, 4 * y / 1.2
    part = (u + 1) * 4
    bar = (part - part.floor() - 0.5).abs() < 0.225
    rail = (v.abs() - 0.9 * 0.92).abs() < 0.035
    agree(depth, torch.where((bar | rail) & (u.abs() < 1) & (v.abs() < 1), 4.0, torch.inf).double())
    for kind in KINDS_OF_SHAPE[3:]:
        depth, _, _ = traced(one_shape(kind, [0.0, 0.0, 4.0], [1.6, 1.2, 1.0]))
        solid = torch.isfinite(depth)
        assert 0 < solid.float().mean() < 0.6 and (depth[solid] == 4).all()


def test_a_ray_meets_the_hills_where_they_are() -> None:
    waves = draw_waves(Draws(5, torch.arange(4), stream=0), 1.0)
    ray = torch.nn.functional.normalize(torch.randn(4, 3, 400, generator=torch.Generator().manual_seed(0)), dim=1)
    ray = (ray * torch.tensor([1.0, 1.0, 0.2])[:, None]).double()
    eye = torch.tensor([0.0, 0.0, 1.6], dtype=torch.float64)[None, :, None]
    t = meet(waves, eye, ray)
    hit = t < FAR_M
    assert 0.3 < hit.float().mean() < 0.9
    at = eye + t[:, None] * ray
    error = (at[:, 2] - height(waves, at[:, 0], at[:, 1])).abs()
    assert (error[hit] < 1e-4 * t[hit]).all()
    for share in torch.linspace(0.05, 0.98, 60, dtype=torch.float64):  # nothing before it
        at = eye + share * t[:, None] * ray
        under = hit & (at[:, 2] < height(waves, at[:, 0], at[:, 1]) - 0.02)
        assert under.float().mean() < 2e-3


def coloured(scene: Scene, rows: int, **columns: float) -> Scene:
    """The scene with columns of one row's material set."""
    material = scene.material_bpk.clone()
    for name, value in columns.items():
        material[:, rows, COLUMN[name]] = value
    return scene._replace(material_bpk=material)


RED = {"a_r": 0.9, "a_g": 0.0, "a_b": 0.0, "b_r": 0.9, "b_g": 0.0, "b_b": 0.0, "by_joint": 0.0, "glow": 3.0}
CLEAN = {"glass": 0.0, "mirror": 0.0, "stain": 0.0, "vein": 0.0, "cobble": 0.0, "lit": 0.0, "photo": 0.0}


def redness(image: Tensor) -> float:
    red, green = image[0, 0, 24, 32].float(), image[0, 1, 24, 32].float()
    return float(red / green.clamp_min(1))


def test_a_mirror_shows_what_stands_behind_the_camera_and_is_a_wall_to_depth() -> None:
    scene = one_shape("box", [0.0, 0.0, -3.0], [2.0, 2.0, 0.5])
    scene.centre_bp3[0, 1] = torch.tensor([0.0, 0.0, 4.0])  # the first plane, across the axis
    scene = coloured(coloured(coloured(scene, slice(None), **CLEAN), 0, **RED), 1, mirror=0.95)
    dull, _ = picture(scene, CAMERA, *SIZE)
    shown, depth = picture(scene._replace(passes=("second",)), CAMERA, *SIZE)
    assert redness(shown) > 3 > 1.5 > redness(dull)
    torch.testing.assert_close(depth, torch.full_like(depth, 4.0))


def test_glass_shows_what_stands_behind_it_and_is_the_surface_to_depth() -> None:
    scene = one_shape("ellipsoid", [0.0, 0.0, 3.0], [1.0, 1.0, 1.0])
    scene.centre_bp3[0, 1] = torch.tensor([0.0, 0.0, 6.0])
    scene = coloured(coloured(coloured(scene, slice(None), **CLEAN), 1, **RED), 0, glass=0.9)
    dull, _ = picture(scene, CAMERA, *SIZE)
    shown, depth = picture(scene._replace(passes=("second", "glass")), CAMERA, *SIZE)
    assert redness(shown) > 3 > 1.5 > redness(dull)
    assert depth[0, 24, 32] == pytest.approx(2.0, rel=1e-3)


def test_only_effects_that_add_shapes_change_depth(tmp_path: Path) -> None:
    assert {*ADD_SHAPES, "lens", *CHANGE_THE_IMAGE} == {field.name for field in fields(Look)}
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8))
    photos = Photos.load(tmp_path)
    for name in (*ADD_SHAPES, *CHANGE_THE_IMAGE):
        moved, changed = [], []
        for family, num in (("indoor", 10), ("outdoor", 6), ("table-top", 4)):
            plain = render(4, range(num), *SIZE, family=family, look=PLAIN)
            made = render(4, range(num), *SIZE, family=family, look=replace(PLAIN, **{name: 1.0}), photos=photos)
            assert (made.depth_bhw > 0).all() and torch.equal(made.camera_b4, plain.camera_b4)
            moved.append(not torch.equal(made.depth_bhw, plain.depth_bhw))
            changed.append(not torch.equal(made.image_b3hw, plain.image_b3hw))
        assert any(moved) == (name in ADD_SHAPES) and any(changed), name


def test_the_plain_look_is_the_first_scene_set() -> None:
    """Median depth and mean value of the first set's pictures, as it was when the bundled models were trained."""
    expected = {
        "indoor": [[3.3098, 103.507], [2.6379, 99.767], [1.2014, 140.663], [4.6851, 132.779]],
        "outdoor": [[9.0796, 104.942], [18.1656, 99.418], [12.2246, 134.627], [6.6342, 125.297]],
        "table-top": [[1.058, 103.391], [0.6212, 100.473], [1.8204, 144.038], [0.5806, 135.434]],
    }
    for family, numbers in expected.items():
        made = render(7, range(4), *SIZE, family=family, look=PLAIN)
        got = torch.stack([made.depth_bhw.flatten(1).median(1)[0], made.image_b3hw.float().flatten(1).mean(1)], 1)
        torch.testing.assert_close(got, torch.tensor(numbers), rtol=2e-3, atol=0)


def test_other_cameras_see_the_same_scene() -> None:
    """What camera 1 sees, camera 0 sees too, or something before it; most of it, it sees."""
    look = Look(focus=0, motion=0)
    first, other = (render(6, range(16), *SIZE, look=look, camera=k) for k in (0, 1))
    assert not torch.equal(first.pose_b34, other.pose_b34)
    found, hidden = [], []
    for k in range(16):
        rotation, shift = other.pose_b34[k, :, :3], other.pose_b34[k, :, 3:]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-5, rtol=0)
        depth = other.depth_bhw[k].flatten()
        world = rotation.T @ (rays(other.camera_b4[k : k + 1], *SIZE)[0] * depth - shift)
        x, y, z = first.pose_b34[k, :, :3] @ world + first.pose_b34[k, :, 3:]
        fx, fy, cx, cy = first.camera_b4[k]
        column, row = (fx * x / z + cx).floor(), (fy * y / z + cy).floor()
        seen = torch.isfinite(depth) & (depth < 100) & (z > 0.1)
        seen &= (column >= 0) & (column < SIZE[1]) & (row >= 0) & (row < SIZE[0])
        there = first.depth_bhw[k][row[seen].long(), column[seen].long()]
        found.append((there / z[seen]).log().abs() < 0.05)
        hidden.append((there / z[seen]).log() < -0.05)
    found, hidden = torch.cat(found).float().mean(), torch.cat(hidden).float().mean()
    assert found > 0.75 and found + hidden > 0.95


def test_what_is_in_focus_and_a_camera_at_rest_stay_sharp() -> None:
    light = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    depth = torch.full((2, 1, 32, 32), 3.0)
    depth[:, :, :, 16:] = 60.0
    blurred = defocus(light, depth, torch.tensor([3.0, 3.0]), torch.tensor([0.1, 0.0]))
    assert torch.equal(blurred[0, :, :, :16], light[0, :, :, :16]) and torch.equal(blurred[1], light[1])
    assert blurred[0, :, :, 20:].std() < 0.5 * light[0, :, :, 20:].std()
    torch.testing.assert_close(move(light, depth, torch.zeros(2, 4)), light)
    assert move(light, depth, torch.tensor([[0.05, 0, 0, 0]] * 2)).std() < light.std()


def test_a_photo_lies_on_a_surface_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "b.png"), np.full((64, 80, 3), 255, np.uint8))
    photos = Photos.load(tmp_path)
    at = (torch.arange(256) + 0.5) / 256
    found = photos.sample(torch.zeros(256), at, 1 - (torch.full((256,), 9.5) / 256), torch.full((256,), 1e-3))
    expected = (torch.from_numpy(pixels[9].astype(np.float32)).T / 255) ** 2.2
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(photos.sample(torch.full((9,), 0.9), at[:9], at[:9], at[:9] * 30), torch.ones(3, 9))
    for size in (1 / 256, 1 / 32, 0.5):  # far away, a photo is its mean
        spread = photos.sample(torch.zeros(256), at, at, torch.full((256,), size)).std()
        assert spread < 0.4 * (size * 256) ** -0.5
    with pytest.raises(DatoolError, match="no image"):
        (tmp_path / "none").mkdir()
        Photos.load(tmp_path / "none")


def test_a_look_is_made_of_probabilities() -> None:
    assert set(astuple(PLAIN)) == {0.0} and all(value > 0 for value in astuple(Look()))
    with pytest.raises(DatoolError, match="fog"):
        Look(fog=1.5)
    with pytest.raises(DatoolError, match="camera -1"):
        render(0, [0], *SIZE, camera=-1)


def test_an_image_does_not_know_its_neighbours() -> None:
    for family in (None, *FAMILIES):
        together, alone = render(4, [3, 5, 8, 11], *SIZE, family=family), render(4, [5], *SIZE, family=family)
        assert torch.equal(together.image_b3hw[1], alone.image_b3hw[0])
        assert torch.equal(together.depth_bhw[1], alone.depth_bhw[0])
        assert torch.equal(together.camera_b4[1], alone.camera_b4[0])


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_pictures_rendered_in_one_pass_are_those_rendered_alone(layout: str) -> None:
    """As on CUDA: a pass then holds pictures with and without mirrors, photos and hills."""
    scenes = build(2, torch.arange(6), layout, Look())
    image, depth = picture(scenes, CAMERA.expand(6, 4), *SIZE)
    for k in range(6):
        alone = picture(scenes.map(lambda v, k=k: v[k : k + 1]), CAMERA, *SIZE)
        assert torch.isclose(depth[k], alone[1][0], rtol=1e-4).float().mean() > 0.999
        assert ((image[k].float() - alone[0][0].float()).abs() <= 2).float().mean() > 0.99


def test_torchs_own_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = render(2, torch.arange(3), *SIZE)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first.image_b3hw, render(2, torch.arange(3), *SIZE).image_b3hw)


def test_seeds_and_indices_make_different_images() -> None:
    images = torch.cat([render(seed, range(4), *SIZE).image_b3hw for seed in (0, 1, -1, 2**63)]).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images)


def test_splitmix64_gives_the_published_numbers() -> None:
    # the generator's first outputs for seed 1234567: state k is seed + k * gamma, and the function adds gamma once
    gamma = -7046029254386353131
    got = [int(splitmix64(torch.tensor(1234567) + torch.tensor(gamma) * k)) % 2**64 for k in range(3)]
    assert got == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_draws_are_uniform_and_go_on_past_a_block() -> None:
    draws = Draws(0, torch.arange(8), stream=3)
    values = torch.cat([draws.uniform(n) for n in (5, Draws.BLOCK, 7, 3 * Draws.BLOCK)], 1)
    assert values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01 and abs(values.var() - 1 / 12) < 0.005
    assert len(values.unique()) == values.numel()


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("look", [PLAIN, Look()], ids=["plain", "all"])
def test_a_family_is_what_it_says(family: str, look: Look) -> None:
    made = render(9, range(24), *SIZE, family=family, look=look)
    depth, image = made.depth_bhw, made.image_b3hw
    assert made.image_b3hw.dtype == torch.uint8 and depth.dtype == torch.float32
    assert (depth > 0).all() and not depth.isnan().any()
    sky = depth.isinf().flatten(1).float().mean(1)
    if family in ("indoor", "table-top"):
        assert (sky == 0).all()
    if family in ("outdoor", "sky"):
        assert (sky > 0.02).float().mean() > 0.5
    disparity = (1 / depth).flatten(1)
    spread = disparity.quantile(0.98, 1) / disparity.quantile(0.02, 1).clamp_min(1e-4)
    assert (spread > 1.02).all() and spread.median() > 1.5
    values = image.flatten(1).float()
    assert (values.std(1) > (4 if look == PLAIN else 2)).all() and values.std(1).median() > 20
    assert (values.mean(1) > (20 if look == PLAIN else 4)).all() and (values.mean(1) < 240).all()
    fov = 2 * (SIZE[1] / 2 / made.camera_b4[:, 0]).atan() * 180 / math.pi
    narrowest, widest = (29.9, 90.1) if look == PLAIN else (13.9, 110.1)
    assert (fov > narrowest).all() and (fov < widest).all()
    assert torch.equal(made.camera_b4[:, 0], made.camera_b4[:, 1])


def test_the_floor_of_a_room_is_flat_in_space() -> None:
    """Back-projected by the returned camera, the largest surface of each picture lies in a plane."""
    made = render(5, range(12), *SIZE, family="indoor", look=PLAIN)
    ray = rays(made.camera_b4, *SIZE).view(-1, 3, *SIZE)
    points = (ray * made.depth_bhw[:, None]).double()
    # three neighbours in a row span a plane that holds most of their small patch, if the camera is the true one
    patch = torch.nn.functional.unfold(points, 5).view(len(points), 3, 25, -1).transpose(1, 3)  # (B, L, 25, 3)
    patch = patch - patch.mean(2, keepdim=True)
    thin = torch.linalg.svdvals(patch)
    flat = thin[..., 2] / thin[..., 0] < 1e-4
    assert flat.float().mean() > 0.5


def test_depth_does_not_depend_on_the_size_of_the_image() -> None:
    """A pixel of the small picture is the centre of 3x3 of the large one, so their depths are equal."""
    small, large = render(3, range(6), *SIZE), render(3, range(6), 3 * SIZE[0], 3 * SIZE[1])
    close = torch.isclose(small.depth_bhw, large.depth_bhw[:, 1::3, 1::3], rtol=1e-4)
    assert close.float().mean() > 0.99


def test_wrong_requests_say_what_is_wrong() -> None:
    with pytest.raises(DatoolError, match="Did you mean 'outdoor'"):
        render(0, [0], *SIZE, family="outdor")
    with pytest.raises(DatoolError, match="below 8"):
        render(0, [0], 4, 64)
    with pytest.raises(DatoolError, match="non-empty"):
        render(0, [], *SIZE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_draws_the_same_pictures() -> None:
    here, there = render(1, range(8), *SIZE), render(1, range(8), *SIZE, device="cuda")
    assert torch.isclose(here.depth_bhw, there.depth_bhw.cpu(), rtol=1e-3).float().mean() > 0.999
    apart = (here.image_b3hw.float() - there.image_b3hw.cpu().float()).abs()
    assert (apart <= 2).float().mean() > 0.99
