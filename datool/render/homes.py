"""Rooms that are lived in: dining tables with chairs, sofas, beds, kitchens, full shelves, curtains, people."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import Draws, material
from datool.render.figures import beasts, persons
from datool.render.limbs import limb
from datool.render.props import FURNITURE, Stage, away, cut, furnish, point, things, turn
from datool.render.rooms import WALL_YAW, Room
from datool.render.views import View, lamplight, room

TABLE, CHAIR, SOFA, BED, SHELF, CABINET = (list(FURNITURE).index(name) for name in FURNITURE)


def home(draws: Draws) -> tuple[Stage, View]:
    """Return a room furnished about a table, a sofa or a bed, seen from a corner or a wall at any height."""
    stage = Stage(draws)
    size = torch.cat([draws.log_uniform(2, 2.8, 8.0), draws.uniform(1, 2.3, 3.2)], -1)
    plan = size[:, :2] / 2
    low, high = torch.cat([-plan, torch.zeros_like(size[:, :1])], -1), torch.cat([plan, size[:, 2:]], -1)
    room(stage, low, high)
    corner = draws.chance(1, 0.4)
    x = -plan[:, :1] + draws.uniform(1, 0.2, 0.8)
    y = torch.where(
        corner, draws.sign(1) * (plan[:, 1:] - draws.uniform(1, 0.2, 0.6)), draws.uniform(1, -0.7, 0.7) * plan[:, 1:]
    )
    z = torch.where(draws.chance(1, 0.2), draws.uniform(1, 0.25, 0.8), draws.uniform(1, 1.0, 1.9))
    eye = torch.cat([x, y, z], -1)
    yaw = torch.atan2(-y * draws.uniform(1, 0.5, 1.0), plan[:, :1] * draws.uniform(1, 0.1, 1.0) - x) + draws.normal(
        1, 0, 0.25
    )
    pitch = torch.where(draws.chance(1, 0.2), draws.uniform(1, -0.6, 0.45), draws.normal(1, -0.12, 0.14))
    inside = Room(size, eye, yaw, draws.uniform(1, 0.3, 0.7))
    _middle(stage, inside)
    _along_walls(stage, inside)
    _windows(stage, inside)
    _kitchen(stage, inside)
    _lights(stage, inside)
    lamp = draws.uniform(1, -0.8, 0.8) * plan[:, :1], draws.uniform(1, -0.8, 0.8) * plan[:, 1:]
    lamp_b3 = torch.cat([*lamp, size[:, 2:] - draws.uniform(1, 0.1, 0.7)], -1)
    return stage, View(eye, yaw, pitch, draws.normal(1, 0, 0.03), **lamplight(draws, lamp_b3))


def _middle(stage: Stage, inside: Room) -> None:
    """Add a table with chairs round it and a meal on it, or a sofa before a low table; people sit there."""
    draws, (_, eye, yaw, clearance), plan = stage.draws, inside, inside.plan_b2
    dining = draws.chance(1, 0.5)
    heading = draws.pick(1, 4) * (math.pi / 2) + draws.normal(1, 0, 0.1)
    xy = torch.cat([draws.uniform(1, -0.1, 0.6) * plan[:, :1], draws.uniform(1, -0.5, 0.5) * plan[:, 1:]], -1)[:, None]
    floor, yes = torch.zeros_like(yaw), torch.ones_like(dining)
    low = torch.where(dining, 0.0, -0.3)  # a low table is sunk into the floor
    kind = torch.full_like(heading, TABLE, dtype=torch.int64)
    top, half, stands = furnish(stage, eye, xy, heading, kind, floor + low, clearance, yes)
    n = 6
    ring = torch.arange(n, device=yaw.device)
    end = ring >= 4
    local_x = torch.where(
        end, (ring * 2 - 9) * (half[..., :1].squeeze(1) + 0.25), (ring % 2 * 2 - 1) * 0.5 * half[:, 0, :1]
    )
    local_y = torch.where(end, 0.0, ((ring // 2) % 2 * 2 - 1) * (half[:, 0, 1:] + 0.18))
    turned = torch.where(end, (ring * 2 - 9) * (-math.pi / 2), torch.where((ring // 2) % 2 == 1, 0.0, math.pi))
    chair_yaw = heading + turned + draws.normal(n, 0, 0.15)
    pushed = draws.uniform(n, 0, 0.35)
    seat = stage.where(
        xy.expand(-1, n, -1), heading.expand(-1, n), point(local_x * (1 + pushed), local_y * (1 + pushed), 0 * local_x)
    )
    limit = (plan - 0.35).clamp_min(0)[:, None]
    spot = seat[..., :2].maximum(-limit).minimum(limit)
    there = dining & draws.chance(n, 0.8) & stands
    chair = torch.full_like(ring, CHAIR).expand(len(yaw), n)
    _, _, stands_b = furnish(stage, eye, spot, chair_yaw, chair, floor.expand(-1, n), clearance, there)
    sits = stands_b & draws.chance(n, 0.3)
    tall = draws.uniform(n, 1.4, 1.9)
    # the back of a chair is local y = 1, so that who sits there looks to -y
    persons(stage, eye, spot, 0.18 + 0 * tall, chair_yaw - math.pi / 2, tall, torch.ones_like(sits), sits)
    sofa_at = stage.where(xy, heading, point(0 * yaw, half[..., 1] + 0.9, 0 * yaw))[..., :2]
    sofa_at = sofa_at.maximum(-limit * 0.9).minimum(limit * 0.9)
    kind = torch.full_like(heading, SOFA, dtype=torch.int64)
    _, wide, stands_c = furnish(stage, eye, sofa_at, heading, kind, floor, clearance, ~dining)
    n = 2
    place = stage.where(
        sofa_at.expand(-1, n, -1),
        heading.expand(-1, n),
        point(wide[..., :1].squeeze(1) * wide.new_tensor([[-0.45, 0.4]]), 0 * yaw - 0.1, 0 * yaw),
    )
    lounging = stands_c & draws.chance(n, 0.35)
    persons(
        stage,
        eye,
        place[..., :2],
        0.1 + 0 * place[..., 0],
        heading - math.pi / 2 + draws.normal(n, 0, 0.3),
        draws.uniform(n, 1.4, 1.9),
        torch.ones_like(lounging),
        lounging,
    )
    for shape, count in (("box", 5), ("ellipsoid", 5), ("cylinder", 7)):
        x, y = (draws.uniform(count, -0.85, 0.85) * half[..., axis] for axis in (0, 1))
        on_top = stage.where(xy.expand(-1, count, -1), heading.expand(-1, count), point(x, y, top[..., 2]))
        things(
            stage,
            shape,
            on_top,
            draws.log_uniform(count, 0.06, 0.28),
            eye,
            0.2 + 0 * clearance,
            stands & draws.chance(count, 0.8),
        )
    n = 2
    x, y = draws.uniform(n, -0.3, 0.9) * plan[:, :1], draws.uniform(n, -0.8, 0.8) * plan[:, 1:]
    spot = torch.stack([x, y], -1)
    there = draws.chance(n, 0.3)
    persons(
        stage, eye, spot, 0 * x, draws.uniform(n, 0, 6.28), draws.uniform(n, 1.1, 1.9), torch.zeros_like(there), there
    )
    pet = torch.stack([draws.uniform(1, -0.4, 0.7) * plan[:, :1], draws.uniform(1, -0.7, 0.7) * plan[:, 1:]], -1)
    beasts(stage, eye, pet, floor, draws.uniform(1, 0, 6.28), draws.uniform(1, 0.35, 0.8), draws.chance(1, 0.25))
    rug = point(draws.uniform(1, 0.8, 1.8), draws.uniform(1, 0.7, 1.4), 0.008 + 0 * yaw)
    coat = material(
        draws, 1, ("print", "stripes", "mottled", "checker", "waves", "plain"), ("any", "pale", "wood"), 1.5
    )
    stage.put("box", point(xy[..., 0], xy[..., 1], 0.004 + 0 * yaw), rug, turn(heading), coat, draws.chance(1, 0.6))


def _on_wall(inside: Room, wall: Tensor, along: Tensor, depth: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return xy (B, n, 2) and the yaw of what stands ``depth`` before a wall, ``along`` in [-1, 1]."""
    out_x, out_y = (inside.plan_b2[:, i : i + 1] - depth for i in (0, 1))
    x = torch.where(wall == 0, out_x, torch.where(wall == 1, -out_x, along * (out_x - 0.3)))
    y = torch.where(wall == 2, out_y, torch.where(wall == 3, -out_y, along * (out_y - 0.3)))
    return torch.stack([x, y], -1), inside.plan_b2.new_tensor(WALL_YAW)[wall]


