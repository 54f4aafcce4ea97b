"""Land from above, as a drone or a high window sees it: houses, roads, cars, trees, people, water, fields."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws, material
from datool.render.facades import coat_of_houses
from datool.render.figures import beasts, persons
from datool.render.props import Stage, away, point, trees, turn
from datool.render.vehicles import vehicles
from datool.render.views import View, daylight, ground


def aerial(draws: Draws) -> tuple[Stage, View]:
    """Return a view from 3 to 100 m up, straight down or slanting."""
    stage = Stage(draws)
    zero = torch.zeros_like(draws.key_b1, dtype=torch.float64)
    up, steep = draws.log_uniform(1, 3, 100), draws.uniform(1, 0.25, 1.57)
    eye = torch.cat([zero, zero, up], -1)
    kinds = ("grass", "grass", "mottled", "asphalt", "speckle", "tiles")
    ground(stage, material(draws, 1, kinds, ("green", "green", "dry", "stone", "road"))[:, 0])
    reach = up / steep.tan().clamp_min(0.05)  # where the camera looks at the ground
    wide = (up / steep.sin()).clamp(4, 200)  # how much of it the picture shows, about

    def spread(n: int) -> Tensor:
        return torch.stack([reach + draws.normal(n, 0, 0.6) * wide, draws.normal(n, 0, 0.5) * wide], -1)

    n = 5  # fields, ponds, yards
    xy, size = spread(n), wide * draws.log_uniform(n, 0.1, 0.5)
    coat = material(
        draws, n, ("grass", "stripes", "mottled", "plain", "waves"), ("green", "dry", "stone", "sea", "road"), 0.5
    )
    thin = torch.arange(n, device=xy.device) * 0.004 + 0.004 * up
    half = point(size, size * draws.uniform(n, 0.4, 1.0), thin)
    stage.put(
        "box", point(xy[..., 0], xy[..., 1], 0 * size), half, turn(draws.uniform(n, 0, 3.1)), coat, draws.chance(n, 0.7)
    )
    heading, aside = draws.uniform(2, 0, 3.1), draws.normal(2, 0, 0.3) * wide
    heading = torch.cat([heading[:, :1], heading[:, :1] + 1.4], -1)
    asphalt = material(draws, 2, ("asphalt", "mottled", "speckle"), ("road", "road", "stone"))
    at = point(reach - heading.sin() * aside, heading.cos() * aside, 0 * aside)
    lane, roads = draws.uniform(2, 2.5, 6.0), draws.chance(2, 0.6)
    stage.put("box", at, point(0 * lane + 300, lane, 0.006 * up + 0.02 + 0 * lane), turn(heading), asphalt, roads)
    n = 6
    along, which = draws.normal(n, 0, 0.5) * wide, draws.pick(n, 2)
    take = lambda t: t.gather(1, which)  # noqa: E731
    side = draws.sign(n) * take(lane) * draws.uniform(n, 0.3, 0.75)
    c, s = take(heading).cos(), take(heading).sin()
    xy = torch.stack([take(at[..., 0]) + along * c - side * s, take(at[..., 1]) + along * s + side * c], -1)
    vehicles(stage, eye, xy, take(heading) + math.pi * draws.chance(n, 0.5), take(roads) & draws.chance(n, 0.8))
    n = 5
    vehicles(stage, eye, spread(n), draws.uniform(n, 0, 6.28), draws.chance(n, 0.6) & draws.chance(1, 0.4))
    _houses(stage, eye, spread(10), up)
    n = 9
    tall = draws.log_uniform(n, 2, 14).minimum(0.7 * up)
    trees(stage, eye, spread(n), 0 * tall, tall, draws.chance(n, 0.75) & draws.chance(1, 0.85))
    n = 8
    xy, size = spread(n), draws.log_uniform(n, 0.3, 1.6)
    leaf = material(draws, n, ("leaves", "grass", "speckle"), ("green", "green", "dry", "stone"), 2.0)
    stage.put(
        "ellipsoid",
        point(xy[..., 0], xy[..., 1], 0.4 * size),
        point(size, size, 0.8 * size),
        turn(0 * size),
        leaf,
        draws.chance(n, 0.6),
        mark="bush",
    )
    n = 8
    there = draws.chance(n, 0.7) & draws.chance(1, 0.6) & (up < 40)
    tall = draws.uniform(n, 1.3, 1.9)
    persons(stage, eye, spread(n) * 1.0, 0 * tall, draws.uniform(n, 0, 6.28), tall, draws.chance(n, 0.1), there)
    there = draws.chance(3, 0.7) & draws.chance(1, 0.3) & (up < 40)
    xy = spread(3)
    beasts(stage, eye, xy, 0 * xy[..., 0], draws.uniform(3, 0, 6.28), draws.uniform(3, 0.6, 2.0), there)
    pitch = -steep + draws.normal(1, 0, 0.05)
    view = View(eye, draws.normal(1, 0, 0.2), pitch, draws.normal(1, 0, 0.08), **daylight(draws))
    # no mist that hides the ground
    return stage, view._replace(fog_b1=view.fog_b1.minimum(0.2 / wide))


def _houses(stage: Stage, eye: Tensor, xy: Tensor, up: Tensor) -> None:
    """Add houses in rows that share a heading, with roofs, flat or pitched, and things on flat ones."""
    draws, n = stage.draws, xy.shape[1]
    heading = draws.uniform(1, 0, 1.57) + draws.pick(n, 2) * (math.pi / 2) + draws.normal(n, 0, 0.05)
    flat = draws.chance(1, 0.4) | draws.chance(n, 0.15)
    tall = torch.where(flat, draws.log_uniform(n, 3, 30), draws.uniform(n, 2.5, 7)).minimum(0.6 * up) / 2
    half = point(draws.uniform(n, 3.5, 10), draws.uniform(n, 3, 5), tall)
    centre = point(xy[..., 0], xy[..., 1], tall)
    there = draws.chance(n, 0.75) & draws.chance(1, 0.75) & (away(eye, centre, heading, half) > 2) & (up > 7)
    stage.put("box", centre, half, turn(heading), coat_of_houses(draws, n), there, mark="house")
    tiles = material(draws, n, ("tiles", "bricks", "stripes", "plain"), ("brick", "brick", "dark", "stone"))
    across, one = half[..., 1] * 0.75, torch.ones_like(tall)
    ridge = centre + point(0 * tall, 0 * tall, tall - 0.25 * across)
    stage.put(
        "box", ridge, point(half[..., 0] * 1.04, across, across), turn(heading, math.pi / 4), tiles, there & ~flat
    )
    lid = material(draws, n, ("speckle", "plain", "mottled"), ("grey", "stone", "pale"))
    top = centre + point(0 * tall, 0 * tall, tall)
    stage.put(
        "box",
        top,
        half * half.new_tensor([1, 1, 0]) + point(0.1 * one, 0.1 * one, 0.15 * one),
        turn(heading),
        lid,
        there & flat,
    )
    shaft = stage.where(top[..., :2], heading, point(half[..., 0] * 0.4, half[..., 1] * 0.3, top[..., 2] + 0.7))
    stage.put(
        "box", shaft, point(1.2 * one, 0.9 * one, 0.9 * one), turn(heading), lid, there & flat & draws.chance(n, 0.7)
    )
