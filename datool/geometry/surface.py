"""What of a map is a surface that the camera saw, and how it lies: flying pixels, slopes, sky and distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datool.depth import Camera, DepthMap
from datool.geometry.projection import checked, rays


@dataclass(frozen=True)
class Cut:
    """What is left out.

    Args:
        edge: a pixel whose depth steps by more than this share of it on both sides, along the row or the column, flies
            between two surfaces (or stands alone). A pixel beside an edge but on a surface steps on one side only.
        grazing_deg: a surface seen under a smaller angle than this is the smear of an edge, or too oblique to trust.
        max_depth: farther points are left out, in the depth's unit; None = none are.
    """

    edge: float = 0.04
    grazing_deg: float = 3.0
    max_depth: float | None = None


CUT = Cut()


@dataclass(frozen=True, eq=False)
class Surface:
    """The pixels to keep, and the direction that each one's surface faces.

    Args:
        kept: (H, W) bool.
        normals_hw3: (H, W, 3) float32, of length 1, towards the camera; whatever where not kept.
        dropped: reason -> pixels left out for it, each counted once.
    """

    kept: np.ndarray
    normals_hw3: np.ndarray
    dropped: dict[str, int]


def find_surface(depth: DepthMap, camera: Camera, cut: Cut = CUT, usable: np.ndarray | None = None) -> Surface:
    """Return which pixels are surfaces, and their normals.

    Inverse depth w is linear over the picture of a plane: n . (x, y, 1) w^-1 = const. So the slopes of w along row and
    column give the normal, exactly on planes: (w_x, w_y, w - x w_x - y w_y). Of the two one-sided slopes the gentler
    counts, so that a surface keeps its normal up to its edge.

    Args:
        depth: (H, W) depth, metric or up to scale.
        camera: of a picture of that size.
        cut: what to leave out.
        usable: (H, W) bool, false where something else speaks against a pixel (a mask, low confidence); None = all.
    Raises:
        DatoolError: not depth, or a camera of another size.
    """
    z = checked(depth, camera)
    x_w, y_h = rays(camera)
    with np.errstate(invalid="ignore"):
        inverse = np.float32(1) / z
    across, down = _gentler_step(inverse, 1), _gentler_step(inverse, 0)
    kept = np.ones(z.shape, bool)
    dropped: dict[str, int] = {}

    def drop(reason: str, where: np.ndarray) -> None:
        where &= kept
        dropped[reason] = int(np.count_nonzero(where))
        np.logical_and(kept, ~where, out=kept)

    drop("unknown", np.isnan(z))
    drop("sky", np.isinf(z))
    if usable is not None:
        drop("masked", ~usable)
    if cut.max_depth is not None:
        drop("far", z > cut.max_depth)
    limit = np.float32(cut.edge) * inverse
    drop("edge", (np.abs(across) > limit) | (np.abs(down) > limit))
    del limit

    normals = np.empty((*z.shape, 3), np.float32)
    np.multiply(across, np.float32(camera.fx_px), out=normals[:, :, 0])
    np.multiply(down, np.float32(camera.fy_px), out=normals[:, :, 1])
    with np.errstate(invalid="ignore"):
        normals[:, :, 2] = inverse - x_w[None, :] * normals[:, :, 0] - y_h[:, None] * normals[:, :, 1]
        length = np.sqrt(np.einsum("hwc,hwc->hw", normals, normals))
        ray_length = np.sqrt(1 + np.square(x_w)[None, :] + np.square(y_h)[:, None])
        # The normal times the ray is w, by the rule above: the cosine between them, the sine of the angle of sight.
        drop("grazing", inverse < np.float32(np.sin(np.radians(cut.grazing_deg))) * length * ray_length)
        normals /= -length[:, :, None]
    return Surface(kept, normals, dropped)


def _gentler_step(inverse: np.ndarray, axis: int) -> np.ndarray:
    """Return the step to the next or from the previous pixel, the smaller one; 0 where both are unknown."""
    step = np.diff(inverse, axis=axis)
    step[~np.isfinite(step)] = np.inf
    edge_shape = list(inverse.shape)
    edge_shape[axis] = 1
    outside = np.full(edge_shape, np.inf, inverse.dtype)
    after, before = np.concatenate([step, outside], axis), np.concatenate([outside, step], axis)
    gentler = np.where(np.abs(after) < np.abs(before), after, before)
    gentler[np.isinf(gentler)] = 0
    return gentler
