"""Streets along x: houses, kerbs, cars, poles, trees, people, cables."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from datool.render.draws import Draws, colour, material
from datool.render.props import Stage, away, people, point, trees, turn
from datool.render.views import View, daylight, ground


class Street(NamedTuple):
    """Half the road's width, the pavement's width, and how near to the camera houses may stand, m."""

    road_b1: Tensor
    walk_b1: Tensor
    eye_b3: Tensor
    clearance_b1: Tensor


def street(draws: Draws) -> tuple[Stage, View]:
    """Return a street seen from the road or the pavement, now and then from above."""
    stage = Stage(draws)
    road, walk = draws.uniform(1, 2.6, 7.5), draws.uniform(1, 1.2, 5.0)
    zero = torch.zeros_like(road)
    eye_y = draws.uniform(1, -0.9, 0.9) * (road + torch.where(draws.chance(1, 0.35), walk * 0.9, zero))
    eye_z = torch.where(draws.chance(1, 0.12), draws.uniform(1, 2.5, 6), draws.normal(1, 1.55, 0.2))
    eye = torch.cat([zero, eye_y, eye_z], -1)
    yaw = torch.where(draws.chance(1, 0.7), draws.normal(1, 0, 0.1), draws.uniform(1, -1.1, 1.1))
    asphalt = material(draws, 1, ("asphalt", "asphalt", "mottled", "speckle", "bricks"), ("road", "road", "stone"))
    ground(stage, asphalt[:, 0])
    stage.kerb_b1 = road
    along = Street(road, walk, eye, draws.uniform(1, 0.8, 2.5))
    for side in (-1, 1):
        _houses(stage, along, side)
    _cars(stage, along)
    _poles(stage, along)
    _lane_marks(stage, along, asphalt)
    n = 4
    x, y = draws.log_uniform(n, 5, 50), draws.sign(n) * (road + draws.uniform(n, 0.4, 1.0) * walk)
    tall, there = draws.log_uniform(n, 2.5, 11), draws.chance(n, 0.6) & draws.chance(1, 0.8)
    trees(stage, eye, torch.stack([x, y], -1), 0 * x, tall, there)
    n = 3
    x, y = draws.log_uniform(n, 3, 30), draws.sign(n) * (road + draws.uniform(n, -0.6, 0.8) * walk)
    people(stage, eye, torch.stack([x, y], -1), 0 * x, draws.chance(n, 0.6))
    pitch = draws.normal(1, -0.04, 0.08)
    return stage, View(eye, yaw, pitch, draws.normal(1, 0, 0.015), **daylight(draws))


def _houses(stage: Stage, along: Street, side: int) -> None:
    """Add one side's pavement and its row of houses."""
    draws, (road, walk, eye, clearance) = stage.draws, along
    zero = torch.zeros_like(road)
    kerb = draws.uniform(1, 0.06, 0.09)
    centre, half = point(zero + 60, side * (road + 20), kerb), point(zero + 140, zero + 20, kerb)
    paving = material(draws, 1, ("tiles", "mottled", "speckle", "grass", "bricks"), ("stone", "road", "green"))
    there = (side * eye[:, 1:2] < road - 0.3) & draws.chance(1, 0.85)
    stage.put("box", centre, half, turn(zero), paving, there)
    n = 6
    width = draws.uniform(n, 3.5, 11.0)
    x = torch.cumsum(2 * width + draws.uniform(n, -0.5, 5.0), 1) - width - draws.uniform(1, 4, 14)
    deep, tall = draws.uniform(n, 4, 8), draws.log_uniform(n, 3.0, 26.0) / 2
    front = road + walk + draws.uniform(n, 0, 1.5) + torch.where(draws.chance(1, 0.3), draws.uniform(1, 2, 14), zero)
    kinds = ("windows", "windows", "windows", "bricks", "plain", "mottled", "planks")
    coat = material(draws, n, kinds, ("brick", "stone", "pale", "glass", "wall"))
    walls = colour(draws, n, ("stone", "brick", "pale", "wall"))
    coat = torch.cat([coat[..., :6], walls, coat[..., 9:]], -1)
    there = draws.chance(n, 0.85) & draws.chance(1, 0.85)
    centre, half, straight = point(x, side * (front + deep), tall), point(width, deep, tall), torch.zeros_like(x)
    there = there & (away(eye, centre, straight, half) > clearance)
    stage.put("box", centre, half, turn(straight), coat, there, mark="house")


