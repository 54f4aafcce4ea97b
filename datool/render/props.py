"""What scenes are made of: shapes on a stage, furniture, things, animals, people, trees; metres, z up."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from datool.render.draws import Draws, material


def turn(yaw: Tensor, tilt: Tensor | float = 0.0, spin: Tensor | float = 0.0) -> Tensor:
    """Return (..., 3, 3) local axes as rows: spun about z, tilted about x, then turned about the vertical."""
    tilt, spin = torch.zeros_like(yaw) + tilt, torch.zeros_like(yaw) + spin
    (cy, sy), (ct, st), (cs, ss) = ((a.cos(), a.sin()) for a in (yaw, tilt, spin))
    x = torch.stack([cy * cs - sy * ct * ss, sy * cs + cy * ct * ss, st * ss], -1)
    y = torch.stack([-cy * ss - sy * ct * cs, -sy * ss + cy * ct * cs, st * cs], -1)
    z = torch.stack([sy * st, -cy * st, ct], -1)
    return torch.stack([x, y, z], -2)


def cut(draws: Draws, cells_u: Tensor, cells_v: Tensor, share: Tensor | float) -> Tensor:
    """Return (B, n, 4): cells along a card's sides (B, n), the solid share of a cell, and a salt."""
    salt = draws.uniform(cells_u.shape[1], 0, 4096).floor()
    share = torch.zeros_like(cells_u) + share
    return torch.stack(torch.broadcast_tensors(cells_u, cells_v, share, salt), -1)


