"""Roads seen from a car: town, suburb or open country, with parked and moving traffic, trees, poles and people."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from datool.render.draws import Draws, material
from datool.render.facades import facades, hedges
from datool.render.figures import beasts, persons
from datool.render.limbs import limb
from datool.render.props import Stage, away, point, trees, turn
from datool.render.vehicles import bicycles, vehicles
from datool.render.views import View, daylight, ground


class Road(NamedTuple):
    """Half the road's width, the pavement's and the kerb's height, m; and whether fields lie beside it."""

    half_b1: Tensor
    walk_b1: Tensor
    kerb_b1: Tensor
    rural_b1: Tensor
    eye_b3: Tensor


def road(draws: Draws) -> tuple[Stage, View]:
    """Return a road along x, the camera at a driver's or a walker's height and looking along it."""
    stage = Stage(draws)
    rural, wide = draws.chance(1, 0.3), draws.chance(1, 0.25)
    half = torch.where(wide, draws.uniform(1, 6, 11), draws.uniform(1, 2.6, 5.5))
    walk = draws.uniform(1, 1.2, 5.0)
    zero = torch.zeros_like(half)
    walks = draws.chance(1, 0.15)
    eye_y = torch.where(walks, draws.sign(1) * (half + 0.5 * walk), -half * draws.uniform(1, 0.05, 0.7))
    eye_z = draws.uniform(1, 1.2, 1.8)
    kerb = draws.uniform(1, 0.06, 0.16) * ~rural
    eye = torch.cat([zero, eye_y, torch.where(walks, eye_z + kerb, eye_z)], -1)
    yaw = torch.where(draws.chance(1, 0.8), draws.normal(1, 0, 0.06), draws.uniform(1, -0.7, 0.7))
    field = material(draws, 1, ("grass", "grass", "mottled", "stripes", "speckle"), ("green", "green", "dry", "stone"))
    ground(stage, field[:, 0])
    stage.kerb_b1 = half
    along = Road(half, walk, kerb, rural, eye)
    _surface(stage, along)
    _sides(stage, along)
    _traffic(stage, along)
    _rows(stage, along)
    _walkers(stage, along)
    return stage, View(eye, yaw, draws.normal(1, -0.03, 0.05), draws.normal(1, 0, 0.015), **daylight(draws))


def _surface(stage: Stage, along: Road) -> None:
    """Add the tarmac, its lines, a crossing, patches, and the pavements."""
    draws, (half, walk, kerb, rural, _) = stage.draws, along
    zero, yes = torch.zeros_like(half), torch.ones_like(rural)
    tar = material(draws, 1, ("asphalt", "asphalt", "asphalt", "mottled", "bricks"), ("road", "road", "road", "stone"))
    thin = zero + 0.005
    stage.put("box", point(zero + 150, zero, zero), point(zero + 220, half, thin), turn(zero), tar, yes)
    n = 5  # an edge line each, a middle line, two lines of lanes
    y = torch.cat([zero, 0.94 * half, -0.94 * half, 0.5 * half, -0.5 * half], -1)
    paint = material(draws, 1, ("dashes",), ("white",)).expand(-1, n, -1)
    paint = torch.cat([tar[..., :3].expand(-1, n, -1), paint[..., 3:]], -1)
    solid = torch.arange(n, device=y.device) % 5
    solid = (solid == 1) | (solid == 2)
    paint = torch.where(solid[:, None], torch.cat([paint[..., 3:6], paint[..., 3:]], -1), paint)
    there = draws.chance(n, 0.65) & torch.cat([yes, yes, yes, half > 5, half > 5], 1)
    line = point(0 * y + 220, 0 * y + 0.07, 0 * y + 0.009)
    stage.put("box", point(0 * y + 150, y, 0 * y), line, turn(0 * y), paint, there)
    stripes = material(draws, 1, ("stripes",), ("white",))
    stripes = torch.cat([tar[..., :3], stripes[..., 3:]], -1)
    far = draws.log_uniform(1, 5, 40)
    axes, across = turn(zero + math.pi / 2), point(half * 0.9, zero + 1.5, zero + 0.011)
    stage.put("box", point(far, zero, zero), across, axes, stripes, draws.chance(1, 0.25) & ~rural)
    n = 4
    patch = material(draws, n, ("asphalt", "mottled", "speckle"), ("road", "dark"))
    x, y = draws.log_uniform(n, 3, 40), draws.uniform(n, -0.8, 0.8) * half
    size = point(draws.log_uniform(n, 0.3, 4), draws.log_uniform(n, 0.2, 1.0), 0 * x + 0.008)
    stage.put("box", point(x, y, 0 * x), size, turn(0 * x), patch, draws.chance(n, 0.5))
    paving = material(draws, 1, ("tiles", "tiles", "speckle", "mottled", "bricks", "grass"), ("stone", "road", "pale"))
    edge = material(draws, 1, ("plain", "stripes"), ("stone", "white", "grey"))
    for side in (-1, 1):
        paved = ~rural & draws.chance(1, 0.9)
        slab = point(zero + 220, walk / 2 + 3, kerb.clamp_min(0.01))
        stage.put("box", point(zero + 150, side * (half + walk / 2 + 3), zero), slab, turn(zero), paving, paved)
        stone = point(zero + 220, zero + 0.07, kerb.clamp_min(0.01) + 0.006)
        stage.put("box", point(zero + 150, side * (half + 0.07), zero), stone, turn(zero), edge, paved)