def _along_walls(stage: Stage, inside: Room) -> None:
    """Add a bed with lamps beside, shelves full of books, cabinets, pictures in rows, a television."""
    draws, (_, eye, yaw, clearance) = stage.draws, inside
    n = 6
    kind = yaw.new_tensor([BED, SHELF, SHELF, CABINET, CABINET, SOFA]).long().expand(len(yaw), n)
    wall, along = draws.pick(n, 4), draws.uniform(n, -1, 1)
    wall = torch.where(wall == 1, 0, wall)
    xy, facing = _on_wall(inside, wall, along, yaw.new_tensor([1.05, 0.22, 0.22, 0.35, 0.35, 0.5]))
    there = draws.chance(n, 0.7) & torch.cat([draws.chance(1, 0.45), torch.ones_like(wall[:, 1:], dtype=torch.bool)], 1)
    floor = torch.zeros_like(along)
    top, half, stands = furnish(stage, eye, xy, facing, kind, floor, clearance, there)
    for shelf in (1, 2):  # three rows of books between the boards of a shelf
        n = 14
        coat = material(draws, n, ("plain", "print", "stripes"), ("any", "vivid", "dark", "pale"), 3.0)
        wide, deep, tall = half[:, shelf, :1], half[:, shelf, 1:], top[:, shelf, 2:] / 0.99
        row = torch.arange(n, device=yaw.device) % 3
        across, up = draws.uniform(n, -0.8, 0.8) * wide, tall * (0.07 + 0.31 * row)
        book = point(
            draws.uniform(n, 0.015, 0.1), deep * draws.uniform(n, 0.5, 0.85), tall * draws.uniform(n, 0.06, 0.12)
        )
        place = stage.where(
            xy[:, shelf : shelf + 1].expand(-1, n, -1),
            facing[:, shelf : shelf + 1].expand(-1, n),
            point(across, 0 * across - 0.02, up + book[..., 2]),
        )
        axes = turn(facing[:, shelf : shelf + 1] + draws.normal(n, 0, 0.05))
        stage.put("box", place, book, axes, coat, stands[:, shelf : shelf + 1] & draws.chance(n, 0.85))
    for shape, count in (("box", 4), ("ellipsoid", 4), ("cylinder", 5)):
        slot = draws.pick(count, 4) + 1
        take = lambda t, slot=slot: t.gather(1, slot[..., None].expand(-1, -1, t.shape[-1]))  # noqa: E731
        lying = point(
            draws.uniform(count, -0.8, 0.8) * take(half)[..., 0],
            draws.uniform(count, -0.5, 0.5) * take(half)[..., 1],
            0 * floor[:, :1],
        )
        on_top = stage.where(take(xy), facing.gather(1, slot), lying + take(top) * top.new_tensor([0, 0, 1.0]))
        things(stage, shape, on_top, draws.log_uniform(count, 0.08, 0.4), eye, clearance, stands.gather(1, slot))
    n = 5
    wall, along = draws.pick(n, 4), draws.uniform(n, -1, 1)
    xy, facing = _on_wall(inside, wall, along, 0.0)
    screen = torch.arange(n, device=yaw.device) == 0
    flat = point(draws.log_uniform(n, 0.15, 0.7), 0.02 + 0 * along, draws.log_uniform(n, 0.15, 0.5))
    coat = material(draws, n, ("print", "mottled", "plain", "waves"), ("any", "vivid", "wood", "pale"), 2.0)
    coat = torch.where(screen[:, None], material(draws, n, ("plain", "print"), ("dark", "dark", "vivid")), coat)
    centre = point(xy[..., 0], xy[..., 1], draws.uniform(n, 1.2, 1.7))
    seen = draws.chance(n, 0.75) & (away(eye, centre, facing, flat) > clearance)
    stage.put("box", centre, flat, turn(facing), coat, seen, mark="picture")
    frame = material(draws, n, ("plain", "wood"), ("wood", "dark", "white"))
    rim = flat + point(0.03 + 0 * along, -0.008 + 0 * along, 0.03 + 0 * along)
    stage.put("box", centre, rim, turn(facing), frame, seen)
    _plants(stage, inside)