def point(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Return (B, n, 3) of three (B, n) that broadcast."""
    return torch.stack(torch.broadcast_tensors(x, y, z), -1)


NUM_PLANES = 6
SOLIDS = ("box", "ellipsoid", "cylinder")
CARDS = ("leaves", "blades", "mesh", "bars", "cables")  # flat and cut out: see tracing.CUTS
KINDS_OF_SHAPE = (*SOLIDS, *CARDS)


class Shapes(NamedTuple):
    """A run of shapes of one kind and what they are."""

    centre: Tensor
    half: Tensor
    axes: Tensor
    coat: Tensor
    active: Tensor
    mark: str = ""
    cut: Tensor | None = None


class Stage:
    """Collects shapes of one layout, all (B, n, ...), in world axes, and what the later effects must know of it.

    Args:
        draws: the random numbers that the shapes are drawn with.
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.shapes: dict[str, list[Shapes]] = {kind: [] for kind in KINDS_OF_SHAPE}
        self.planes: list[tuple[Tensor, Tensor, Tensor]] = []
        self.room: tuple[Tensor, Tensor] | None = None  # low and high corner (B, 3) of a scene within walls
        self.on_table = False  # whether the scene is about the table, whose top is z = 0
        self.kerb_b1: Tensor | None = None  # half the width of the road in a street, m
        self.waves_bw4: Tensor | None = None  # hills: see terrain

    def put(
        self,
        kind: str,
        centre: Tensor,
        half: Tensor,
        axes: Tensor,
        coat: Tensor,
        active: Tensor,
        mark: str = "",
        cut: Tensor | None = None,
    ) -> None:
        """Add n shapes: centre and half (B, n, 3), axes (B, n, 3, 3), material (B, n, K), active (B, n) bool.

        ``mark`` says what they are to an effect that looks for them (see ``marked``); cards have a ``cut`` (B, n, 4):
        see ``tracing.CUTS``.
        """
        self.shapes[kind].append(Shapes(centre, half, axes, coat, active, mark, cut))

    def runs(self) -> list[Shapes]:
        """Return all runs in the order of ``KINDS_OF_SHAPE``."""
        return [run for runs in self.shapes.values() for run in runs]

    def marked(self, mark: str) -> list[tuple[str, int, Shapes]]:
        """Return the runs of shapes that carry a mark, with their kind and place, so that they can be replaced."""
        runs = ((kind, place, run) for kind, runs in self.shapes.items() for place, run in enumerate(runs))
        return [(kind, place, run) for kind, place, run in runs if run.mark == mark]

    def plane(self, centre_b3: Tensor, axes_b33: Tensor, material_bk: Tensor) -> None:
        """Add a plane through ``centre`` whose normal, the last axis, points to the camera's side."""
        self.planes.append((centre_b3, axes_b33, material_bk))

    def where(self, xy: Tensor, yaw: Tensor, local: Tensor) -> Tensor:
        """Return (B, n, 3): the local offset turned by yaw, on the ground point xy (B, n, 2)."""
        c, s = yaw.cos(), yaw.sin()
        x, y, z = local.unbind(-1)
        return point(xy[..., 0] + c * x - s * y, xy[..., 1] + s * x + c * y, z)


def away(eye_b3: Tensor, centre: Tensor, yaw: Tensor, half: Tensor) -> Tensor:
    """Return (B, n) metres from the eye to upright boxes; 0 inside."""
    offset = eye_b3[:, None] - centre
    c, s = yaw.cos(), yaw.sin()
    local = point(c * offset[..., 0] + s * offset[..., 1], c * offset[..., 1] - s * offset[..., 0], offset[..., 2])
    return (local.abs() - half).clamp_min(0).norm(dim=-1)


# Parts of furniture in its bounding box, x and y in [-1, 1] with the back at y = 1, z in [0, 1]: centre, half size.
FURNITURE: dict[str, tuple[tuple[float, ...], ...]] = {
    "table": (
        *((0, 0, 0.97, 1, 1, 0.03), (0, 0, 0.87, 0.8, 0.75, 0.07)),
        *((x, y, 0.47, 0.05, 0.06, 0.47) for x in (-0.93, 0.93) for y in (-0.9, 0.9)),
    ),
    "chair": (
        *((0, 0, 0.48, 1, 1, 0.03), (0, 0.93, 0.75, 0.95, 0.06, 0.25)),
        *((x, y, 0.23, 0.07, 0.07, 0.23) for x in (-0.88, 0.88) for y in (-0.88, 0.88)),
    ),
    "sofa": (
        *((0, 0, 0.25, 1, 1, 0.2), (0, 0.8, 0.6, 1, 0.2, 0.4)),
        *((x, 0, 0.4, 0.1, 0.95, 0.3) for x in (-0.9, 0.9)),
        *((x, -0.05, 0.5, 0.38, 0.7, 0.07) for x in (-0.4, 0.4)),
    ),
    "bed": (
        *((0, 0, 0.2, 1, 1, 0.2), (0, -0.02, 0.5, 0.97, 0.96, 0.14), (0, 1, 0.5, 1.02, 0.03, 0.5)),
        *((x, 0.72, 0.7, 0.35, 0.2, 0.08) for x in (-0.45, 0.45)),
        (0, -0.35, 0.6, 1.0, 0.62, 0.06),
    ),
    "shelf": (
        *((x, 0, 0.5, 0.04, 1, 0.5) for x in (-0.96, 0.96)),
        *((0, 0, z, 0.93, 0.98, 0.018) for z in (0.05, 0.36, 0.67, 0.97)),
    ),
    "cabinet": (
        *((0, 0, 0.52, 1, 1, 0.46), (0, -0.02, 0.99, 1.03, 1.04, 0.012)),
        *((x, -1.02, 0.52, 0.47, 0.02, 0.44) for x in (-0.49, 0.49)),
        *((x, -1.07, 0.55, 0.02, 0.04, 0.07) for x in (-0.08, 0.08)),
    ),
}
# half width lo, hi | half depth lo, hi | height lo, hi | height of the surface that carries things, share of the height
FURNITURE_SIZES: dict[str, tuple[float, ...]] = {
    "table": (0.4, 1.0, 0.3, 0.55, 0.45, 0.78, 1.0),
    "chair": (0.2, 0.27, 0.2, 0.26, 0.8, 1.0, 0.51),
    "sofa": (0.6, 1.2, 0.38, 0.5, 0.7, 0.95, 0.57),
    "bed": (0.5, 1.0, 0.9, 1.05, 0.6, 0.95, 0.66),
    "shelf": (0.3, 0.8, 0.12, 0.2, 0.8, 2.1, 0.99),
    "cabinet": (0.3, 1.0, 0.2, 0.35, 0.6, 2.2, 1.0),
}


def furnish(
    stage: Stage, eye: Tensor, xy: Tensor, yaw: Tensor, kind: Tensor, floor: Tensor, clearance: Tensor, present: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Add n pieces of 6 boxes; return the carrying surface's centre (B, n, 3), half size (B, n, 2) and what stands."""
    draws, (b, n) = stage.draws, kind.shape
    device = kind.device
    size = torch.tensor(list(FURNITURE_SIZES.values()), dtype=torch.float64, device=device)[kind]
    parts = torch.tensor(list(FURNITURE.values()), dtype=torch.float64, device=device)[kind]  # (B, n, 6, 6)
    half = torch.stack([draws.uniform(n, size[..., 2 * i], size[..., 2 * i + 1]) for i in range(3)], -1)
    middle = point(xy[..., 0], xy[..., 1], floor + half[..., 2] / 2)
    bound = half * torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64, device=device)
    active = present & (away(eye, middle, yaw, bound) > clearance)
    local, part_half = parts[..., :3] * half[..., None, :], parts[..., 3:] * half[..., None, :]
    local = torch.cat([local[..., :2], local[..., 2:] + floor[..., None, None]], -1)
    flat = lambda t: t[:, :, None].expand(b, n, 6, *t.shape[2:]).reshape(b, n * 6, *t.shape[2:])  # noqa: E731
    centre = stage.where(flat(xy), flat(yaw), local.reshape(b, n * 6, 3))
    coats = [
        flat(
            material(draws, n, ("plain", "wood", "wood", "mottled", "print"), ("wood", "wood", "any", "pale", "grey"))
        ),
        flat(material(draws, n, ("plain", "mottled", "stripes", "speckle", "wood"), ("any", "wood", "pale", "wall"))),
    ]
    second = torch.arange(n * 6, device=device) % 6 >= 3
    coat = torch.where((second & flat(draws.chance(n, 0.5)))[..., None], coats[1], coats[0])
    stage.put("box", centre, part_half.reshape(b, n * 6, 3), turn(flat(yaw)), coat, flat(active))
    top = point(xy[..., 0], xy[..., 1], floor + half[..., 2] * size[..., 6])
    return top, half[..., :2], active


OBJECT_KINDS = ("plain", "plain", "mottled", "stripes", "print", "speckle", "wood", "checker", "waves", "tiles")
OBJECT_PALETTES = ("any", "vivid", "any", "wood", "pale", "dark", "grey", "glass")


def things(
    stage: Stage, shape: str, spot: Tensor, size: Tensor, eye: Tensor, clearance: Tensor, active: Tensor
) -> None:
    """Add n things of about ``size`` (B, n) metres that stand on ``spot`` (B, n, 3)."""
    draws, n = stage.draws, size.shape[1]
    yaw = draws.uniform(n, 0, 2 * math.pi)
    flat = draws.chance(n, 0.3)
    tall = torch.where(flat, draws.log_uniform(n, 0.08, 0.4), draws.log_uniform(n, 0.5, 2.2))
    wide = draws.log_uniform(n, 0.6, 1.2)
    if shape == "cylinder":  # cups, bottles and plates are round; few are oval
        wide = torch.where(draws.chance(n, 0.9), torch.ones_like(wide), wide)
        tall = torch.where(flat, tall * 0.5, tall * 1.3)
    half = size[..., None] / 2 * point(torch.ones_like(wide), wide, tall)
    centre = spot + point(torch.zeros_like(wide), torch.zeros_like(wide), half[..., 2])
    coat = material(draws, n, OBJECT_KINDS, OBJECT_PALETTES, scale=4.0)
    stage.put(shape, centre, half, turn(yaw), coat, active & (away(eye, centre, yaw, half) > clearance), mark="thing")


def subject(stage: Stage, eye: Tensor, xy: Tensor, floor: Tensor, size: Tensor, present: Tensor) -> None:
    """Add a four-legged animal of body length ``size`` (B,) at ``xy`` (B, 2): 8 ellipsoids, 4 cylinders."""
    draws, (b, device) = stage.draws, (len(size), size.device)
    yaw = draws.uniform(1, 0, 2 * math.pi)
    leg, girth = draws.uniform(1, 0.1, 0.6), draws.uniform(1, 0.17, 0.34)
    head, lift = draws.uniform(1, 0.11, 0.24), draws.uniform(1, -0.05, 0.45)
    body = leg + girth * 0.85
    nose = draws.uniform(1, -0.5, 0.5)  # the head looks aside
    zero, one = torch.zeros_like(leg), torch.ones_like(leg)
    reach = 0.5 + head * 0.5
    hx, hy, hz = reach, nose * 0.2, body + lift
    ear = draws.uniform(1, 0.25, 0.8)
    rows = [  # centre, half size, in body lengths
        (zero, zero, body, 0.5 * one, girth, girth),
        (0.3 * one, zero, body + 0.03, 0.25 * one, girth * 1.1, girth * 1.15),
        ((0.42 + reach) / 2, hy / 2, (body + hz) / 2 + 0.02, 0.6 * head + 0.08, 0.7 * head, 0.3 * lift.abs() + head),
        (hx, hy, hz, head * 1.1, head, head),
        (hx + head * nose.cos(), hy + head * nose.sin(), hz - 0.25 * head, head * 0.7, head * 0.45, head * 0.42),
        (hx - 0.2 * head, hy + 0.6 * head, hz + head * (0.6 + ear), head * 0.22, head * 0.3, head * ear),
        (hx - 0.2 * head, hy - 0.6 * head, hz + head * (0.6 + ear), head * 0.22, head * 0.3, head * ear),
        (-0.6 * one, zero, body + 0.1, 0.2 * one, 0.05 * one, 0.06 + 0.15 * ear),
    ]
    table = torch.stack([torch.cat(row, -1) for row in rows], 1) * size[:, None, None]  # (B, 8, 6)
    wide = yaw.expand(b, 8)
    local = table[..., :3] + point(zero, zero, floor[:, None])
    centre = stage.where(xy[:, None].expand(b, 8, 2), wide, local)
    furs = [material(draws, 1, ("fur", "fur", "mottled", "plain"), ("fur", "fur", "grey"), scale=2.0) for _ in range(2)]
    other = torch.tensor([0, 0, 0, 0, 1, 0, 0, 1], device=device, dtype=torch.bool)[None, :, None]
    coat = torch.where(other, furs[1], furs[0])
    middle = point(xy[:, :1], xy[:, 1:], (floor[:, None] + body * size[:, None]))
    bound = size[:, None, None] * torch.tensor([0.8, 0.4, 0.5], device=device, dtype=torch.float64)
    active = present[:, None] & (away(eye, middle, yaw, bound) > 0.3 * size[:, None])
    stage.put("ellipsoid", centre, table[..., 3:], turn(wide), coat, active.expand(b, 8))
    thick = draws.uniform(1, 0.04, 0.09).expand(b, 4) * size[:, None]
    side = torch.tensor([[0.36, 0.36, -0.36, -0.36], [0.6, -0.6, 0.6, -0.6]], device=device, dtype=torch.float64)
    tall = ((leg + 0.3 * girth) * size[:, None]).expand(b, 4)
    local = point(side[0] * size[:, None], side[1] * girth * size[:, None], floor[:, None] + tall / 2)
    centre = stage.where(xy[:, None].expand(b, 4, 2), yaw.expand(b, 4), local)
    stage.put(
        "cylinder",
        centre,
        point(thick, thick, tall / 2),
        turn(yaw.expand(b, 4)),
        furs[0].expand(b, 4, -1),
        active.expand(b, 4),
    )


def people(stage: Stage, eye: Tensor, xy: Tensor, floor: Tensor, present: Tensor) -> None:
    """Add n standing people at ``xy`` (B, n, 2): 3 ellipsoids, 2 cylinders each."""
    draws, n = stage.draws, present.shape[1]
    tall, yaw = draws.uniform(n, 1.2, 1.9), draws.uniform(n, 0, 2 * math.pi)
    stride = draws.uniform(n, 0.02, 0.16)
    active = present & (
        away(eye, point(xy[..., 0], xy[..., 1], floor + 0.9), yaw, torch.full_like(eye, 0.35)[:, None]) > 0.7
    )
    zero = torch.zeros_like(tall)
    top = material(draws, n, ("plain", "mottled", "stripes", "print"), ("any", "vivid", "dark", "grey"), scale=2.0)
    legs = material(draws, n, ("plain", "mottled"), ("dark", "any", "grey"))
    skin = material(draws, n, ("plain",), ("fur",))
    for share, half, coat in (
        (0.93, (0.055, 0.045, 0.07), skin),
        (0.7, (0.07, 0.13, 0.19), top),
        (0.52, (0.065, 0.1, 0.1), legs),
    ):
        centre = stage.where(xy, yaw, point(zero, zero, floor + share * tall))
        stage.put("ellipsoid", centre, tall[..., None] * tall.new_tensor(half), turn(yaw), coat, active)
    for side in (-1, 1):
        centre = stage.where(xy, yaw, point(side * stride * tall, side * 0.05 * tall, floor + 0.25 * tall))
        axes = turn(yaw + math.pi / 2, side * stride)
        stage.put("cylinder", centre, tall[..., None] * tall.new_tensor((0.04, 0.04, 0.26)), axes, legs, active)


def trees(stage: Stage, eye: Tensor, xy: Tensor, floor: Tensor, tall: Tensor, present: Tensor) -> None:
    """Add n trees at ``xy`` (B, n, 2): a trunk and 3 ellipsoids of leaves each."""
    draws, n = stage.draws, present.shape[1]
    yaw, crown = draws.uniform(n, 0, 2 * math.pi), draws.uniform(n, 0.18, 0.42)
    bare = draws.uniform(n, 0.1, 0.5)  # where the crown begins, share of the height
    half = torch.stack([crown * tall, crown * tall, tall / 2], -1)
    active = present & (away(eye, point(xy[..., 0], xy[..., 1], floor + tall / 2), yaw, half) > 0.5)
    trunk = tall[..., None] * point(
        draws.uniform(n, 0.012, 0.035), torch.full_like(tall, 0.02), torch.full_like(tall, 0.35)
    )
    trunk = torch.cat([trunk[..., :1], trunk[..., :1], trunk[..., 2:]], -1)
    bark = material(draws, n, ("wood", "mottled"), ("wood", "dark", "stone"))
    stage.put(
        "cylinder",
        point(xy[..., 0], xy[..., 1], floor + trunk[..., 2]),
        trunk,
        turn(yaw, draws.normal(n, 0, 0.05)),
        bark,
        active,
    )
    leaf = material(draws, n, ("leaves", "leaves", "grass"), ("green", "green", "green", "dry"))
    for i in range(3):
        wide = crown * tall * draws.uniform(n, 0.55, 1.0)
        deep = (1 - bare) * tall / 2 * draws.uniform(n, 0.5, 0.9)
        aside_x, aside_y = (draws.uniform(n, -0.5, 0.5) * crown * tall for _ in range(2))
        local = point(aside_x, aside_y, floor + bare * tall + deep * (1 + 0.4 * i))
        stage.put(
            "ellipsoid",
            stage.where(xy, yaw, local),
            point(wide, wide * draws.uniform(n, 0.7, 1.2), deep),
            turn(yaw),
            leaf,
            active,
            mark="crown",
        )
