"""Furnished rooms, seen from beside a wall; sometimes with an animal or a person in them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from datool.render.draws import Draws, material
from datool.render.props import FURNITURE, Stage, away, furnish, people, point, subject, things, turn
from datool.render.views import View, lamplight, room, walls

WALL_YAW = (-math.pi / 2, math.pi / 2, 0.0, math.pi)  # of what stands with its back, local y = 1, to +x, -x, +y, -y


class Room(NamedTuple):
    """A room about the origin: its (B, 3) size, the camera in it and how near to the camera things may stand."""

    size_b3: Tensor
    eye_b3: Tensor
    yaw_b1: Tensor
    clearance_b1: Tensor

    @property
    def plan_b2(self) -> Tensor:
        """Half the floor's sides."""
        return self.size_b3[:, :2] / 2


def indoor(draws: Draws) -> tuple[Stage, View]:
    """Return a furnished room."""
    stage = Stage(draws)
    size = torch.cat([draws.log_uniform(2, 2.6, 7.5), draws.uniform(1, 2.3, 3.5)], -1)
    hall = draws.chance(1, 0.08)
    size = torch.where(hall, size * size.new_tensor([2.0, 2.0, 1.5]), size)
    plan = size[:, :2] / 2
    low, high = torch.cat([-plan, torch.zeros_like(size[:, :1])], -1), torch.cat([plan, size[:, 2:]], -1)
    room(stage, low, high)
    # the camera: a step from the wall x = -w/2, looking over the room
    back = draws.uniform(1, 0.25, 0.9).minimum(plan[:, :1])
    y, z = draws.uniform(1, -0.8, 0.8) * (plan[:, 1:] - 0.2), draws.uniform(1, 0.7, 1.9)
    eye = torch.cat([-plan[:, :1] + back, y, z], -1)
    yaw = torch.atan2(-eye[:, 1:2], draws.uniform(1, 0, 0.8) * plan[:, :1] - eye[:, :1]) + draws.normal(1, 0, 0.35)
    pitch = draws.normal(1, -0.11, 0.17)
    inside = Room(size, eye, yaw, draws.uniform(1, 0.35, 1.0))
    _furniture(stage, inside)
    _on_walls(stage, inside)
    _fittings(stage, inside)
    _hanging_lamps(stage, inside)
    _somebody(stage, inside)
    lamp = draws.uniform(1, -0.8, 0.8) * plan[:, :1], draws.uniform(1, -0.8, 0.8) * plan[:, 1:]
    lamp_b3 = torch.cat([*lamp, size[:, 2:] - draws.uniform(1, 0.1, 0.9)], -1)
    return stage, View(eye, yaw, pitch, draws.normal(1, 0, 0.025), **lamplight(draws, lamp_b3))


def _furniture(stage: Stage, inside: Room) -> None:
    """Add furniture, most of it against the walls, and things on it and on the floor."""
    draws, (_, eye, yaw, clearance), plan = stage.draws, inside, inside.plan_b2
    n, floor = 6, torch.zeros_like(yaw)
    kind = draws.pick(n, len(FURNITURE))
    wall, along = walls(draws, n)
    depth = torch.where(kind == 3, 1.05, 0.42)  # a bed stands with its head to the wall
    out_x, out_y = plan[:, :1] - depth, plan[:, 1:] - depth
    wall_x = torch.where(wall == 0, out_x, torch.where(wall == 1, -out_x, along * out_x))
    wall_y = torch.where(wall == 2, out_y, torch.where(wall == 3, -out_y, along * out_y))
    free = draws.chance(n, 0.45)
    reach, ahead = draws.log_uniform(n, 1.2, 6.0), yaw + draws.normal(n, 0, 0.4)
    loose = torch.stack([eye[:, :1] + reach * ahead.cos(), eye[:, 1:2] + reach * ahead.sin()], -1)
    limit = (plan - 0.4).clamp_min(0)[:, None]
    loose = loose.maximum(-limit).minimum(limit)
    turned = draws.pick(n, 4) * (math.pi / 2) + draws.normal(n, 0, 0.15)
    xy = torch.where(free[..., None], loose, torch.stack([wall_x, wall_y], -1))
    facing = torch.where(free, turned, yaw.new_tensor(WALL_YAW)[wall])
    top, wide, stands = furnish(stage, eye, xy, facing, kind, floor.expand(-1, n), clearance, draws.chance(n, 0.9))
    for shape, count in (("box", 6), ("ellipsoid", 5), ("cylinder", 5)):
        slot = draws.pick(count, n)
        take = lambda t, slot=slot: t.gather(1, slot[..., None].expand(-1, -1, t.shape[-1]))  # noqa: E731
        spread = torch.stack([draws.uniform(count, -0.6, 0.6), draws.uniform(count, -0.6, 0.6)], -1) * take(wide)
        lying = torch.cat([spread, torch.zeros_like(spread[..., :1])], -1)
        on_top = take(top) + stage.where(torch.zeros_like(spread), facing.gather(1, slot), lying)
        below = draws.chance(count, 0.4) | ~stands.gather(1, slot)
        x, y = draws.uniform(count, -0.7, 0.9) * plan[:, :1], draws.uniform(count, -0.9, 0.9) * plan[:, 1:]
        big = torch.where(below, draws.log_uniform(count, 0.12, 0.7), draws.log_uniform(count, 0.06, 0.3))
        spot = torch.where(below[..., None], point(x, y, floor), on_top)
        things(stage, shape, spot, big, eye, clearance, draws.chance(count, 0.85))


