"""Which shapes a tile of neighbouring rays can meet, so that only these are tested: a bound each way, never a miss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from datool.render.props import KINDS_OF_SHAPE
from datool.render.scenes import AWAY_M, Scene

SIDE_PX = 8
LENGTH = SIDE_PX * SIDE_PX
PAIRS = {"cpu": 1024}  # tiles and shapes tested at once, so that temporaries stay in cache
PAIRS_GPU = 1 << 17
NEAR_M = 1e-3


def blocks(height_px: int, width_px: int, device: torch.device) -> Tensor:
    """Return (T, K) the pixels of each square of a picture; those beyond its rim are pixels of the rim again."""
    rows, columns = (
        torch.arange(-(-size // SIDE_PX) * SIDE_PX, device=device).clamp_max(size - 1).view(-1, SIDE_PX)
        for size in (height_px, width_px)
    )
    pixels = rows[:, None, :, None] * width_px + columns[None, :, None, :]
    return pixels.reshape(-1, LENGTH)


def strips(num: int, device: torch.device) -> Tensor:
    """Return (T, K) the rays of each run of neighbours, the last filled up with the last ray."""
    return torch.arange(-(-num // LENGTH) * LENGTH, device=device).clamp_max(num - 1).view(-1, LENGTH)


def tiled(value_b3n: Tensor, tiles_tk: Tensor) -> Tensor:
    """Return (B, T, 3, K) of (B, 3, N)."""
    return value_b3n.index_select(2, tiles_tk.flatten()).unflatten(2, tiles_tk.shape).transpose(1, 2).contiguous()


def pairs(scene: Scene, touched_bpt: Tensor) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor]]]:
    """Yield the kind of shape, and image, shape and tile (L,) of each pair, some at a time."""
    most, start = PAIRS.get(touched_bpt.device.type, PAIRS_GPU), 0
    for kind, count in zip(KINDS_OF_SHAPE, scene.counts, strict=True):
        if count:
            found = touched_bpt[:, start : start + count].nonzero()
            for part in found.split(most):
                image, shape, tile = part.unbind(1)
                yield kind, (image, shape + start, tile)
        start += count


def _standing(scene: Scene) -> Tensor:
    """Return (B, P) bool: the shapes that are there at all."""
    return scene.centre_bp3[:, : sum(scene.counts), 2] > 0.9 * -AWAY_M


def _overlap(low_bp2: Tensor, high_bp2: Tensor, at_bt2k: Tensor) -> Tensor:
    """Return (B, P, T): whether shapes' rectangles touch those round each tile's points, with some room."""
    first, last = at_bt2k.amin(-1), at_bt2k.amax(-1)
    room = 1e-4 + 1e-4 * torch.maximum(first.abs(), last.abs())
    first, last = first - room, last + room
    sides = [
        (low_bp2[:, :, None, axis] <= last[:, None, :, axis]) & (high_bp2[:, :, None, axis] >= first[:, None, :, axis])
        for axis in (0, 1)
    ]
    return sides[0] & sides[1]


def touched_by_view(scene: Scene, ray_bt3k: Tensor) -> Tensor:
    """Return (B, P, T): shapes whose corners' rectangle in the picture touches the tile; rays start at the camera."""
    shapes = slice(sum(scene.counts))
    edge = scene.axes_bp33[:, shapes] * scene.half_bp3[:, shapes, :, None]
    sign = edge.new_tensor(list(product((-1.0, 1.0), repeat=3)))
    corner = scene.centre_bp3[:, shapes, None] + torch.einsum("si,bpij->bpsj", sign, edge)
    ahead = corner[..., 2] > NEAR_M
    flat = corner[..., :2] / corner[..., 2:].clamp_min(NEAR_M)
    crossing = (~ahead.all(-1))[..., None]  # the camera's plane: no rectangle
    low = torch.where(crossing, -torch.inf, flat.amin(2))
    high = torch.where(crossing, torch.inf, flat.amax(2))
    return _overlap(low, high, ray_bt3k[:, :, :2]) & (ahead.any(-1) & _standing(scene))[..., None]


