"""Rows of houses with relief: doors, shop fronts and awnings, balconies, cornices, roofs, chimneys."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws, colour, material
from datool.render.props import Stage, away, point, turn

BALCONIES = 4


def coat_of_houses(draws: Draws, n: int) -> Tensor:
    """Return (B, n, K) materials of walls, most with windows."""
    kinds = ("windows", "windows", "windows", "windows", "bricks", "plain", "planks")
    coat = material(draws, n, kinds, ("glass", "glass", "dark", "stone", "brick"))
    walls = colour(draws, n, ("stone", "brick", "pale", "wall"))
    windowed = (coat[..., 15:16] > 0.2).to(coat.dtype)
    plain = torch.cat([walls, walls * 0.7, walls], -1)
    behind = torch.cat([coat[..., :6], walls], -1)
    return torch.cat([windowed * behind + (1 - windowed) * plain, coat[..., 9:]], -1)


def facades(
    stage: Stage, eye: Tensor, side: int, x: Tensor, width: Tensor, front: Tensor, base: Tensor, present: Tensor
) -> None:
    """Add n houses on one side of a road along x.

    Args:
        side: 1 or -1, of the road.
        x, width: (B, n) middle and half width along the road.
        front: (B, n) distance of the fronts from the road's middle.
        base: (B, n) height of the ground there.
        present: (B, n) which are there.
    """
    draws, n = stage.draws, x.shape[1]
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    storey = draws.uniform(1, 2.8, 3.8)
    tall = storey * (1 + draws.pick(1, 3) + draws.pick(n, 5)) + draws.uniform(n, 0, 1.0)
    low = draws.chance(1, 0.3)  # a suburb
    tall = torch.where(low, storey * (1 + draws.pick(n, 2)), tall)
    deep = draws.uniform(n, 4, 8)
    centre, half = point(x, side * (front + deep), base + tall / 2), point(width, deep, tall / 2)
    there = present & (away(eye, centre, zero, half) > 1.0)
    walls = coat_of_houses(draws, n)
    stage.put("box", centre, half, turn(zero), walls, there, mark="house")
    at = lambda along, out, up: point(x + along, side * (front - out), base + up)  # noqa: E731
    wood, metal, bright = (
        material(draws, n, ("plain", kind), palettes)
        for kind, palettes in (
            ("wood", ("wood", "dark", "any", "white")),
            ("plain", ("grey", "dark", "white")),
            ("stripes", ("vivid", "any", "white")),
        )
    )
    door = draws.uniform(n, -0.7, 0.7) * width
    stage.put("box", at(door, -0.05, 1.1), point(0.5 * one, 0.12 * one, 1.1 * one), turn(zero), wood, there)
    stage.put("box", at(door, 0.3, 0.1), point(0.8 * one, 0.4 * one, 0.1 * one), turn(zero), metal, there)
    shop = there & ~low & draws.chance(n, 0.5)
    glass = material(draws, n, ("tiles", "plain", "print"), ("glass", "dark", "any"))
    wide = width * draws.uniform(n, 0.5, 0.9)
    stage.put("box", at(zero, 0.0, 1.5), point(wide, 0.06 * one, 1.1 * one), turn(zero), glass, shop)
    awning, drop = draws.uniform(n, 0.5, 1.2), draws.uniform(n, 0.1, 0.5)
    axes = turn(zero, -side * drop)
    stage.put("box", at(zero, awning, 2.9), point(wide, awning, 0.03 * one), axes, bright, shop & draws.chance(n, 0.6))
    sign = point(0.04 * one, draws.uniform(n, 0.25, 0.5), draws.uniform(n, 0.2, 0.6))
    stage.put("box", at(wide * 0.9, 0.5, 3.2), sign, turn(zero), bright, shop & draws.chance(n, 0.5))
    railed = there & draws.chance(n, 0.5) & (tall > 1.8 * storey)
    column, out = draws.uniform(n, -0.6, 0.6) * width, draws.uniform(n, 0.4, 0.8)
    reach = draws.uniform(n, 0.8, 2.2).minimum(0.4 * width)
    for floor in range(1, 1 + BALCONIES):
        stands = railed & (storey * (floor + 0.9) < tall)
        up = storey * floor + zero
        stage.put("box", at(column, out, up), point(reach, out, 0.07 * one), turn(zero), walls, stands)
        rail = at(column, 2 * out - 0.04, up + 0.55)
        stage.put("box", rail, point(reach, 0.03 * one, 0.5 * one), turn(zero), metal, stands)
    stage.put("box", at(zero, 0.1, tall), point(width * 1.01, 0.35 * one, 0.2 * one), turn(zero), metal, there)
    # a roof is a box on its edge, a little sunk
    pitched = there & (low | draws.chance(n, 0.35))
    tiles = material(draws, n, ("tiles", "bricks", "stripes", "plain"), ("brick", "dark", "stone"))
    across = deep * 0.75
    roof = point(width * 1.02, across, across)
    axes = turn(zero, math.pi / 4)
    ridge = point(x, side * (front + deep), base + tall - 0.25 * across)
    stage.put("box", ridge, roof, axes, tiles, pitched)
    chimney = point(x + 0.5 * width, side * (front + 0.6 * deep), base + tall + 0.6 * deep)
    stage.put("box", chimney, point(0.4 * one, 0.4 * one, 1.2 * one), turn(zero), walls, pitched & draws.chance(n, 0.6))


def hedges(stage: Stage, side: int, x: Tensor, width: Tensor, front: Tensor, present: Tensor) -> None:
    """Add low walls, hedges or picket fences in a row along a road, each ``width`` (B, n) to both ways."""
    draws, n = stage.draws, x.shape[1]
    tall, thick = draws.log_uniform(n, 0.3, 1.1), draws.uniform(n, 0.08, 0.4)
    coat = material(
        draws, n, ("leaves", "leaves", "bricks", "stripes", "plain"), ("green", "green", "brick", "stone", "white")
    )
    centre = point(x, side * front, tall)
    stage.put("box", centre, point(width, thick, tall), turn(torch.zeros_like(x)), coat, present)