def _sides(stage: Stage, along: Road) -> None:
    """Add what stands beside: rows of houses that recede, or fields with a house, hedges and hills."""
    draws, (half, walk, kerb, rural, eye) = stage.draws, along
    for side in (-1, 1):
        n = 9
        width = draws.uniform(n, 3.5, 9.0) * draws.uniform(1, 0.8, 1.6)
        gap = torch.where(draws.chance(1, 0.5), 0.0, draws.uniform(n, 0, 6.0))
        gap = torch.where(draws.chance(n, 0.1), 9.0, gap)  # a side street
        x = torch.cumsum(2 * width + gap, 1) - width - draws.uniform(1, 4, 20)
        back = torch.where(draws.chance(1, 0.35), draws.uniform(1, 2, 14), 0.0)
        front = half + walk + back + draws.uniform(n, 0, 0.8)
        town = torch.where(rural, draws.chance(n, 0.12), draws.chance(n, 0.92) & draws.chance(1, 0.9))
        front = torch.where(rural, front + draws.uniform(n, 4, 40), front)
        facades(stage, eye, side, x, width, front, 0 * x + kerb, town)
        n = 6
        length = draws.uniform(n, 3, 9)
        x = torch.cumsum(2 * length + draws.uniform(n, 0, 3), 1) - length
        there = draws.chance(n, 0.7) & draws.chance(1, 0.4) & ((back > 0) | rural)
        hedges(stage, side, x, length, half + walk.clamp_max(2.5) + 0.5 + 0 * x, there)
    n = 4  # hills, woods far off
    x, angle = draws.log_uniform(n, 150, 1500), draws.uniform(n, -0.9, 0.9)
    hill = point(x * draws.uniform(n, 0.2, 0.6), x * draws.uniform(n, 0.3, 1.0), x * draws.uniform(n, 0.03, 0.2))
    coat = material(draws, n, ("grass", "leaves", "mottled"), ("green", "dry", "stone"), 0.05)
    centre = point(x * 1.8 * angle.cos(), x * 1.8 * angle.sin(), -0.1 * hill[..., 2])
    stage.put("ellipsoid", centre, hill, turn(angle), coat, draws.chance(n, 0.5))