def _plants(stage: Stage, inside: Room) -> None:
    """Add pots with leaves in corners."""
    draws, n, plan = stage.draws, 2, inside.plan_b2
    x, y = (draws.sign(n) * (plan[:, i : i + 1] - draws.uniform(n, 0.25, 0.6)) for i in (0, 1))
    pot, tall = draws.uniform(n, 0.1, 0.2), draws.uniform(n, 0.4, 1.5)
    there = draws.chance(n, 0.45) & (away(inside.eye_b3, point(x, y, tall / 2), 0 * x, point(pot, pot, tall / 2)) > 0.7)
    clay = material(draws, n, ("plain", "mottled"), ("brick", "white", "any", "grey"))
    stage.put("cylinder", point(x, y, pot), point(pot, pot, pot), turn(0 * x), clay, there)
    green = material(draws, n, ("plain", "leaves"), ("green",), 3.0)
    limb(stage, point(x, y, pot), point(x, y, tall), 0 * x + 0.015, green, there, "cylinder")
    size, cells = 0.25 + 0.25 * tall, 0 * x + 6
    for k in range(4):
        axes = turn(draws.uniform(n, 0, 6.28), draws.uniform(n, 0.6, 1.9))
        up = tall * (0.75 + 0.12 * k)
        stage.put(
            "leaves",
            point(x, y, up),
            point(size, size, 0 * x + 1),
            axes,
            green,
            there,
            cut=cut(draws, cells, cells, 0.9),
        )


