"""Effects that add shapes: hills, leaves and grass, fences, cables, panes of glass.

Each takes the stage and the view that a layout made, draws from a stream of its own, and changes the stage.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from datool.render.draws import Draws, changed, material
from datool.render.props import Shapes, Stage, away, cut, point, turn
from datool.render.terrain import draw_waves, height
from datool.render.views import View

UPRIGHT = math.pi / 2  # the tilt that stands a card up: its u stays level, its v points up


class Spot(NamedTuple):
    """Where something flat stands: its foot (B, 1, 2), yaw, half sizes and distance from the camera, all (B, 1)."""

    xy: Tensor
    yaw: Tensor
    wide: Tensor
    tall: Tensor
    far: Tensor


def spot(stage: Stage, view: View, draws: Draws) -> Spot:
    """Return a place across the view: at an arm's length on a table, across a room, along a kerb, or in the open."""
    if stage.room is None:
        sizes = (2.0, 12.0, 3.0, 9.0, 0.45, 1.1)
    elif stage.on_table:
        sizes = (0.35, 0.8, 0.05, 0.2, 0.04, 0.12)
    else:
        sizes = (1.1, 3.0, 0.4, 1.2, 0.4, 1.0)
    far, wide, tall = (draws.log_uniform(1, sizes[i], sizes[i + 1]) for i in (0, 2, 4))
    angle = view.yaw_b1 + draws.normal(1, 0, 0.2)
    xy = view.eye_b3[:, :2] + torch.cat([far * angle.cos(), far * angle.sin()], -1)
    yaw = angle + math.pi / 2 + draws.normal(1, 0, 0.5)
    if stage.on_table:
        xy = torch.cat([draws.uniform(1, 0.0, 0.3), draws.normal(1, 0, 0.12)], -1)
        far = (xy - view.eye_b3[:, :2]).norm(dim=-1, keepdim=True)
    elif stage.room is not None:
        low, high = stage.room
        margin = 0.1 * (high - low)[:, :2]
        xy = xy.maximum(low[:, :2] + margin).minimum(high[:, :2] - margin)
    if stage.kerb_b1 is not None:  # along the kerb as often as across the view
        side = draws.sign(1) * (stage.kerb_b1 + draws.uniform(1, 0.1, 0.6))
        along = draws.chance(1, 0.6)
        xy = torch.where(along, torch.cat([view.eye_b3[:, :1] + far + wide, side], -1), xy)
        yaw = torch.where(along, 0.0, yaw)
    return Spot(xy[:, None], yaw, wide, tall, far)


