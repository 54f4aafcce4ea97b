"""Cars, vans, buses and lorries on wheels; bicycles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datool.render.draws import changed, material
from datool.render.limbs import Kit, kits, limb
from datool.render.props import Stage, away, point, turn

PAINT, GLASS, DARK, LIGHT, REAR = range(5)
BUMPERS = ((0, 0.27, 1.02, 0.96, 0.06, 0, DARK), (0.985, 0.46, 0.03, 0.9, 0.05, 0, LIGHT))
REAR_LIGHTS = (-0.985, 0.47, 0.03, 0.92, 0.05, 0, REAR)
VEHICLES: dict[str, Kit] = {
    "saloon": (
        *((0, 0.4, 1, 1, 0.19, 0, PAINT), (-0.14, 0.76, 0.5, 0.86, 0.17, 0, GLASS)),
        *((-0.16, 0.94, 0.42, 0.84, 0.035, 0, PAINT), (0.4, 0.77, 0.17, 0.84, 0.05, -42, GLASS)),
        *((-0.69, 0.77, 0.17, 0.84, 0.05, 38, GLASS), REAR_LIGHTS, *BUMPERS),
        (-0.05, 0.7, 0.03, 0.87, 0.22, 0, PAINT),
    ),
    "hatchback": (
        *((0, 0.42, 1, 1, 0.2, 0, PAINT), (-0.25, 0.76, 0.66, 0.9, 0.16, 0, GLASS)),
        *((-0.25, 0.94, 0.62, 0.88, 0.04, 0, PAINT), (0.46, 0.77, 0.16, 0.88, 0.05, -42, GLASS)),
        *((-0.91, 0.77, 0.12, 0.87, 0.05, 68, GLASS), REAR_LIGHTS, *BUMPERS),
        (-0.25, 0.73, 0.04, 0.91, 0.2, 0, PAINT),
    ),
    "van": (
        *((0, 0.32, 1, 1, 0.2, 0, PAINT), (-0.2, 0.68, 0.8, 0.98, 0.31, 0, PAINT)),
        *((0.42, 0.68, 0.16, 0.985, 0.13, 0, GLASS), (0.66, 0.72, 0.17, 0.9, 0.04, -48, GLASS)),
        *((-0.995, 0.72, 0.012, 0.7, 0.12, 0, GLASS), REAR_LIGHTS, *BUMPERS),
        (-0.3, 0.99, 0.6, 0.9, 0.015, 0, PAINT),
    ),
    "bus": (
        *((0, 0.32, 1, 1, 0.21, 0, PAINT), (0, 0.66, 0.985, 0.985, 0.15, 0, GLASS)),
        *((0, 0.89, 0.99, 1, 0.1, 0, PAINT), (0.99, 0.6, 0.014, 0.92, 0.2, 0, GLASS)),
        *((0.72, 0.46, 0.09, 1.006, 0.34, 0, DARK), REAR_LIGHTS, *BUMPERS),
        (-0.2, 0.46, 0.09, 1.006, 0.34, 0, DARK),
    ),
    "lorry": (
        *((0.78, 0.42, 0.2, 0.95, 0.3, 0, PAINT), (-0.24, 0.6, 0.76, 1, 0.38, 0, LIGHT)),
        *((-0.1, 0.2, 0.88, 0.7, 0.05, 0, DARK), (0.985, 0.56, 0.014, 0.86, 0.12, 0, GLASS)),
        *((0.8, 0.56, 0.1, 0.96, 0.1, 0, GLASS), REAR_LIGHTS, *BUMPERS),
        (0.7, 0.78, 0.1, 0.85, 0.06, 20, PAINT),
    ),
}
# half length lo, hi | half width lo, hi | height lo, hi | wheel radius | share of all
SIZES: dict[str, tuple[float, ...]] = {
    "saloon": (2.1, 2.4, 0.85, 0.95, 1.35, 1.5, 0.32, 0.38),
    "hatchback": (1.8, 2.3, 0.82, 0.97, 1.45, 1.8, 0.33, 0.36),
    "van": (2.3, 3.0, 0.92, 1.05, 1.9, 2.6, 0.35, 0.13),
    "bus": (4.5, 6.0, 1.2, 1.3, 2.8, 3.3, 0.48, 0.06),
    "lorry": (3.0, 6.0, 1.1, 1.28, 2.6, 3.9, 0.48, 0.07),
}


def vehicles(
    stage: Stage, eye: Tensor, xy: Tensor, yaw: Tensor, present: Tensor, small: bool = False, clearance: float = 1.2
) -> None:
    """Add n vehicles at ``xy`` (B, n, 2), their front to ``yaw``; ``small`` leaves out buses and lorries."""
    draws, n = stage.draws, present.shape[1]
    rows = torch.tensor(list(SIZES.values()), dtype=torch.float64, device=yaw.device)
    edges = rows[: 3 if small else 5, 7].cumsum(0)
    pick = (draws.uniform(n)[..., None] * edges[-1] >= edges[:-1]).sum(-1)
    row = rows[pick]
    size = torch.stack([draws.uniform(n, row[..., 2 * i], row[..., 2 * i + 1]) for i in range(3)], -1)
    zero, tall = torch.zeros_like(yaw), size[..., 2:] / 2
    bound = torch.cat([size[..., :2], tall], -1)
    there = present & (away(eye, point(xy[..., 0], xy[..., 1], tall[..., 0]), yaw, bound) > clearance)
    coats = [
        material(draws, n, ("plain",), ("vivid", "grey", "grey", "dark", "white", "white")),
        material(draws, n, ("plain", "mottled"), ("glass", "dark")),
        *(material(draws, n, ("plain",), (palette,)) for palette in ("dark", "white", "red")),
    ]
    coats[:2] = [changed(coat, there, shine=shine) for coat, shine in zip(coats, (0.8, 1.0), strict=False)]
    kits(stage, list(VEHICLES.values()), pick, xy, 0.0, yaw, size, coats, there, mark="car")
    radius, rim = row[..., 6], material(draws, n, ("plain",), ("grey", "dark"))
    for end in (-0.62, 0.62):
        axle = stage.where(xy, yaw, point(end * size[..., 0], zero, radius))
        for share, beyond, coat in ((1.0, 0.01, coats[DARK]), (0.55, 0.025, rim)):
            wheel = point(share * radius, share * radius, size[..., 1] + beyond)
            stage.put("cylinder", axle, wheel, turn(yaw, math.pi / 2), coat, there)


def bicycles(stage: Stage, eye: Tensor, xy: Tensor, yaw: Tensor, present: Tensor) -> None:
    """Add n bicycles at ``xy`` (B, n, 2): two discs of a wheel, four tubes."""
    draws, n = stage.draws, present.shape[1]
    zero = torch.zeros_like(yaw)
    bound = point(zero + 0.9, zero + 0.3, zero + 0.5)
    there = present & (away(eye, point(xy[..., 0], xy[..., 1], zero + 0.5), yaw, bound) > 0.6)
    paint, dark = material(draws, n, ("plain",), ("vivid", "dark", "grey")), material(draws, n, ("plain",), ("dark",))
    at = lambda x, y, z: stage.where(xy, yaw, point(zero + x, zero + y, zero + z))  # noqa: E731
    for x in (-0.52, 0.52):
        half = point(zero + 0.33, zero + 0.33, zero + 0.018)
        stage.put("cylinder", at(x, 0, 0.33), half, turn(yaw, math.pi / 2), dark, there)
    thin = zero + 0.02
    for start, end in (
        ((-0.52, 0, 0.33), (-0.15, 0, 0.85)),
        ((-0.25, 0, 0.6), (0.4, 0, 0.72)),
        ((0.52, 0, 0.33), (0.35, 0, 1.0)),
        ((0.33, -0.25, 1.0), (0.33, 0.25, 1.0)),
    ):
        limb(stage, at(*start), at(*end), thin, paint, there, "cylinder")