def _windows(stage: Stage, inside: Room) -> None:
    """Add windows with frames, curtains of upright folds, and doors with a frame and a handle."""
    draws, (_, eye, _, clearance) = stage.draws, inside
    n = 3
    wall, along = draws.pick(n, 4), draws.uniform(n, -0.8, 0.8)
    xy, facing = _on_wall(inside, wall, along, 0.0)
    zero = 0 * along
    wide, tall = draws.log_uniform(n, 0.35, 1.3), draws.uniform(n, 0.4, 0.75)
    centre = point(xy[..., 0], xy[..., 1], 1.45 + zero)
    seen = draws.chance(n, 0.65) & (away(eye, centre, facing, point(wide, zero + 0.3, tall)) > clearance)
    pane = material(draws, n, ("mottled", "plain", "leaves"), ("sky", "white", "green", "sky"), glow=1.2)
    stage.put("box", centre, point(wide, zero + 0.02, tall), turn(facing), pane, seen, mark="window")
    wood = material(draws, n, ("plain",), ("white", "white", "wood", "dark"))
    for x, z, half_x, half_z in (
        (0, 0, 0.02, 1),
        (0, 0.3, 1, 0.02),
        (-1, 0, 0.04, 1.03),
        (1, 0, 0.04, 1.03),
        (0, -1, 1.1, 0.04),
    ):
        at = stage.where(xy, facing, point(x * wide, zero - 0.03, 1.45 + z * tall))
        bar = point(
            wide * half_x if half_x > 0.5 else zero + half_x,
            zero + 0.03,
            tall * half_z if half_z > 0.5 else zero + half_z,
        )
        stage.put("box", at, bar, turn(facing), wood, seen)
    cloth = material(draws, n, ("plain", "stripes", "print", "mottled"), ("any", "pale", "white"), 1.5)
    hung = seen & draws.chance(n, 0.65)
    drop = draws.uniform(n, 0.0, 0.6)  # how far up from the floor it ends
    for fold in range(8):
        hand = -1 if fold < 4 else 1
        at_x = hand * (wide * 1.15 - 0.09 * (fold % 4))
        top = 1.5 + tall
        place = stage.where(xy, facing, point(at_x, zero - 0.1 - 0.02 * (fold % 2), (top + drop) / 2))
        stage.put("cylinder", place, point(zero + 0.055, zero + 0.04, (top - drop) / 2), turn(facing), cloth, hung)
    n = 2
    wall, along = draws.pick(n, 4), draws.uniform(n, -0.9, 0.9)
    xy, facing = _on_wall(inside, wall, along, 0.0)
    zero = 0 * along
    coat, frame = (material(draws, n, ("plain", "wood", "planks"), ("white", "wood", "any", "pale")) for _ in "ab")
    ajar = torch.where(draws.chance(n, 0.3), draws.uniform(n, 0.2, 1.4), 0.0)
    seen = draws.chance(n, 0.6) & (
        away(eye, point(xy[..., 0], xy[..., 1], 1 + zero), facing, point(zero + 0.5, zero + 0.9, zero + 1)) > 0.5
    )
    stage.put(
        "box",
        point(xy[..., 0], xy[..., 1], 1.03 + zero),
        point(zero + 0.5, zero + 0.03, zero + 1.03),
        turn(facing),
        frame,
        seen,
    )
    hinge = stage.where(xy, facing, point(zero - 0.42, zero - 0.05, zero))[..., :2]
    leaf = stage.where(hinge, facing - ajar, point(zero + 0.42, zero, zero + 1.0))
    stage.put("box", leaf, point(zero + 0.42, zero + 0.025, zero + 1.0), turn(facing - ajar), coat, seen)
    knob = stage.where(hinge, facing - ajar, point(zero + 0.76, zero - 0.06, zero + 1.0))
    stage.put(
        "ellipsoid",
        knob,
        point(zero + 0.05, zero + 0.04, zero + 0.025),
        turn(facing),
        material(draws, n, ("plain",), ("grey",)),
        seen,
    )


