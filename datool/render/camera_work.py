"""Effects on how the camera is held, and things that hang or float before the upper part of the picture.

They break what most pictures of a level camera have in common: that what is lower in the picture is nearer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws, material
from datool.render.limbs import limb
from datool.render.props import OBJECT_KINDS, OBJECT_PALETTES, Stage, cut, point, turn
from datool.render.views import View


def tilt(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Point the camera further up or down, and roll it; a view from above, or up, is only rolled."""
    tilted, rolled = draws.chance(1, share), draws.chance(1, share)
    steep = (view.pitch_b1 < -0.6) | (view.pitch_b1 > 0.3)
    up = torch.where(draws.chance(1, 0.5), draws.uniform(1, 0.1, 0.4), draws.uniform(1, -0.5, -0.1))
    return view._replace(
        pitch_b1=view.pitch_b1 + up * (tilted & ~steep),
        roll_b1=view.roll_b1 + draws.normal(1, 0, 0.14).clamp(-0.5, 0.5) * rolled,
    )


def lens(view_b2: Tensor, draws: Draws, share: float) -> Tensor:
    """Return the views, some through a narrow or a wide lens: 14 to 40 or 85 to 110 degrees across."""
    other = draws.chance(1, share)
    degrees = torch.where(draws.chance(1, 0.55), draws.log_uniform(1, 14, 40), draws.uniform(1, 85, 110))
    return torch.cat([torch.where(other, degrees * (math.pi / 180), view_b2[:, :1]), view_b2[:, 1:]], -1)


def overhang(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Hang things before the upper part of the picture: lamps, signs, balls, leaves of a branch, beams."""
    n, there = 4, draws.chance(1, share)
    if stage.room is None:
        near, far = 0.7, 6.0
    else:
        near, far = (0.25, 0.8) if stage.on_table else (0.5, 2.0)
    away = draws.log_uniform(n, near, far)
    up, aside = view.pitch_b1 + draws.uniform(n, -0.05, 0.4), view.yaw_b1 + draws.uniform(n, -0.45, 0.45)
    way = point(up.cos() * aside.cos(), up.cos() * aside.sin(), up.sin())
    centre, size = view.eye_b3[:, None] + away[..., None] * way, away * draws.log_uniform(n, 0.02, 0.12)
    centre = torch.cat([centre[..., :2], centre[..., 2:].clamp_min(0.15)], -1)
    active = there & draws.chance(n, 0.5)
    if stage.room is not None:
        low, high = (corner[:, None] for corner in stage.room)
        active &= ((centre > low + 0.05) & (centre < high - 0.05)).all(-1)
    kind = draws.pick(n, 5)
    coat = material(draws, n, OBJECT_KINDS, OBJECT_PALETTES, scale=3.0)
    half = size[..., None] * point(draws.uniform(n, 0.5, 1.2), draws.uniform(n, 0.3, 1.2), draws.uniform(n, 0.3, 1.2))
    axes = turn(draws.uniform(n, 0, math.tau), draws.normal(n, 0, 0.3))
    for number, shape in enumerate(("box", "ellipsoid", "cylinder")):
        stage.put(shape, centre, half, axes, coat, active & (kind == number))
    top = (view.eye_b3[:, None, 2:] + 5.0).expand_as(centre[..., :1])
    if stage.room is not None:
        top = stage.room[1][:, None, 2:].expand_as(top)
    thread = material(draws, n, ("plain",), ("dark", "wood"))
    hung = active & (kind < 3) & draws.chance(n, 0.6)
    limb(stage, centre, torch.cat([centre[..., :2], top], -1), 0.012 * away.clamp_max(1.5), thread, hung, "cylinder")
    # a branch or a beam that comes in from the side
    side = draws.sign(n) * math.pi / 2 + view.yaw_b1
    end = centre + (6 * size)[..., None] * point(side.cos(), side.sin(), draws.normal(n, 0.2, 0.3))
    bark = material(draws, n, ("wood", "plain"), ("wood", "dark", "grey"))
    limb(stage, centre, end, 0.12 * size, bark, active & (kind >= 3), "cylinder")
    leaf = material(draws, n, ("leaves", "plain"), ("green", "green", "dry"), 2.0)
    cells = draws.uniform(n, 7, 16)
    for _ in range(2):
        axes, wide = turn(draws.uniform(n, 0, math.tau), draws.uniform(n, 0.7, 2.0)), 2.2 * size
        bunch, card = cut(draws, cells, cells, 0.85), point(wide, wide, torch.ones_like(wide))
        stage.put("leaves", centre, card, axes, leaf, active & (kind == 3), cut=bunch)
    return view
