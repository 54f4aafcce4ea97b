"""What stands where: rooms, streets, open land and table-tops; batched over images, float64, world axes (z up)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from datool.data.synthetic.draws import Draws, colour, material
from datool.data.synthetic.props import (
    FURNITURE,
    NUM_PLANES,
    OBJECT_PALETTES,
    Stage,
    away,
    furnish,
    people,
    point,
    subject,
    things,
    trees,
    turn,
)


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


def _tint(draws: Draws, warm: float, spread: float) -> Tensor:
    """Return (B, 3) light of mean near 1, ``warm`` > 0 yellow, < 0 blue."""
    warmth = draws.normal(1, warm, spread).clamp(-0.35, 0.45)
    return torch.cat([1 + warmth * 0.7, torch.ones_like(warmth), 1 - warmth * 0.9], -1)


def _daylight(draws: Draws) -> dict[str, Tensor]:
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
        "light_colour_b3": strength * _tint(draws, 0.1, 0.08),
        "ambient_b3": draws.uniform(1, 0.25, 0.6) * _tint(draws, -0.08, 0.06),
        "haze_b3": haze.expand(-1, 3),
        "fog_b1": fog,
        "sky_b1k": sky,
    }


def _lamplight(draws: Draws, lamp_b3: Tensor) -> dict[str, Tensor]:
    """Return a lamp's light for a room."""
    return {
        "light_b4": torch.cat([lamp_b3, torch.ones_like(lamp_b3[:, :1])], -1),
        "light_colour_b3": draws.uniform(1, 0.4, 2.2) * _tint(draws, 0.1, 0.15),
        "ambient_b3": draws.uniform(1, 0.2, 0.7) * _tint(draws, 0.03, 0.1),
        "haze_b3": torch.full_like(lamp_b3, 0.7),
        "fog_b1": draws.log_uniform(1, 0.0003, 0.004),
        "sky_b1k": material(draws, 1, ("plain",), ("white",)),
    }


def _room(stage: Stage, low_b3: Tensor, high_b3: Tensor, floor_scale: float = 1.0) -> None:
    """Add floor, ceiling and four walls, seen from inside."""
    draws = stage.draws
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


def _ground(stage: Stage, coat_bk: Tensor, slope_b1: Tensor | None = None) -> None:
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


def _walls(draws: Draws, n: int) -> tuple[Tensor, Tensor]:
    """Return which wall (+x, -x, +y, -y; seldom the one behind the camera) and where along it in [-1, 1]."""
    choice = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3], device=draws.key_b1.device)
    wall = choice[draws.pick(n, len(choice))]
    return wall, draws.uniform(n, torch.where(wall < 2, -0.9, -0.3).double(), 0.95)