def terrain(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Let open land roll; what stands on it rises with it."""
    if stage.room is not None or stage.kerb_b1 is not None:
        return view
    stage.waves_bw4 = waves = draw_waves(draws, share)
    centre, axes, coat = stage.planes[0]
    hilly = (waves[..., 0] != 0).any(1)
    level = torch.eye(3, dtype=torch.float64, device=centre.device)
    stage.planes[0] = (centre, torch.where(hilly[:, None, None], level, axes), coat)
    for runs in stage.shapes.values():
        for place, run in enumerate(runs):
            up = height(waves, run.centre[..., 0], run.centre[..., 1])
            runs[place] = run._replace(centre=run.centre + point(0 * up, 0 * up, up))
    return view


def foliage(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Put cards of leaves through crowns and bushes, whose solid part shrinks; stand tufts of grass about."""
    leafy = draws.chance(1, share)
    for mark in ("crown", "bush"):
        for kind, place, run in stage.marked(mark):
            small = torch.where(leafy[..., None], run.half * 0.75, run.half)
            stage.shapes[kind][place] = run._replace(half=small)
            for _ in range(3):
                _leaves(stage, view, draws, run, leafy)
    if stage.room is None:
        _tufts(stage, view, draws, leafy)
    return view


def _leaves(stage: Stage, view: View, draws: Draws, run: Shapes, leafy: Tensor) -> None:
    """Add one card a crown, near its middle, turned any way."""
    n = run.active.shape[1]
    axes = turn(draws.uniform(n, 0, 2 * math.pi), draws.uniform(n, 0.5, 2.2))
    aside = torch.stack([draws.uniform(n, -0.4, 0.4) for _ in range(3)], -1) * run.half
    size = run.half.mean(-1) * draws.uniform(n, 0.95, 1.3)
    leaf_m = torch.maximum(draws.log_uniform(n, 0.05, 0.3), 0.014 * (run.centre - view.eye_b3[:, None]).norm(dim=-1))
    cells = (2 * size / leaf_m).clamp(4, 40)
    shade = draws.uniform(n, 0.7, 1.5)[..., None]
    coat = torch.cat([(run.coat[..., :9] * shade).clamp(0, 0.95), run.coat[..., 9:]], -1)
    half, active = point(size, size, torch.ones_like(size)), run.active & leafy
    stage.put("leaves", run.centre + aside, half, axes, coat, active, cut=cut(draws, cells, cells, 0.85))


def _tufts(stage: Stage, view: View, draws: Draws, there: Tensor) -> None:
    """Add grass that stands before the camera: in the open anywhere, in a street at its sides."""
    n = 8
    x, angle = draws.log_uniform(n, 1.0, 14), view.yaw_b1 + draws.uniform(n, -0.7, 0.7)
    xy = view.eye_b3[:, None, :2] + torch.stack([x * angle.cos(), x * angle.sin()], -1)
    if stage.kerb_b1 is not None:
        side = draws.sign(n) * (stage.kerb_b1 + draws.uniform(n, 0.2, 1.2))
        xy = torch.stack([xy[..., 0], side], -1)
    tall, wide = draws.log_uniform(n, 0.04, 0.3), draws.log_uniform(n, 0.2, 0.9)
    coat = material(draws, n, ("grass", "plain"), ("green", "green", "dry"), 2.0)
    axes = turn(draws.uniform(n, 0, math.pi), UPRIGHT)
    centre, half = point(xy[..., 0], xy[..., 1], tall * 0.97), point(wide, tall, torch.ones_like(tall))
    active = there & draws.chance(1, 0.6) & draws.chance(n, 0.8)
    stage.put("blades", centre, half, axes, coat, active, cut=cut(draws, wide * 45, tall, 0.6))


def fences(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Add a fence of wire mesh or of bars; a grille in a room, a rack on a table."""
    at = spot(stage, view, draws)
    there, wired = draws.chance(1, share if stage.room is None else share / 2), draws.chance(1, 0.5)
    half, axes = point(at.wide, at.tall, torch.ones_like(at.tall)), turn(at.yaw, UPRIGHT)
    centre = point(at.xy[..., 0], at.xy[..., 1], at.tall)
    coat = material(draws, 1, ("plain", "plain", "stripes"), ("grey", "dark", "white", "green", "wood"))
    # wires and bars about as thick as real ones, but none thinner than a pixel of a small picture
    gap = (at.tall * draws.log_uniform(1, 0.08, 0.25)).maximum(0.03 * at.far)
    wire = (draws.uniform(1, 0.05, 0.12)).maximum(0.005 * at.far / gap)
    mesh = cut(draws, 2 * at.wide / gap, 2 * at.tall / gap, wire)
    stage.put("mesh", centre, half, axes, coat, there & wired, cut=mesh)
    gap = (at.tall * draws.log_uniform(1, 0.1, 0.4)).maximum(0.02 * at.far)
    bars = cut(draws, 2 * at.wide / gap, draws.uniform(1, 12, 40), draws.uniform(1, 0.15, 0.6))
    stage.put("bars", centre, half, axes, coat, there & ~wired, cut=bars)
    return view


def cables(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Add a row of poles with cables that sag between them, along the street or across open land."""
    if stage.room is not None:
        return view
    there, span, spans = draws.chance(1, share), draws.uniform(1, 14, 35), 4
    if stage.kerb_b1 is not None:
        yaw = draws.normal(1, 0, 0.02)
        side = draws.sign(1) * (stage.kerb_b1 + draws.uniform(1, 0.3, 1.0))
        xy = torch.cat([span * (spans / 2) - draws.uniform(1, 0, 1) * span, side], -1)
        far = side.abs() + 8
    else:
        yaw, far = UPRIGHT + draws.normal(1, 0, 0.5), draws.log_uniform(1, 8, 50)
        xy = torch.cat([far, draws.normal(1, 0, 6)], -1)
    top, drop = draws.uniform(1, 5, 8.5), draws.uniform(1, 0.3, 0.9)
    num = draws.pick(1, 4).double() + 1
    wire = (0.004 * far).clamp_min(0.025) * num / drop
    coat = material(draws, 1, ("plain",), ("dark",))
    centre, half = point(xy[:, :1], xy[:, 1:], top - drop), point(span * (spans / 2), drop, torch.ones_like(drop))
    axes = turn(yaw, UPRIGHT)
    stage.put("cables", centre, half, axes, coat, there, cut=cut(draws, 0 * span + spans, num, wire))
    n = spans + 1
    along = (torch.arange(n, device=span.device) - spans / 2) * span
    thin = draws.uniform(1, 0.07, 0.15).expand(-1, n)
    foot = stage.where(xy[:, None].expand(-1, n, -1), yaw.expand(-1, n), point(along, 0 * along, top / 2))
    half = point(thin, thin, (top / 2 + 0.15).expand(-1, n))
    wood = material(draws, 1, ("wood", "plain"), ("wood", "grey", "stone")).expand(-1, n, -1)
    free = away(view.eye_b3, foot, 0 * along, half) > 0.8
    stage.put("cylinder", foot, half, turn(0 * along), wood, there.expand(-1, n) & free)
    return view


def panes(stage: Stage, view: View, draws: Draws, share: float) -> View:
    """Add a pane of glass in a frame of four bars."""
    at, there = spot(stage, view, draws), draws.chance(1, share)
    wide, tall = (at.wide.clamp_max(1.5), at.tall) if stage.room is None else (0.6 * at.wide, 0.8 * at.tall)
    clear = material(draws, 1, ("plain",), ("glass", "white"))
    yes = torch.ones_like(there)
    clear = changed(clear, yes, glass=draws.uniform(1, 0.7, 0.93), shine=draws.uniform(1, 0.5, 1.0))
    lift = torch.full_like(tall, 0.01 if stage.on_table else 0.05) + draws.chance(1, 0.4) * tall * 0.5
    thin = (0.02 * tall).clamp(0.002, 0.02)
    stage.put(
        "box", point(at.xy[..., 0], at.xy[..., 1], lift + tall), point(wide, thin / 4, tall), turn(at.yaw), clear, there
    )
    bars = torch.tensor(
        [[1.0, 0, 0, 1], [-1, 0, 0, 1], [0, 1, 1, 0], [0, -1, 1, 0]], dtype=torch.float64, device=wide.device
    )
    local = point(bars[:, 0] * wide, 0 * wide, bars[:, 1] * tall + lift + tall)
    half = point(bars[:, 2] * wide + 2 * thin, 2 * thin, bars[:, 3] * tall + 2 * thin)
    centre = stage.where(at.xy.expand(-1, 4, -1), at.yaw.expand(-1, 4), local)
    frame = material(draws, 1, ("plain", "wood"), ("wood", "white", "dark", "grey")).expand(-1, 4, -1)
    stage.put("box", centre, half, turn(at.yaw.expand(-1, 4)), frame, there.expand(-1, 4))
    return view