def _cars(stage: Stage, along: Street) -> None:
    """Add cars: body, cabin, two axles with their wheels."""
    draws, road, n = stage.draws, along.road_b1, 4
    x, lane = draws.log_uniform(n, 4.5, 60), draws.sign(n)
    parked = draws.chance(n, 0.55)
    y = lane * torch.where(parked, road - 1.1, road * draws.uniform(n, 0.25, 0.5))
    long, wide, high = draws.uniform(n, 1.8, 2.5), draws.uniform(n, 0.78, 0.95), draws.uniform(n, 0.28, 0.5)
    yaw = draws.normal(n, 0, 0.04) + torch.where(draws.chance(n, 0.1), math.pi / 2, 0.0)
    xy = torch.stack([x, y], -1)
    bound = point(long, wide, high * 2.2)
    present = draws.chance(n, 0.7) & (away(along.eye_b3, point(x, y, high * 2), yaw, bound) > 1.5)
    paint = material(draws, n, ("plain",), ("vivid", "grey", "grey", "dark", "white"))
    glass = material(draws, n, ("plain", "tiles"), ("glass", "dark"))
    body = stage.where(xy, yaw, point(0 * x, 0 * x, 0.25 + high))
    stage.put("box", body, point(long, wide, high), turn(yaw), paint, present, mark="car")
    cabin = stage.where(xy, yaw, point(draws.uniform(n, -0.3, 0.1) * long, 0 * x, 0.25 + high * 2.6))
    half = point(long * draws.uniform(n, 0.4, 0.7), wide * 0.88, high * 0.7)
    coat = torch.where(draws.chance(n, 0.7)[..., None], glass, paint)
    stage.put("box", cabin, half, turn(yaw), coat, present, mark="cabin")
    tyre = material(draws, n, ("plain",), ("dark",))
    for end in (-1, 1):
        axle = stage.where(xy, yaw, point(end * 0.62 * long, 0 * x, 0 * x + 0.32))
        wheel = point(0 * x + 0.32, 0 * x + 0.32, wide + 0.02)
        stage.put("cylinder", axle, wheel, turn(yaw, math.pi / 2), tyre, present)


def _poles(stage: Stage, along: Street) -> None:
    """Add poles at the kerb with boards, and two straight wires along the road."""
    draws, road, n = stage.draws, along.road_b1, 5
    zero = torch.zeros_like(road)
    x, hand = draws.log_uniform(n, 3, 50), draws.sign(n)
    y, tall = hand * (road + draws.uniform(n, 0.3, 0.8)), draws.log_uniform(n, 1.0, 9.0)
    thin = draws.uniform(n, 0.03, 0.12)
    metal = material(draws, n, ("plain", "stripes"), ("grey", "dark", "wood"))
    centre, half = point(x, y, tall / 2), point(thin, thin, tall / 2)
    clear = draws.chance(n, 0.75) & (away(along.eye_b3, centre, 0 * x, half) > 0.8)
    stage.put("cylinder", centre, half, turn(0 * x, draws.normal(n, 0, 0.02)), metal, clear)
    board = point(0 * x + 0.03, draws.uniform(n, 0.15, 0.6), draws.uniform(n, 0.1, 0.5))
    coat = material(draws, n, ("plain", "print"), ("vivid", "white"))
    centre = point(x - thin, y, tall - board[..., 2])
    stage.put("box", centre, board, turn(0 * x), coat, clear & draws.chance(n, 0.5))
    wire = point(zero + 0.015, zero + 0.015, zero + 80).expand(-1, 2, -1)
    wire_y = torch.cat([road, -road], -1) * draws.uniform(2, 0.2, 1.2)
    centre = point(zero + 50, wire_y, draws.uniform(2, 5, 9))
    axes = turn(torch.full_like(wire_y, math.pi / 2) + draws.normal(2, 0, 0.08), math.pi / 2)
    stage.put("cylinder", centre, wire, axes, material(draws, 2, ("plain",), ("dark",)), draws.chance(2, 0.3))


def _lane_marks(stage: Stage, along: Street, asphalt_b1k: Tensor) -> None:
    """Add a dashed line in the middle of the road and one at each side."""
    draws, road, n = stage.draws, along.road_b1, 3
    y = torch.cat([torch.zeros_like(road), -road * 0.92, road * 0.92], -1)
    paint = material(draws, 1, ("dashes",), ("white",)).expand(-1, n, -1)
    paint = torch.cat([asphalt_b1k[..., :3].expand(-1, n, -1), paint[..., 3:]], -1)
    solid = torch.arange(n, device=y.device) > 0
    paint = torch.where(solid[:, None], torch.cat([paint[..., 3:6], paint[..., 3:]], -1), paint)
    half = point(0 * y + 140, 0 * y + 0.07, 0 * y + 0.004)
    stage.put("box", point(0 * y + 60, y, 0 * y), half, turn(0 * y), paint, draws.chance(n, 0.65))
