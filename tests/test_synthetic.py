"""Laws of the renderer: exact depth, and images that depend on nothing but (seed, index, size)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from datool.data.synthetic import render
from datool.data.synthetic.draws import MATERIAL_COLUMNS, Draws, splitmix64
from datool.data.synthetic.props import NUM_PLANES
from datool.data.synthetic.renderer import FAR_M, picture, rays, trace
from datool.data.synthetic.scenes import AWAY_M, FAMILY_SHARES, Scene
from datool.errors import DatoolError

SIZE = (48, 64)
CAMERA = torch.tensor([[60.0, 60.0, 32.0, 24.0]])


def one_shape(shape: str, centre: list[float], half: list[float], axes: Tensor | None = None) -> Scene:
    """A scene of one shape in camera axes; "plane" looks at the camera along its third axis."""
    counts = {"box": (1, 0, 0), "ellipsoid": (0, 1, 0), "cylinder": (0, 0, 1), "plane": (0, 0, 0)}[shape]
    eye = torch.eye(3) if axes is None else axes
    facing = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # normal to the camera
    planes = NUM_PLANES - (shape == "plane")
    rows = sum(counts) + NUM_PLANES
    return Scene(
        centre_bp3=torch.cat([torch.tensor([centre]), torch.tensor([[0, 0, 1e9]]).expand(planes, 3)])[None],
        axes_bp33=torch.cat([eye[None], facing.expand(planes, 3, 3)])[None],
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


def test_an_image_does_not_know_its_neighbours() -> None:
    for family in (None, *FAMILY_SHARES):
        together, alone = render(4, [3, 5, 8, 11], *SIZE, family=family), render(4, [5], *SIZE, family=family)
        assert torch.equal(together.image_b3hw[1], alone.image_b3hw[0])
        assert torch.equal(together.depth_bhw[1], alone.depth_bhw[0])
        assert torch.equal(together.camera_b4[1], alone.camera_b4[0])


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


@pytest.mark.parametrize("family", list(FAMILY_SHARES))
def test_a_family_is_what_it_says(family: str) -> None:
    made = render(9, range(24), *SIZE, family=family)
    depth, image = made.depth_bhw, made.image_b3hw
    assert made.image_b3hw.dtype == torch.uint8 and depth.dtype == torch.float32
    assert (depth > 0).all() and not depth.isnan().any()
    sky = depth.isinf().flatten(1).float().mean(1)
    assert (sky == 0).all() if family != "outdoor" else (sky > 0.02).float().mean() > 0.5
    disparity = (1 / depth).flatten(1)
    spread = disparity.quantile(0.98, 1) / disparity.quantile(0.02, 1).clamp_min(1e-4)
    assert (spread > 1.02).all() and spread.median() > 1.5
    values = image.flatten(1).float()
    assert (values.std(1) > 4).all() and values.std(1).median() > 20
    assert (values.mean(1) > 20).all() and (values.mean(1) < 240).all()
    fov = 2 * (SIZE[1] / 2 / made.camera_b4[:, 0]).atan() * 180 / math.pi
    assert (fov > 29.9).all() and (fov < 90.1).all()
    assert torch.equal(made.camera_b4[:, 0], made.camera_b4[:, 1])


def test_the_floor_of_a_room_is_flat_in_space() -> None:
    """Back-projected by the returned camera, the largest surface of each picture lies in a plane."""
    made = render(5, range(12), *SIZE, family="indoor")
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