def _kitchen(stage: Stage, inside: Room) -> None:
    """Add, now and then, a row of kitchen units along a wall, cupboards over it and things on it."""
    draws, (_, eye, _, clearance) = stage.draws, inside
    n = 6
    there = draws.chance(1, 0.3)
    wall = draws.pick(1, 3)
    wall = torch.where(wall == 1, 3, wall).expand(-1, n)
    width = torch.where(wall < 2, inside.plan_b2[:, 1:], inside.plan_b2[:, :1])
    step = torch.arange(n, device=width.device) * 0.62 + 0.31
    along = (step - width.clamp_max(1.9)) / (width - 0.6).clamp_min(0.3)
    fits = along.abs() < 1
    front, top = (
        material(draws, 1, ("plain", "wood", "planks"), ("white", "wood", "any", "grey")).expand(-1, n, -1)
        for _ in "ab"
    )
    for depth, low, high, share, coat in (
        (0.3, 0.1, 0.86, 1.0, front),
        (0.32, 0.87, 0.91, 1.0, top),
        (0.18, 1.4, 2.05, 0.75, front),
    ):
        xy, facing = _on_wall(inside, wall, along, depth)
        tall = torch.full_like(along, (high - low) / 2)
        centre, half = point(xy[..., 0], xy[..., 1], low + tall), point(0 * tall + 0.3, 0 * tall + depth, tall)
        seen = there & fits & draws.chance(n, share) & (away(eye, centre, facing, half) > clearance)
        stage.put("box", centre, half, turn(facing), coat, seen)
        handle = stage.where(xy, facing, point(0 * tall + 0.2, 0 * tall - depth - 0.02, low + 1.5 * tall))
        metal = material(draws, 1, ("plain",), ("grey",)).expand(-1, n, -1)
        stage.put("box", handle, point(0 * tall + 0.06, 0 * tall + 0.02, 0 * tall + 0.01), turn(facing), metal, seen)
    xy, facing = _on_wall(inside, wall, along, 0.32)
    for shape in ("box", "ellipsoid", "cylinder"):
        spot = stage.where(
            xy, facing, point(draws.uniform(n, -0.2, 0.2), draws.uniform(n, -0.15, 0.15), 0 * along + 0.91)
        )
        things(
            stage, shape, spot, draws.log_uniform(n, 0.08, 0.35), eye, clearance, there & fits & draws.chance(n, 0.5)
        )