def _on_walls(stage: Stage, inside: Room) -> None:
    """Add flat things on the walls: pictures and doors, then windows."""
    draws, plan = stage.draws, inside.plan_b2
    for glow, count in ((0.0, 4), (1.0, 2)):
        wall, along = walls(draws, count)
        is_door = draws.chance(count, 0.3 if glow == 0 else 0.0)
        half_w = torch.where(is_door, 0.42, draws.log_uniform(count, 0.15 + 0.25 * glow, 0.7 + 0.5 * glow))
        half_h = torch.where(is_door, 1.0, draws.log_uniform(count, 0.15 + 0.3 * glow, 0.6 + 0.3 * glow))
        highest = inside.size_b3[:, 2:] - half_h - 0.1
        z = torch.where(is_door, 1.0, draws.uniform(count, 1.3, 1.75).minimum(highest))
        out = [plan[:, i : i + 1].expand_as(along) for i in (0, 1)]
        x = torch.where(wall == 0, out[0], torch.where(wall == 1, -out[0], along * (out[0] - half_w)))
        y = torch.where(wall == 2, out[1], torch.where(wall == 3, -out[1], along * (out[1] - half_w)))
        yaw = plan.new_tensor(WALL_YAW)[wall]
        if glow:
            coat = material(draws, count, ("tiles", "plain", "mottled"), ("white", "sky", "green"), glow=1.3)
        else:
            coat = material(draws, count, ("print", "mottled", "plain", "waves"), ("any", "vivid", "wood", "pale"), 2.0)
        half = point(half_w, draws.uniform(count, 0.015, 0.05), half_h)
        centre = point(x, y, z)
        seen = draws.chance(count, 0.75) & (away(inside.eye_b3, centre, yaw, half) > inside.clearance_b1)
        stage.put("box", centre, half, turn(yaw), coat, seen, mark="window" if glow else "picture")


def _fittings(stage: Stage, inside: Room) -> None:
    """Add a rug, and a chimney breast, corner or pillar from floor to ceiling."""
    draws, plan, tall = stage.draws, inside.plan_b2, inside.size_b3[:, 2:] / 2
    x, y = draws.uniform(1, -0.3, 0.5) * plan[:, :1], draws.uniform(1, -0.3, 0.3) * plan[:, 1:]
    half = point(draws.uniform(1, 0.5, 1.4), draws.uniform(1, 0.4, 1.0), draws.uniform(1, 0.004, 0.02))
    coat = material(draws, 1, ("print", "stripes", "mottled", "checker", "waves"), ("any", "pale", "wood"), 1.5)
    centre = point(x, y, half[..., 2])
    stage.put("box", centre, half, turn(draws.normal(1, 0, 0.2)), coat, draws.chance(1, 0.5))
    x, y = plan[:, :1] * draws.sign(1), plan[:, 1:] * draws.sign(1)
    half = torch.cat([draws.uniform(2, 0.15, 1.0), tall], -1)[:, None]
    coat = material(draws, 1, ("plain", "mottled", "bricks", "wood", "stripes"), ("wall", "pale", "wood"))
    centre, square = point(x, y, tall), torch.zeros_like(x)
    seen = draws.chance(1, 0.4) & (away(inside.eye_b3, centre, square, half) > inside.clearance_b1 + 0.3)
    stage.put("box", centre, half, turn(square), coat, seen)


def _hanging_lamps(stage: Stage, inside: Room) -> None:
    """Add two lamps that hang on a cord."""
    draws, plan, ceiling = stage.draws, inside.plan_b2, inside.size_b3[:, 2:]
    x, y = draws.uniform(2, -0.5, 0.7) * plan[:, :1], draws.uniform(2, -0.7, 0.7) * plan[:, 1:]
    cord, bulb = draws.uniform(2, 0.15, 0.9), draws.uniform(2, 0.08, 0.28)
    shade = point(bulb, bulb, bulb * draws.uniform(2, 0.5, 1.1))
    centre, straight = point(x, y, ceiling - cord), turn(torch.zeros_like(x))
    seen = draws.chance(2, 0.55) & (away(inside.eye_b3, centre, torch.zeros_like(x), shade) > inside.clearance_b1)
    stage.put("ellipsoid", centre, shade, straight, material(draws, 2, ("plain",), ("white", "pale"), 1.0, 0.9), seen)
    thin = torch.full_like(x, 0.008)
    middle = point(x, y, ceiling - cord / 2)
    dark = material(draws, 2, ("plain",), ("dark",))
    stage.put("cylinder", middle, point(thin, thin, cord / 2), straight, dark, seen)


def _somebody(stage: Stage, inside: Room) -> None:
    """Add, now and then, an animal or a person."""
    draws, eye, plan, floor = stage.draws, inside.eye_b3, inside.plan_b2, torch.zeros_like(inside.yaw_b1)
    reach = draws.uniform(1, 0.35, 0.8)
    ahead = draws.normal(1, 0, 0.25) + inside.yaw_b1
    room_x, room_y = plan[:, :1] * 1.6 * reach, plan[:, 1:] - 0.3
    y = (eye[:, 1:2] + room_x * ahead.sin()).maximum(-room_y).minimum(room_y)
    xy = torch.cat([eye[:, :1] + room_x * ahead.cos(), y], -1)
    subject(stage, eye, xy, floor[:, 0], draws.log_uniform(1, 0.3, 0.9)[:, 0], draws.chance(1, 0.3)[:, 0])
    x, y = draws.uniform(1, -0.2, 0.9) * plan[:, :1], draws.uniform(1, -0.8, 0.8) * plan[:, 1:]
    people(stage, eye, torch.stack([x, y], -1), floor, draws.chance(1, 0.25))