def indoor(draws: Draws) -> tuple[Stage, View]:
    """A furnished room, seen from beside a wall; sometimes an animal or a person in it."""
    stage = Stage(draws)
    size = torch.cat([draws.log_uniform(2, 2.6, 7.5), draws.uniform(1, 2.3, 3.5)], -1)
    hall = draws.chance(1, 0.08)
    size = torch.where(hall, size * size.new_tensor([2.0, 2.0, 1.5]), size)
    floor_plan = size[:, :2] / 2
    low, high = torch.cat([-floor_plan, torch.zeros_like(size[:, :1])], -1), torch.cat([floor_plan, size[:, 2:]], -1)
    _room(stage, low, high)
    # the camera: a step from the wall x = -w/2, looking over the room
    back = draws.uniform(1, 0.25, 0.9).minimum(floor_plan[:, :1])
    eye = torch.cat(
        [
            -floor_plan[:, :1] + back,
            draws.uniform(1, -0.8, 0.8) * (floor_plan[:, 1:] - 0.2),
            draws.uniform(1, 0.7, 1.9),
        ],
        -1,
    )
    yaw = torch.atan2(-eye[:, 1:2], draws.uniform(1, 0, 0.8) * floor_plan[:, :1] - eye[:, :1]) + draws.normal(
        1, 0, 0.35
    )
    pitch = draws.normal(1, -0.11, 0.17)
    clearance = draws.uniform(1, 0.35, 1.0)
    # furniture: most of it stands against the walls
    n, floor = 6, torch.zeros_like(yaw)
    kind = draws.pick(n, len(FURNITURE))
    wall, along = _walls(draws, n)
    depth = torch.where(kind == 3, 1.05, 0.42)  # a bed stands with its head to the wall
    out_x, out_y = floor_plan[:, :1] - depth, floor_plan[:, 1:] - depth
    wall_x = torch.where(wall == 0, out_x, torch.where(wall == 1, -out_x, along * out_x))
    wall_y = torch.where(wall == 2, out_y, torch.where(wall == 3, -out_y, along * out_y))
    # local y = +1 is the back; it faces the wall: +x, -x, +y, -y
    wall_yaw = yaw.new_tensor([-math.pi / 2, math.pi / 2, 0.0, math.pi])[wall]
    free = draws.chance(n, 0.45)
    xy = torch.stack([wall_x, wall_y], -1)
    reach, ahead = draws.log_uniform(n, 1.2, 6.0), yaw + draws.normal(n, 0, 0.4)
    loose = torch.stack([eye[:, :1] + reach * ahead.cos(), eye[:, 1:2] + reach * ahead.sin()], -1)
    limit = (floor_plan - 0.4).clamp_min(0)[:, None]
    loose = loose.maximum(-limit).minimum(limit)
    turned = draws.pick(n, 4) * (math.pi / 2) + draws.normal(n, 0, 0.15)
    xy, facing = torch.where(free[..., None], loose, xy), torch.where(free, turned, wall_yaw)
    top, wide, stands = furnish(stage, eye, xy, facing, kind, floor.expand(-1, n), clearance, draws.chance(n, 0.9))
    # things on furniture and on the floor
    for shape, count in (("box", 6), ("ellipsoid", 5), ("cylinder", 5)):
        slot = draws.pick(count, n)
        take = lambda t, slot=slot: t.gather(1, slot[..., None].expand(-1, -1, t.shape[-1]))  # noqa: E731
        spread = torch.stack([draws.uniform(count, -0.6, 0.6), draws.uniform(count, -0.6, 0.6)], -1) * take(wide)
        on_top = take(top) + stage.where(
            torch.zeros_like(spread), facing.gather(1, slot), torch.cat([spread, torch.zeros_like(spread[..., :1])], -1)
        )
        below = draws.chance(count, 0.4) | ~stands.gather(1, slot)
        ground = point(
            draws.uniform(count, -0.7, 0.9) * floor_plan[:, :1],
            draws.uniform(count, -0.9, 0.9) * floor_plan[:, 1:],
            floor,
        )
        big = torch.where(below, draws.log_uniform(count, 0.12, 0.7), draws.log_uniform(count, 0.06, 0.3))
        spot = torch.where(below[..., None], ground, on_top)
        things(stage, shape, spot, big, eye, clearance, draws.chance(count, 0.85))
    # flat things on the walls: pictures, windows, doors
    for glow, count in ((0.0, 4), (1.0, 2)):
        wall, along = _walls(draws, count)
        is_door = draws.chance(count, 0.3 if glow == 0 else 0.0)
        half_w = torch.where(is_door, 0.42, draws.log_uniform(count, 0.15 + 0.25 * glow, 0.7 + 0.5 * glow))
        half_h = torch.where(is_door, 1.0, draws.log_uniform(count, 0.15 + 0.3 * glow, 0.6 + 0.3 * glow))
        z = torch.where(is_door, 1.0, draws.uniform(count, 1.3, 1.75).minimum(size[:, 2:] - half_h - 0.1))
        out = [floor_plan[:, i : i + 1].expand_as(along) for i in (0, 1)]
        x = torch.where(wall == 0, out[0], torch.where(wall == 1, -out[0], along * (out[0] - half_w)))
        y = torch.where(wall == 2, out[1], torch.where(wall == 3, -out[1], along * (out[1] - half_w)))
        flat_yaw = yaw.new_tensor([-math.pi / 2, math.pi / 2, 0.0, math.pi])[wall]
        if glow:
            coat = material(draws, count, ("tiles", "plain", "mottled"), ("white", "sky", "green"), glow=1.3)
        else:
            coat = material(draws, count, ("print", "mottled", "plain", "waves"), ("any", "vivid", "wood", "pale"), 2.0)
        half = point(half_w, draws.uniform(count, 0.015, 0.05), half_h)
        centre = point(x, y, z)
        seen = draws.chance(count, 0.75) & (away(eye, centre, flat_yaw, half) > clearance)
        stage.put("box", centre, half, turn(flat_yaw), coat, seen)
    # a rug, a chimney breast or corner, curtains or pillars as boxes from floor to ceiling
    rug = torch.stack(
        [draws.uniform(1, -0.3, 0.5) * floor_plan[:, :1], draws.uniform(1, -0.3, 0.3) * floor_plan[:, 1:]], -1
    )
    half = point(draws.uniform(1, 0.5, 1.4), draws.uniform(1, 0.4, 1.0), draws.uniform(1, 0.004, 0.02))
    coat = material(draws, 1, ("print", "stripes", "mottled", "checker", "waves"), ("any", "pale", "wood"), 1.5)
    stage.put(
        "box",
        point(rug[..., 0], rug[..., 1], half[..., 2]),
        half,
        turn(draws.normal(1, 0, 0.2)),
        coat,
        draws.chance(1, 0.5),
    )
    corner = torch.stack([floor_plan[:, :1] * draws.sign(1), floor_plan[:, 1:] * draws.sign(1)], -1)
    half = torch.cat([draws.uniform(2, 0.15, 1.0), size[:, 2:] / 2], -1)[:, None]
    coat = material(draws, 1, ("plain", "mottled", "bricks", "wood", "stripes"), ("wall", "pale", "wood"))
    centre = point(corner[..., 0], corner[..., 1], size[:, 2:] / 2)
    seen = draws.chance(1, 0.4) & (away(eye, centre, floor, half) > clearance + 0.3)
    stage.put("box", centre, half, turn(floor), coat, seen)
    # lamps that hang on a cord, and one that stands
    x, y = draws.uniform(2, -0.5, 0.7) * floor_plan[:, :1], draws.uniform(2, -0.7, 0.7) * floor_plan[:, 1:]
    cord, bulb = draws.uniform(2, 0.15, 0.9), draws.uniform(2, 0.08, 0.28)
    z = size[:, 2:] - cord
    shade = point(bulb, bulb, bulb * draws.uniform(2, 0.5, 1.1))
    lit = draws.chance(2, 0.55)
    seen = lit & (away(eye, point(x, y, z), torch.zeros_like(x), shade) > clearance)
    stage.put(
        "ellipsoid",
        point(x, y, z),
        shade,
        turn(torch.zeros_like(x)),
        material(draws, 2, ("plain",), ("white", "pale"), 1.0, 0.9),
        seen,
    )
    thin = torch.full_like(x, 0.008)
    stage.put(
        "cylinder",
        point(x, y, size[:, 2:] - cord / 2),
        point(thin, thin, cord / 2),
        turn(torch.zeros_like(x)),
        material(draws, 2, ("plain",), ("dark",)),
        seen,
    )
    # somebody in the room
    reach = draws.uniform(1, 0.35, 0.8)
    ahead = draws.normal(1, 0, 0.25) + yaw
    room_x, room_y = floor_plan[:, :1] * 1.6 * reach, floor_plan[:, 1:] - 0.3
    xy = torch.cat(
        [eye[:, :1] + room_x * ahead.cos(), (eye[:, 1:2] + room_x * ahead.sin()).maximum(-room_y).minimum(room_y)], -1
    )
    subject(stage, eye, xy, floor[:, 0], draws.log_uniform(1, 0.3, 0.9)[:, 0], draws.chance(1, 0.3)[:, 0])
    crowd = torch.stack(
        [draws.uniform(1, -0.2, 0.9) * floor_plan[:, :1], draws.uniform(1, -0.8, 0.8) * floor_plan[:, 1:]], -1
    )
    people(stage, eye, crowd, floor, draws.chance(1, 0.25))
    lamp = torch.cat(
        [
            draws.uniform(1, -0.8, 0.8) * floor_plan[:, :1],
            draws.uniform(1, -0.8, 0.8) * floor_plan[:, 1:],
            size[:, 2:] - draws.uniform(1, 0.1, 0.9),
        ],
        -1,
    )
    return stage, View(eye, yaw, pitch, draws.normal(1, 0, 0.025), **_lamplight(draws, lamp))


