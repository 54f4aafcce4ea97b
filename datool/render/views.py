"""Where a camera stands, the light it sees by, and the planes that close a scene; world axes (z up)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from datool.render.draws import Draws, colour, material
from datool.render.props import NUM_PLANES, Stage, turn


class View(NamedTuple):
    """Where the camera stands and looks, and the light: what a layout hands on beside its shapes, world axes."""

    eye_b3: Tensor
    yaw_b1: Tensor
    pitch_b1: Tensor
    roll_b1: Tensor
    light_b4: Tensor
    light_colour_b3: Tensor
    ambient_b3: Tensor
    haze_b3: Tensor
    fog_b1: Tensor
    sky_b1k: Tensor
    lamp_bl6: Tensor | None = None  # position, colour of lights without shadow
    dim_b1: Tensor | float = 1.0  # exposure for the light there is
    focus_b1: Tensor | None = None  # how far the thing that the picture is about is, m, if it is about one


def tint(draws: Draws, warm: float, spread: float) -> Tensor:
    """Return (B, 3) light of mean near 1, ``warm`` > 0 yellow, < 0 blue."""
    warmth = draws.normal(1, warm, spread).clamp(-0.35, 0.45)
    return torch.cat([1 + warmth * 0.7, torch.ones_like(warmth), 1 - warmth * 0.9], -1)


def daylight(draws: Draws) -> dict[str, Tensor]:
    """Return sun, ambient light, haze, fog and sky for an outdoor view."""
    elevation, azimuth = draws.uniform(1, 0.2, 1.35), draws.uniform(1, 0, 2 * math.pi)
    flat = elevation.cos()
    sun = torch.cat([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin(), torch.zeros_like(flat)], -1)
    dull = draws.chance(1, 0.35)
    strength = torch.where(dull, draws.uniform(1, 0.0, 0.5), draws.uniform(1, 1.0, 2.6))
    haze = torch.where(dull, 0.75, 0.85) * (
        1 - draws.uniform(1, 0, 0.25) * draws.key_b1.new_tensor([[1.0, 0.5, 0.0]]).double()
    )
    fog = torch.where(draws.chance(1, 0.15), draws.log_uniform(1, 0.008, 0.06), draws.log_uniform(1, 0.0002, 0.004))
    sky = material(draws, 1, ("mottled",), ("sky",), scale=0.25)
    cloud = colour(draws, 1, ("cloud",))
    cover = torch.where(dull, draws.uniform(1, 0.7, 1.5), draws.uniform(1, 0.0, 1.1))[..., None]
    sky = torch.cat([sky[..., :3], cloud, cloud, cover, sky[..., 10:]], -1)
    return {
        "light_b4": sun,
        "light_colour_b3": strength * tint(draws, 0.1, 0.08),
        "ambient_b3": draws.uniform(1, 0.25, 0.6) * tint(draws, -0.08, 0.06),
        "haze_b3": haze.expand(-1, 3),
        "fog_b1": fog,
        "sky_b1k": sky,
    }


def lamplight(draws: Draws, lamp_b3: Tensor) -> dict[str, Tensor]:
    """Return a lamp's light for a room."""
    return {
        "light_b4": torch.cat([lamp_b3, torch.ones_like(lamp_b3[:, :1])], -1),
        "light_colour_b3": draws.uniform(1, 0.4, 2.2) * tint(draws, 0.1, 0.15),
        "ambient_b3": draws.uniform(1, 0.2, 0.7) * tint(draws, 0.03, 0.1),
        "haze_b3": torch.full_like(lamp_b3, 0.7),
        "fog_b1": draws.log_uniform(1, 0.0003, 0.004),
        "sky_b1k": material(draws, 1, ("plain",), ("white",)),
    }


def room(stage: Stage, low_b3: Tensor, high_b3: Tensor, floor_scale: float = 1.0) -> None:
    """Add floor, ceiling and four walls, seen from inside."""
    draws, stage.room = stage.draws, (low_b3, high_b3)
    floor_kinds = ("planks", "planks", "tiles", "mottled", "speckle", "checker", "wood", "plain")
    floor = material(draws, 1, floor_kinds, ("wood", "wood", "stone", "any", "grey"), floor_scale)
    wall = material(
        draws, 2, ("plain", "plain", "plain", "mottled", "bricks", "stripes", "tiles", "print"), ("wall", "pale")
    )
    ceiling = material(draws, 1, ("plain", "plain", "tiles", "planks"), ("white", "pale"))
    same = draws.chance(1, 0.7)[..., None]
    wall = torch.cat([wall[:, :1], torch.where(same, wall[:, :1], wall[:, 1:])], 1)
    middle = (low_b3 + high_b3) / 2
    eye = torch.eye(3, dtype=torch.float64, device=low_b3.device)
    for side, (axis, at, coat) in enumerate(
        [(2, low_b3, floor[:, 0]), (2, high_b3, ceiling[:, 0])]
        + [(axis, at, wall[:, axis]) for axis in (0, 1) for at in (low_b3, high_b3)]
    ):
        sign = 1.0 if side % 2 == 0 else -1.0
        centre = middle.clone()
        centre[:, axis] = at[:, axis]
        normal = eye[axis] * sign
        tangent = eye[1 - axis] if axis < 2 else eye[0]
        axes = torch.stack([tangent, torch.linalg.cross(normal, tangent), normal])
        stage.plane(centre, axes.expand(len(middle), 3, 3), coat)


def ground(stage: Stage, coat_bk: Tensor, slope_b1: Tensor | None = None) -> None:
    """Add the ground and five planes out of sight."""
    b, device = len(coat_bk), coat_bk.device
    zero = torch.zeros(b, 3, dtype=torch.float64, device=device)
    flat = torch.zeros(b, dtype=torch.float64, device=device)
    stage.plane(
        zero,
        turn(flat if slope_b1 is None else slope_b1[:, 0] * 20, 0.0 if slope_b1 is None else slope_b1[:, 0]),
        coat_bk,
    )
    for _ in range(NUM_PLANES - 1):
        below = zero.clone()
        below[:, 2] = -1e9
        stage.plane(below, turn(flat), coat_bk)


def walls(draws: Draws, n: int) -> tuple[Tensor, Tensor]:
    """Return which wall (+x, -x, +y, -y; seldom the one behind the camera) and where along it in [-1, 1]."""
    choice = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3], device=draws.key_b1.device)
    wall = choice[draws.pick(n, len(choice))]
    return wall, draws.uniform(n, torch.where(wall < 2, -0.9, -0.3).double(), 0.95)