def _lights(stage: Stage, inside: Room) -> None:
    """Add hanging lamps, floor lamps, beams under the ceiling."""
    draws, (size, eye, _, _clearance), plan = stage.draws, inside, inside.plan_b2
    n = 3
    x, y = draws.uniform(n, -0.6, 0.7) * plan[:, :1], draws.uniform(n, -0.7, 0.7) * plan[:, 1:]
    cord, bulb = draws.uniform(n, 0.15, 1.2), draws.uniform(n, 0.08, 0.28)
    ceiling = size[:, 2:]
    shade, centre = point(bulb, bulb, bulb * draws.uniform(n, 0.4, 1.1)), point(x, y, ceiling - cord)
    seen = draws.chance(n, 0.5) & (away(eye, centre, 0 * x, shade) > 0.5)
    glow = material(draws, n, ("plain", "stripes"), ("white", "pale", "any"), 1.0, 0.7)
    round_ = draws.chance(n, 0.6)
    stage.put("ellipsoid", centre, shade, turn(0 * x), glow, seen & round_)
    stage.put("cylinder", centre, shade, turn(0 * x), glow, seen & ~round_)
    limb(
        stage, centre, point(x, y, ceiling), 0 * x + 0.008, material(draws, n, ("plain",), ("dark",)), seen, "cylinder"
    )
    n = 2
    x, y = (draws.sign(n) * (plan[:, i : i + 1] - draws.uniform(n, 0.25, 0.5)) for i in (0, 1))
    tall, wide = draws.uniform(n, 1.2, 1.7), draws.uniform(n, 0.13, 0.25)
    foot, head = point(x, y, 0 * x), point(x, y, tall)
    seen = draws.chance(n, 0.4) & (away(eye, head, 0 * x, point(wide, wide, wide)) > 0.6)
    limb(stage, foot, head, 0 * x + 0.015, material(draws, n, ("plain",), ("dark", "grey", "wood")), seen, "cylinder")
    lit = material(draws, n, ("plain",), ("white", "pale"), 1.0, 0.9)
    stage.put("cylinder", head, point(wide, wide, 0.8 * wide), turn(0 * x), lit, seen)
    base = point(0 * x + 0.14, 0 * x + 0.14, 0 * x + 0.02)
    stage.put("cylinder", foot, base, turn(0 * x), material(draws, n, ("plain",), ("dark", "grey")), seen)
    n = 4
    beam = draws.chance(1, 0.2).expand(-1, n)
    step = (torch.arange(n, device=x.device) - 1.5) * plan[:, :1] * 0.5
    half = point(0 * step + 0.08, plan[:, 1:], 0 * step + 0.1)
    wood = material(draws, 1, ("wood", "plain"), ("wood", "dark", "white")).expand(-1, n, -1)
    stage.put("box", point(step, 0 * step, ceiling - 0.1), half, turn(0 * step), wood, beam)