def street(draws: Draws) -> tuple[Stage, View]:
    """A street along x: houses, kerbs, cars, poles, trees, people, cables."""
    stage = Stage(draws)
    road, walk = draws.uniform(1, 2.6, 7.5), draws.uniform(1, 1.2, 5.0)  # half road, pavement
    zero = torch.zeros_like(road)
    eye_y = draws.uniform(1, -0.9, 0.9) * (road + torch.where(draws.chance(1, 0.35), walk * 0.9, zero))
    eye = torch.cat(
        [zero, eye_y, torch.where(draws.chance(1, 0.12), draws.uniform(1, 2.5, 6), draws.normal(1, 1.55, 0.2))], -1
    )
    yaw = torch.where(draws.chance(1, 0.7), draws.normal(1, 0, 0.1), draws.uniform(1, -1.1, 1.1))
    asphalt = material(draws, 1, ("asphalt", "asphalt", "mottled", "speckle", "bricks"), ("road", "road", "stone"))
    _ground(stage, asphalt[:, 0])
    clearance = draws.uniform(1, 0.8, 2.5)
    for side in (-1, 1):  # pavements, houses
        kerb = draws.uniform(1, 0.06, 0.09)
        centre = point(zero + 60, side * (road + 20), kerb - 0.0)
        paving = material(draws, 1, ("tiles", "mottled", "speckle", "grass", "bricks"), ("stone", "road", "green"))
        half = point(zero + 140, zero + 20, kerb)
        stage.put("box", centre, half, turn(zero), paving, (side * eye_y < road - 0.3) & draws.chance(1, 0.85))
        n = 6
        width = draws.uniform(n, 3.5, 11.0)
        x = torch.cumsum(2 * width + draws.uniform(n, -0.5, 5.0), 1) - width - draws.uniform(1, 4, 14)
        deep, tall = draws.uniform(n, 4, 8), draws.log_uniform(n, 3.0, 26.0) / 2
        front = (
            road + walk + draws.uniform(n, 0, 1.5) + torch.where(draws.chance(1, 0.3), draws.uniform(1, 2, 14), zero)
        )
        coat = material(
            draws,
            n,
            ("windows", "windows", "windows", "bricks", "plain", "mottled", "planks"),
            ("brick", "stone", "pale", "glass", "wall"),
        )
        walls = colour(draws, n, ("stone", "brick", "pale", "wall"))
        coat = torch.cat([coat[..., :6], walls, coat[..., 9:]], -1)
        there = draws.chance(n, 0.85) & draws.chance(1, 0.85)
        centre, half = point(x, side * (front + deep), tall), point(width, deep, tall)
        stage.put(
            "box",
            centre,
            half,
            turn(torch.zeros_like(x)),
            coat,
            there & (away(eye, centre, torch.zeros_like(x), half) > clearance),
        )
    n = 4  # cars: body, cabin, two axles with their wheels
    x, lane = draws.log_uniform(n, 4.5, 60), draws.sign(n)
    parked = draws.chance(n, 0.55)
    y = lane * torch.where(parked, road - 1.1, road * draws.uniform(n, 0.25, 0.5))
    long, wide, high = draws.uniform(n, 1.8, 2.5), draws.uniform(n, 0.78, 0.95), draws.uniform(n, 0.28, 0.5)
    car_yaw = draws.normal(n, 0, 0.04) + torch.where(draws.chance(n, 0.1), math.pi / 2, 0.0)
    xy = torch.stack([x, y], -1)
    bound = point(long, wide, high * 2.2)
    present = draws.chance(n, 0.7) & (away(eye, point(x, y, high * 2), car_yaw, bound) > 1.5)
    paint = material(draws, n, ("plain",), ("vivid", "grey", "grey", "dark", "white"))
    glass = material(draws, n, ("plain", "tiles"), ("glass", "dark"))
    stage.put(
        "box",
        stage.where(xy, car_yaw, point(0 * x, 0 * x, 0.25 + high)),
        point(long, wide, high),
        turn(car_yaw),
        paint,
        present,
    )
    cabin = stage.where(xy, car_yaw, point(draws.uniform(n, -0.3, 0.1) * long, 0 * x, 0.25 + high * 2.6))
    stage.put(
        "box",
        cabin,
        point(long * draws.uniform(n, 0.4, 0.7), wide * 0.88, high * 0.7),
        turn(car_yaw),
        torch.where(draws.chance(n, 0.7)[..., None], glass, paint),
        present,
    )
    tyre = material(draws, n, ("plain",), ("dark",))
    for end in (-1, 1):
        axle = stage.where(xy, car_yaw, point(end * 0.62 * long, 0 * x, 0 * x + 0.32))
        wheel = point(0 * x + 0.32, 0 * x + 0.32, wide + 0.02)
        stage.put("cylinder", axle, wheel, turn(car_yaw, math.pi / 2), tyre, present)
    n = 5  # poles at the kerb; their boards
    x, hand = draws.log_uniform(n, 3, 50), draws.sign(n)
    y, tall, thin = (
        hand * (road + draws.uniform(n, 0.3, 0.8)),
        draws.log_uniform(n, 1.0, 9.0),
        draws.uniform(n, 0.03, 0.12),
    )
    metal = material(draws, n, ("plain", "stripes"), ("grey", "dark", "wood"))
    clear = draws.chance(n, 0.75) & (away(eye, point(x, y, tall / 2), 0 * x, point(thin, thin, tall / 2)) > 0.8)
    stage.put(
        "cylinder",
        point(x, y, tall / 2),
        point(thin, thin, tall / 2),
        turn(0 * x, draws.normal(n, 0, 0.02)),
        metal,
        clear,
    )
    board = point(0 * x + 0.03, draws.uniform(n, 0.15, 0.6), draws.uniform(n, 0.1, 0.5))
    stage.put(
        "box",
        point(x - thin, y, tall - board[..., 2]),
        board,
        turn(0 * x),
        material(draws, n, ("plain", "print"), ("vivid", "white")),
        clear & draws.chance(n, 0.5),
    )
    wire = point(zero + 0.015, zero + 0.015, zero + 80).expand(-1, 2, -1)
    cable_y = torch.cat([road, -road], -1) * draws.uniform(2, 0.2, 1.2)
    cable = point(zero + 50, cable_y, draws.uniform(2, 5, 9))
    stage.put(
        "cylinder",
        cable,
        wire,
        turn(torch.full_like(cable_y, math.pi / 2) + draws.normal(2, 0, 0.08), math.pi / 2),
        material(draws, 2, ("plain",), ("dark",)),
        draws.chance(2, 0.3),
    )
    n = 3  # lane marks
    y = torch.cat([zero, -road * 0.92, road * 0.92], -1)
    paint = material(draws, 1, ("dashes",), ("white",)).expand(-1, n, -1)
    paint = torch.cat([asphalt[..., :3].expand(-1, n, -1), paint[..., 3:]], -1)
    solid = torch.arange(n, device=y.device) > 0
    paint = torch.where(solid[:, None], torch.cat([paint[..., 3:6], paint[..., 3:]], -1), paint)
    stage.put(
        "box",
        point(0 * y + 60, y, 0 * y),
        point(0 * y + 140, 0 * y + 0.07, 0 * y + 0.004),
        turn(0 * y),
        paint,
        draws.chance(n, 0.65),
    )
    n = 4
    x, y = draws.log_uniform(n, 5, 50), draws.sign(n) * (road + draws.uniform(n, 0.4, 1.0) * walk)
    trees(
        stage,
        eye,
        torch.stack([x, y], -1),
        0 * x,
        draws.log_uniform(n, 2.5, 11),
        draws.chance(n, 0.6) & draws.chance(1, 0.8),
    )
    n = 3
    x, y = draws.log_uniform(n, 3, 30), draws.sign(n) * (road + draws.uniform(n, -0.6, 0.8) * walk)
    people(stage, eye, torch.stack([x, y], -1), 0 * x, draws.chance(n, 0.6))
    pitch = draws.normal(1, -0.04, 0.08)
    return stage, View(eye, yaw, pitch, draws.normal(1, 0, 0.015), **_daylight(draws))