def touched_by_rays(scene: Scene, origin_bt3k: Tensor, ray_bt3k: Tensor) -> Tensor:
    """Return (B, P, T): shapes whose bounding sphere touches the cone of a tile's rays, which start anywhere."""
    shapes = slice(sum(scene.counts))
    middle = origin_bt3k.mean(-1)
    spread = _length(origin_bt3k - middle[..., None], 2).amax(-1)
    ray = ray_bt3k * _length(ray_bt3k, 2).clamp_min(1e-9).reciprocal()[:, :, None]
    axis = torch.nn.functional.normalize(ray.mean(-1), dim=-1)
    wide = _angle(_length(ray - axis[..., None], 2).amax(-1))
    way = [
        c[:, :, None] - m[:, None]
        for c, m in zip(scene.centre_bp3[:, shapes].unbind(-1), middle.unbind(-1), strict=True)
    ]
    square = _square(way)
    shrink = square.clamp_min(1e-18).rsqrt()
    radius = scene.half_bp3[:, shapes].norm(dim=-1)[..., None] + spread[:, None]
    aside = [w * shrink - a[:, None] for w, a in zip(way, axis.unbind(-1), strict=True)]
    around = torch.asin((radius * shrink).clamp_max(1))
    touches = (_angle(_square(aside).sqrt()) <= wide[:, None] + around + 2e-3) | (square <= (radius * 1.001).square())
    return touches & _standing(scene)[..., None]


def _square(parts: Sequence[Tensor]) -> Tensor:
    """Return x x + y y + z z; torch's own norm is slow along an inner dimension."""
    total = parts[0] * parts[0]
    for part in parts[1:]:
        total = torch.addcmul(total, part, part)
    return total


def _length(v: Tensor, dim: int) -> Tensor:
    return _square(v.unbind(dim)).sqrt()


def _angle(chord: Tensor) -> Tensor:
    """Return the angle between unit vectors so far apart; exact for small ones too."""
    return 2 * torch.asin((chord / 2).clamp_max(1))


def touched_by_light(scene: Scene, point_bt3k: Tensor) -> Tensor:
    """Return (B, P, T): shapes that can stand between a tile's points and the sun, or the lamp."""
    is_lamp = scene.light_b4[:, 3] > 0
    if is_lamp.all():
        return _touched_by_lamp(scene, point_bt3k)
    if not is_lamp.any():
        return _touched_by_sun(scene, point_bt3k)
    near, far = _touched_by_lamp(scene, point_bt3k), _touched_by_sun(scene, point_bt3k)
    return torch.where(is_lamp[:, None, None], near, far)


def _touched_by_lamp(scene: Scene, point_bt3k: Tensor) -> Tensor:
    lamp = scene.light_b4[:, None, :3, None]
    return touched_by_rays(scene, lamp.expand(-1, point_bt3k.shape[1], -1, 1), point_bt3k - lamp)


def _touched_by_sun(scene: Scene, point_bt3k: Tensor) -> Tensor:
    """All is projected along the parallel rays, to rectangles."""
    shapes = slice(sum(scene.counts))
    toward = torch.nn.functional.normalize(scene.light_b4[:, :3], dim=1)
    across = torch.linalg.cross(toward, scene.up_b3 + 0.37 * toward.roll(1, 1))
    across = torch.nn.functional.normalize(across, dim=1)
    plane = torch.stack([across, torch.linalg.cross(toward, across)], 1)
    centre = scene.centre_bp3[:, shapes] @ plane.transpose(1, 2)
    edge = scene.axes_bp33[:, shapes] * scene.half_bp3[:, shapes, :, None]
    reach = (edge @ plane[:, None].transpose(2, 3)).abs().sum(2)
    touches = _overlap(centre - reach, centre + reach, plane[:, None] @ point_bt3k)
    return touches & _standing(scene)[..., None]
