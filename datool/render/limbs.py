"""Shapes put together: a limb from one joint to the next, and kits of boxes whose parts a table names."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from datool.render.props import Stage, point, turn


def aim(way: Tensor) -> Tensor:
    """Return (..., 3, 3) local axes as rows, z along ``way``."""
    z = torch.nn.functional.normalize(way, dim=-1)
    steep = z[..., 2:].abs() > 0.95
    aside = torch.where(steep, z.new_tensor([1.0, 0, 0]), z.new_tensor([0, 0, 1.0]))
    x = torch.nn.functional.normalize(torch.linalg.cross(aside, z), dim=-1)
    return torch.stack([x, torch.linalg.cross(z, x), z], -2)


def limb(
    stage: Stage,
    start: Tensor,
    end: Tensor,
    thick: Tensor,
    coat: Tensor,
    active: Tensor,
    kind: str = "ellipsoid",
    flat: float = 1.0,
    mark: str = "",
) -> None:
    """Add a shape from ``start`` to ``end`` (B, n, 3), round ends beyond them; ``thick`` (B, n) is its radius."""
    long = (end - start).norm(dim=-1) / 2
    long = torch.where(long > 0, long, 1e-3) + (0.5 * thick if kind == "ellipsoid" else 0.0)
    stage.put(kind, (start + end) / 2, point(thick, thick * flat, long), aim(end - start), coat, active, mark)


# x, z of the middle and half sizes x, y, z in half lengths, half widths and heights; tilt about y, degrees; which coat
Kit = Sequence[tuple[float, ...]]


def kits(
    stage: Stage,
    tables: Sequence[Kit],
    pick: Tensor,
    xy: Tensor,
    floor: Tensor | float,
    yaw: Tensor,
    size: Tensor,
    coats: Sequence[Tensor],
    active: Tensor,
    mark: str = "",
) -> None:
    """Add n things made of boxes, each of the kit that ``pick`` (B, n) says; size (B, n, 3) as in ``Kit``."""
    (b, n), parts = pick.shape, len(tables[0])
    rows = torch.tensor([list(kit) for kit in tables], dtype=torch.float64, device=pick.device)[pick]  # (B, n, R, 7)
    flat = lambda t: t[:, :, None].expand(b, n, parts, *t.shape[2:]).reshape(b, n * parts, *t.shape[2:])  # noqa: E731
    rows, wide, facing = rows.reshape(b, n * parts, 7), flat(size), flat(yaw)
    local = point(rows[..., 0] * wide[..., 0], 0 * facing, rows[..., 1] * wide[..., 2] + flat(0 * yaw + floor))
    half, tilt = rows[..., 2:5] * wide, rows[..., 5] * (math.pi / 180)
    axes = turn(facing - math.pi / 2, tilt, math.pi / 2)
    coat, which = flat(coats[0]), rows[..., 6:]
    for number, other in enumerate(coats[1:], 1):
        coat = torch.where(which == number, flat(other), coat)
    centre = stage.where(flat(xy), facing, local)
    stage.put("box", centre, half, axes, coat, flat(active), mark)