def landscape(draws: Draws) -> tuple[Stage, View]:
    """Open land: hills, trees, bushes, rocks, a house, a fence; often an animal close by."""
    stage = Stage(draws)
    zero = torch.zeros_like(draws.key_b1, dtype=torch.float64)
    eye = torch.cat(
        [zero, zero, torch.where(draws.chance(1, 0.2), draws.log_uniform(1, 2.5, 15), draws.uniform(1, 0.4, 1.9))], -1
    )
    kinds = ("grass", "grass", "mottled", "asphalt", "speckle", "tiles")
    _ground(
        stage, material(draws, 1, kinds, ("green", "green", "dry", "stone", "road"))[:, 0], draws.normal(1, 0, 0.03)
    )
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
    n = 2  # houses with a roof: a box on its edge
    x, angle = draws.log_uniform(n, 10, 70), draws.uniform(n, -0.7, 0.7)
    yaw, half = (
        draws.uniform(n, 0, 6.28),
        point(draws.uniform(n, 3, 7), draws.uniform(n, 2.5, 4), draws.uniform(n, 1.3, 3)),
    )
    xy = torch.stack([x * angle.cos(), x * angle.sin()], -1)
    coat = material(draws, n, ("windows", "bricks", "planks", "plain"), ("brick", "pale", "wall", "wood"))
    centre = point(xy[..., 0], xy[..., 1], half[..., 2])
    there = draws.chance(n, 0.45) & (away(eye, centre, yaw, half) > 4)
    stage.put("box", centre, half, turn(yaw), coat, there)
    roof = point(half[..., 0] * 1.03, half[..., 1] * 0.76, half[..., 1] * 0.76)
    tiles = material(draws, n, ("tiles", "bricks", "stripes", "plain"), ("brick", "dark", "stone"))
    stage.put("box", centre + point(0 * x, 0 * x, half[..., 2]), roof, turn(yaw, math.pi / 4), tiles, there)
    # a fence: two rails and posts
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
    return stage, View(eye, zero, pitch, draws.normal(1, 0, 0.03), **_daylight(draws))


def table_top(draws: Draws) -> tuple[Stage, View]:
    """A table seen from above with cups, plates, bottles, boxes and fruit; a room behind it."""
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
    _room(stage, low, high)
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
    n = 3  # bottles and jars: a neck on a body, and a pen that lies
    x, y = draws.uniform(n, 0.0, 0.4), draws.uniform(n, -0.35, 0.35)
    radius, tall = draws.uniform(n, 0.025, 0.045), draws.uniform(n, 0.06, 0.12)
    coat = material(draws, n, ("plain", "print", "mottled"), OBJECT_PALETTES, 4.0)
    inside = draws.chance(n, 0.4) & (x < 2 * reach - 0.25 * far - 0.05) & (y.abs() < half_y - 0.05)
    stage.put("cylinder", point(x, y, tall), point(radius, radius, tall), turn(0 * x), coat, inside)
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
        **_lamplight(draws, lamp),
    )
    return stage, view
