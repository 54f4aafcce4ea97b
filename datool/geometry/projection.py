"""Pixels to points and back, by the pinhole camera of `datool.depth`.

Axes: x to the right, y down, z ahead, the camera at the origin; a camera with fy < 0 has y up.
"""

from __future__ import annotations

import numpy as np

from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError


def back_project(depth: DepthMap, camera: Camera) -> np.ndarray:
    """Return the point of every pixel: z = depth, x = (column + 0.5 - cx) z / fx, y = (row + 0.5 - cy) z / fy.

    Args:
        depth: (H, W) depth, metric or up to scale.
        camera: of a picture of the map's size.
    Returns:
        (H, W, 3) float32 in the depth's unit; NaN where unknown, infinite where the depth is.
    Raises:
        DatoolError: not depth, depth with an unknown shift, or a camera of another size.
    """
    z = checked(depth, camera)
    x_w, y_h = rays(camera)
    points = np.empty((*depth.shape, 3), np.float32)
    with np.errstate(invalid="ignore"):  # sky straight ahead: 0 times infinity
        np.multiply(x_w[None, :], z, out=points[:, :, 0])
        np.multiply(y_h[:, None], z, out=points[:, :, 1])
    points[:, :, 2] = z
    return points


def project(points_n3: np.ndarray, camera: Camera) -> np.ndarray:
    """Return where points are seen: (N, 2) float64 column and row in pixels, the first pixel's centre being (0.5, 0.5).

    Args:
        points_n3: (N, 3) in front of the camera, z > 0.
        camera: any.
    """
    points = np.asarray(points_n3, np.float64)
    column = points[:, 0] / points[:, 2] * camera.fx_px + camera.cx_px
    row = points[:, 1] / points[:, 2] * camera.fy_px + camera.cy_px
    return np.stack([column, row], axis=1)


def rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return x of each column (W,) and y of each row (H,) at depth 1, float32."""
    x_w = (np.arange(camera.width_px) + (0.5 - camera.cx_px)) / camera.fx_px
    y_h = (np.arange(camera.height_px) + (0.5 - camera.cy_px)) / camera.fy_px
    return x_w.astype(np.float32), y_h.astype(np.float32)


def checked(depth: DepthMap, camera: Camera) -> np.ndarray:
    """Return the values of a map that can be back-projected with the camera.

    Raises:
        DatoolError: it cannot.
    """
    if depth.quantity is not Quantity.DEPTH or depth.ambiguity is Ambiguity.SCALE_AND_SHIFT:
        raise DatoolError(
            f"cannot back-project {depth.quantity.value} with ambiguity '{depth.ambiguity.value}': expected depth.",
            "Turn disparity with .to(Quantity.DEPTH); fit what is known up to scale and shift to known depth first.",
        )
    if depth.shape != (camera.height_px, camera.width_px):
        raise DatoolError(
            f"the camera is of a {camera.width_px}x{camera.height_px} picture, the map is "
            f"{depth.shape[1]}x{depth.shape[0]}.",
            "Use camera.resized(*depth.shape).",
        )
    return depth.values


def turned_down(camera: Camera) -> Camera:
    """Return the camera with y down: one whose fy is negative sees the same picture, its axis is named the other way.

    Back-projecting with y up and z ahead would give the mirror image of the scene.
    """
    return Camera(camera.fx_px, abs(camera.fy_px), camera.cx_px, camera.cy_px, camera.height_px, camera.width_px)