def _traffic(stage: Stage, along: Road) -> None:
    """Add a row of parked cars a side, cars that drive, and bicycles."""
    draws, (half, _, _, rural, eye) = stage.draws, along
    n = 7
    x = torch.arange(n, device=half.device) * draws.uniform(1, 5.5, 7.0) + draws.uniform(n, -0.3, 0.3)
    for side in (-1, 1):
        on_walk = torch.where(draws.chance(1, 0.3), 1.9, 0.0)
        y = side * (half - 1.0 + on_walk + 0 * x)
        skewed = torch.where(draws.chance(1, 0.12), math.pi / 2, 0.0)
        yaw = draws.normal(n, 0, 0.03) + torch.where(draws.chance(n, 0.5), math.pi, 0.0) + skewed
        there = draws.chance(n, 0.75) & draws.chance(1, 0.6) & ~rural
        vehicles(stage, eye, torch.stack([x + draws.uniform(1, -3, 6), y], -1), yaw, there, small=True)
    n = 5
    x, lane = draws.log_uniform(n, 6, 120), draws.sign(n)
    own = torch.where(draws.chance(n, 0.7), draws.normal(n, 0, 0.02), draws.normal(n, 0, 0.02))
    yaw = torch.where(lane < 0, 0.0, math.pi) + own
    yaw = yaw + torch.where(draws.chance(n, 0.08), math.pi / 2, 0.0)
    y = lane * half * draws.uniform(n, 0.25, 0.5) + draws.normal(n, 0, 0.2)
    vehicles(stage, eye, torch.stack([x, y], -1), yaw, draws.chance(n, 0.65), clearance=2.0)
    n = 2
    x, y = draws.log_uniform(n, 3, 25), draws.sign(n) * (half + draws.uniform(n, -0.8, 0.6))
    riding = draws.chance(n, 0.5)
    xy, yaw, there = torch.stack([x, y], -1), draws.normal(n, 0, 0.15), draws.chance(n, 0.35)
    bicycles(stage, eye, xy, yaw, there)
    persons(stage, eye, xy, 0 * x + 0.35, yaw, draws.uniform(n, 1.5, 1.85), riding, there & riding)


