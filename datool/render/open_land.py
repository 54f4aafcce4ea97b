"""Open land: hills, trees, bushes, rocks, a house, a fence; often an animal close by."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws, material
from datool.render.props import Stage, away, point, subject, things, trees, turn
from datool.render.views import View, daylight, ground


def landscape(draws: Draws) -> tuple[Stage, View]:
    """Return open land with hills on the horizon."""
    stage = Stage(draws)
    zero = torch.zeros_like(draws.key_b1, dtype=torch.float64)
    eye = torch.cat(
        [zero, zero, torch.where(draws.chance(1, 0.2), draws.log_uniform(1, 2.5, 15), draws.uniform(1, 0.4, 1.9))], -1
    )
    kinds = ("grass", "grass", "mottled", "asphalt", "speckle", "tiles")
    ground(stage, material(draws, 1, kinds, ("green", "green", "dry", "stone", "road"))[:, 0], draws.normal(1, 0, 0.03))
    close = draws.chance(1, 0.55)  # an animal before the camera
    far = draws.log_uniform(1, 0.8, 6.0)
    fov_share = draws.uniform(1, 0.35, 1.0)
    length = (far * fov_share).clamp(0.25, 2.2)
    down = torch.atan2(eye[:, 2:] - 0.5 * length, far)
    pitch = torch.where(close, -down + draws.normal(1, 0.03, 0.06), draws.normal(1, -0.06, 0.1))
    aside = draws.normal(1, 0, 0.15)
    xy = torch.cat([far * aside.cos() + 0.4 * length, far * aside.sin()], -1)
    subject(stage, eye, xy, zero[:, 0], length[:, 0], close[:, 0])
    n = 3  # hills on the horizon
    x, angle = draws.log_uniform(n, 80, 900), draws.uniform(n, -0.9, 0.9)
    half = point(x * draws.uniform(n, 0.2, 0.8), x * draws.uniform(n, 0.3, 1.2), x * draws.uniform(n, 0.03, 0.25))
    coat = material(draws, n, ("grass", "leaves", "mottled"), ("green", "dry", "stone"), 0.05)
    centre = point(x * 1.9 * angle.cos(), x * 1.9 * angle.sin(), -0.1 * half[..., 2])
    stage.put("ellipsoid", centre, half, turn(angle), coat, draws.chance(n, 0.6))
    n = 4
    x, angle = draws.log_uniform(n, 5, 80), draws.uniform(n, -0.8, 0.8)
    spread = torch.stack([x * angle.cos(), x * angle.sin()], -1)
    trees(stage, eye, spread, 0 * x, draws.log_uniform(n, 2.5, 14), draws.chance(n, 0.7))
    n = 5  # bushes and rocks
    x, angle = draws.log_uniform(n, 2.5, 40), draws.uniform(n, -0.8, 0.8)
    size = draws.log_uniform(n, 0.08, 0.35) * x.clamp_max(8)
    half = size[..., None] * point(draws.uniform(n, 0.6, 1.4), draws.uniform(n, 0.6, 1.4), draws.uniform(n, 0.4, 1.1))
    coat = material(draws, n, ("leaves", "leaves", "mottled", "speckle"), ("green", "green", "stone", "dry"), 2.0)
    centre = point(x * angle.cos(), x * angle.sin(), half[..., 2] * 0.7)
    stage.put(
        "ellipsoid",
        centre,
        half,
        turn(draws.uniform(n, 0, 6.28)),
        coat,
        draws.chance(n, 0.7) & (away(eye, centre, 0 * x, half) > 1),
        mark="bush",
    )
    for shape, count in (("box", 4), ("cylinder", 3)):  # stumps, boxes, stones
        x, angle = draws.log_uniform(count, 1.2, 20), draws.uniform(count, -0.6, 0.6)
        size = draws.log_uniform(count, 0.05, 0.3) * x.clamp_max(5)
        things(
            stage,
            shape,
            point(x * angle.cos(), x * angle.sin(), 0 * x),
            size,
            eye,
            0 * x + 0.5,
            draws.chance(count, 0.4),
        )
    _houses(stage, eye)
    _rail_fence(stage, close, far, length)
    return stage, View(eye, zero, pitch, draws.normal(1, 0, 0.03), **daylight(draws))


def _houses(stage: Stage, eye: Tensor) -> None:
    """Add two houses; the roof is a box on its edge."""
    draws, n = stage.draws, 2
    x, angle = draws.log_uniform(n, 10, 70), draws.uniform(n, -0.7, 0.7)
    yaw, half = (
        draws.uniform(n, 0, 6.28),
        point(draws.uniform(n, 3, 7), draws.uniform(n, 2.5, 4), draws.uniform(n, 1.3, 3)),
    )
    xy = torch.stack([x * angle.cos(), x * angle.sin()], -1)
    coat = material(draws, n, ("windows", "bricks", "planks", "plain"), ("brick", "pale", "wall", "wood"))
    centre = point(xy[..., 0], xy[..., 1], half[..., 2])
    there = draws.chance(n, 0.45) & (away(eye, centre, yaw, half) > 4)
    stage.put("box", centre, half, turn(yaw), coat, there, mark="house")
    roof = point(half[..., 0] * 1.03, half[..., 1] * 0.76, half[..., 1] * 0.76)
    tiles = material(draws, n, ("tiles", "bricks", "stripes", "plain"), ("brick", "dark", "stone"))
    stage.put("box", centre + point(0 * x, 0 * x, half[..., 2]), roof, turn(yaw, math.pi / 4), tiles, there)


def _rail_fence(stage: Stage, close: Tensor, far: Tensor, length: Tensor) -> None:
    """Add a fence of eight posts and two rails, behind the animal if there is one."""
    draws, zero = stage.draws, torch.zeros_like(far)
    n, away_m, bend = 8, draws.log_uniform(1, 3, 20), draws.normal(1, 0, 0.4)
    gap = draws.uniform(1, 0.8, 2.5)
    along = (torch.arange(n, device=zero.device) - (n - 1) / 2) * gap
    post = stage.where(
        torch.stack([away_m, zero], -1).expand(-1, n, -1),
        (bend + math.pi / 2).expand(-1, n),
        point(along, 0 * along, 0 * along + 0.55),
    )
    fenced = draws.chance(1, 0.3) & (away_m > 0.8 * length + far * close)
    wood = material(draws, 1, ("wood", "plain"), ("wood", "white", "grey"))
    thin = draws.uniform(1, 0.03, 0.07)
    stage.put(
        "cylinder",
        post,
        point(thin, thin, zero + 0.6).expand(-1, n, -1),
        turn(zero.expand(-1, n)),
        wood.expand(-1, n, -1),
        fenced.expand(-1, n),
    )
    rail = point(away_m, zero, zero).expand(-1, 2, -1) + zero.new_tensor([[0, 0, 0.55], [0, 0, 0.95]])
    stage.put(
        "box",
        rail,
        point(gap * 3.5, 0.4 * thin, zero + 0.05).expand(-1, 2, -1),
        turn((bend + math.pi / 2).expand(-1, 2)),
        wood.expand(-1, 2, -1),
        fenced.expand(-1, 2),
    )
