"""Tables seen from above with cups, plates, bottles, boxes and fruit; a room behind them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws, material
from datool.render.props import FURNITURE, OBJECT_PALETTES, Stage, furnish, point, things, turn
from datool.render.views import View, lamplight, room


def table_top(draws: Draws) -> tuple[Stage, View]:
    """Return a table, a jittered grid of things on it, and the room that it stands in."""
    stage = Stage(draws)
    zero = torch.zeros_like(draws.key_b1, dtype=torch.float64)
    steep = torch.where(draws.chance(1, 0.12), draws.uniform(1, 1.1, 1.45), draws.uniform(1, 0.2, 1.05))
    far = draws.log_uniform(1, 0.35, 1.3)  # from the camera to the point it looks at
    eye = torch.cat([-far * steep.cos(), zero, (far * steep.sin()).clamp_min(0.15)], -1)
    leg = draws.uniform(1, 0.4, 1.0)
    back, side, ahead = draws.uniform(1, 0.6, 2.5), draws.log_uniform(2, 0.7, 4.0), draws.log_uniform(1, 0.6, 4.0)
    half_x, half_y = draws.uniform(1, 0.3, 0.9), draws.uniform(1, 0.4, 1.2)
    ahead = ahead.maximum(0.05 + half_x)
    low = torch.cat([-far - back, -side[:, :1] - 0.3, -leg], -1)
    high = torch.cat([ahead, side[:, 1:] + 0.3, draws.uniform(1, 1.4, 2.2)], -1)
    room(stage, low, high)
    stage.on_table = True
    slab = draws.uniform(1, 0.01, 0.05)
    top = material(
        draws,
        1,
        ("wood", "wood", "plain", "mottled", "speckle", "checker", "print", "tiles"),
        ("wood", "wood", "pale", "any", "grey"),
        2.5,
    )
    reach = half_x.maximum(0.25 * far)
    stage.put(
        "box",
        point(reach - 0.25 * far, zero, -slab),
        point(reach, half_y, slab),
        turn(zero),
        top,
        torch.ones_like(zero, dtype=torch.bool),
    )
    cloth = point(draws.uniform(1, 0.1, 0.3), draws.uniform(1, 0.15, 0.4), zero + 0.002)
    print_ = material(draws, 1, ("print", "stripes", "checker", "plain"), OBJECT_PALETTES, 3.0)
    stage.put(
        "box",
        point(draws.normal(1, 0, 0.1), draws.normal(1, 0, 0.15), zero),
        cloth,
        turn(draws.normal(1, 0, 0.3)),
        print_,
        draws.chance(1, 0.4),
    )
    # a jittered grid keeps things apart
    pitch_m = (0.25 * far).clamp(0.08, 0.24)
    cell = draws.uniform(36).argsort(1)
    cx, cy = (cell // 6).double() - 2.3, (cell % 6).double() - 2.5
    x = (cx + draws.uniform(36, -0.35, 0.35)) * pitch_m * 1.15
    y = (cy + draws.uniform(36, -0.35, 0.35)) * pitch_m * (0.8 + 0.12 * (cx + 2.5))
    on_table = (x < 2 * reach - 0.25 * far - 0.03) & (y.abs() < half_y - 0.03) & (x > -0.25 * far)
    size = pitch_m * draws.log_uniform(36, 0.25, 1.0)
    crowd = draws.uniform(1, 0.3, 1.0)
    there = (draws.uniform(36) < crowd) & on_table
    spot, first = point(x, y, 0 * x), 0
    for shape, count in (("box", 12), ("ellipsoid", 10), ("cylinder", 14)):
        part = slice(first, first + count)
        first += count
        things(stage, shape, spot[:, part], size[:, part], eye, 0.35 * far, there[:, part])
    _bottles_and_pens(stage, reach, half_y, far)
    n = 2  # furniture behind
    kind = draws.pick(n, len(FURNITURE))
    x = high[:, :1] - draws.uniform(n, 0.3, 0.9)
    y = draws.uniform(n, -1, 1) * (side[:, :1] - 0.2)
    beyond = draws.chance(n, 0.6) & (x > 2 * reach - 0.25 * far + 0.5)
    furnish(stage, eye, torch.stack([x, y], -1), 0 * x - math.pi / 2, kind, -leg.expand(-1, n), zero + 0.5, beyond)
    lamp = torch.cat(
        [draws.uniform(1, -1.0, 0.8), draws.uniform(1, -1, 1) * side[:, :1], draws.uniform(1, 0.6, 1.3)], -1
    )
    view = View(
        eye,
        draws.normal(1, 0, 0.06),
        -steep + draws.normal(1, 0.02, 0.05),
        draws.normal(1, 0, 0.04),
        **lamplight(draws, lamp),
    )
    return stage, view


def _bottles_and_pens(stage: Stage, reach: Tensor, half_y: Tensor, far: Tensor) -> None:
    """Add bottles and jars, a neck on a body, and two pens that lie."""
    draws, n = stage.draws, 3
    x, y = draws.uniform(n, 0.0, 0.4), draws.uniform(n, -0.35, 0.35)
    radius, tall = draws.uniform(n, 0.025, 0.045), draws.uniform(n, 0.06, 0.12)
    coat = material(draws, n, ("plain", "print", "mottled"), OBJECT_PALETTES, 4.0)
    inside = draws.chance(n, 0.4) & (x < 2 * reach - 0.25 * far - 0.05) & (y.abs() < half_y - 0.05)
    stage.put("cylinder", point(x, y, tall), point(radius, radius, tall), turn(0 * x), coat, inside, mark="bottle")
    neck = tall * draws.uniform(n, 0.25, 0.5)
    stage.put("ellipsoid", point(x, y, 2 * tall), point(radius, radius, neck), turn(0 * x), coat, inside)
    stage.put(
        "cylinder", point(x, y, 2 * tall + neck), point(radius * 0.35, radius * 0.35, neck), turn(0 * x), coat, inside
    )
    n = 2
    thin = draws.uniform(n, 0.003, 0.01)
    pens = point(draws.uniform(n, -0.15, 0.3), draws.uniform(n, -0.25, 0.25), thin)
    length = draws.uniform(n, 0.06, 0.14)
    lying = turn(draws.uniform(n, 0, 6.28), math.pi / 2)
    stage.put(
        "cylinder",
        pens,
        point(thin, thin, length),
        lying,
        material(draws, n, ("plain", "stripes"), ("any", "vivid"), 4.0),
        draws.chance(n, 0.5),
    )