def _rows(stage: Stage, along: Road) -> None:
    """Add rows of trees and of lamp posts, posts with signs, bollards and bins."""
    draws, (half, _, kerb, rural, eye) = stage.draws, along
    for side in (-1, 1):
        n = 5
        row = draws.chance(1, 0.4)
        step = torch.arange(n, device=half.device) * draws.uniform(1, 6, 14) + draws.uniform(1, 1, 10)
        x = torch.where(row, step + draws.normal(n, 0, 0.4), draws.log_uniform(n, 4, 70))
        out = torch.where(row, draws.uniform(1, 0.5, 1.2), draws.uniform(n, 0.4, 1.2))
        out = out + torch.where(rural & ~row, draws.log_uniform(n, 0.5, 40), 0.0)
        y = side * (half + out)
        tall = draws.log_uniform(1, 4, 12) * draws.uniform(n, 0.8, 1.25)
        trees(stage, eye, torch.stack([x, y], -1), kerb + 0 * x, tall, draws.chance(n, 0.8) & draws.chance(1, 0.65))
        n = 4
        x = torch.arange(n, device=half.device) * draws.uniform(1, 14, 28) + draws.uniform(1, 4, 20)
        y, top = side * (half + 0.5) + 0 * x, draws.uniform(1, 4, 8.5) + 0 * x
        coat, there = (
            material(draws, 1, ("plain",), ("grey", "dark")).expand(-1, n, -1),
            draws.chance(1, 0.5).expand(-1, n),
        )
        foot, head = point(x, y, 0 * x), point(x, y, top)
        there = there & (away(eye, (foot + head) / 2, 0 * x, point(0 * x, 0 * x, top / 2)) > 0.8)
        reach = side * draws.uniform(1, 0.4, 2.0)
        tip = point(x, y - reach, top + 0.2)
        limb(stage, foot, head, 0 * x + draws.uniform(1, 0.05, 0.1), coat, there, "cylinder")
        limb(stage, head, tip, 0 * x + 0.04, coat, there, "cylinder")
        lamp = material(draws, n, ("plain",), ("white", "pale"))
        stage.put("ellipsoid", tip, point(0 * x + 0.15, 0 * x + 0.3, 0 * x + 0.1), turn(0 * x), lamp, there)
    n = 6
    x, y = draws.log_uniform(n, 2.5, 45), draws.sign(n) * (half + draws.uniform(n, 0.25, 0.7))
    top, thin = draws.uniform(n, 2.0, 3.4), draws.uniform(n, 0.025, 0.06)
    grey = material(draws, n, ("plain", "stripes"), ("grey", "dark", "vivid"))
    there = draws.chance(n, 0.55) & (away(eye, point(x, y, top / 2), 0 * x, point(thin, thin, top / 2)) > 0.8)
    limb(stage, point(x, y, 0 * x), point(x, y, top), thin, grey, there, "cylinder")
    board = material(draws, n, ("print", "plain", "plain"), ("vivid", "white", "red"), 2.0)
    round_, size = draws.chance(n, 0.45), draws.uniform(n, 0.2, 0.42)
    thick, face = 0 * x + 0.015, point(x - thin - 0.02, y, top - size)
    stage.put("cylinder", face, point(size, size, thick), turn(0 * x + math.pi / 2, math.pi / 2), board, there & round_)
    wide = size * draws.uniform(n, 0.8, 2.5)
    stage.put("box", face, point(thick, wide, size), turn(draws.normal(n, 0, 0.15)), board, there & ~round_)
    n = 6
    x, y = draws.log_uniform(n, 2, 25), draws.sign(n) * (half + draws.uniform(n, 0.2, 1.5))
    top, thick = draws.log_uniform(n, 0.5, 1.3), draws.uniform(n, 0.06, 0.35)
    coat = material(draws, n, ("plain", "stripes", "plain"), ("grey", "dark", "vivid", "green"))
    there = draws.chance(n, 0.4) & (away(eye, point(x, y, top / 2), 0 * x, point(thick, thick, top / 2)) > 0.8)
    stage.put("cylinder", point(x, y, top / 2), point(thick, thick, top / 2), turn(0 * x), coat, there)


def _walkers(stage: Stage, along: Road) -> None:
    """Add people on the pavements and crossing, most of them along the road, and an animal or a herd."""
    draws, (half, walk, kerb, rural, eye) = stage.draws, along
    n = 7
    x = draws.log_uniform(n, 2.5, 40)
    crossing = draws.chance(n, 0.12)
    y = torch.where(
        crossing, draws.uniform(n, -1, 1) * half, draws.sign(n) * (half + draws.uniform(n, 0.3, 1.0) * walk)
    )
    yaw = torch.where(draws.chance(n, 0.5), 0.0, math.pi) + draws.normal(n, 0, 0.3) + 1.57 * crossing
    floor = torch.where(crossing, 0.0, kerb)
    there = draws.chance(n, 0.5) & draws.chance(1, 0.75) & (~rural | draws.chance(n, 0.2))
    tall = torch.where(draws.chance(n, 0.15), draws.uniform(n, 1.0, 1.4), draws.uniform(n, 1.5, 1.95))
    persons(stage, eye, torch.stack([x, y], -1), floor, yaw, tall, torch.zeros_like(crossing), there)
    n = 3
    out = torch.where(rural, draws.log_uniform(n, 1, 15), draws.uniform(n, -0.5, 1.0))
    x, y = draws.log_uniform(n, 3, 25), draws.sign(n) * (half + out)
    size = torch.where(rural, draws.uniform(n, 0.8, 1.6), draws.uniform(n, 0.4, 0.8))
    there = draws.chance(n, 0.5) & draws.chance(1, 0.35)
    beasts(stage, eye, torch.stack([x, y], -1), kerb + 0 * x, draws.uniform(n, 0, 6.28), size, there)
