"""A room whose depth is known exactly: a box, seen by a camera that is turned in it."""

from __future__ import annotations

import numpy as np

from datool.depth import Ambiguity, Camera, DepthMap, Quantity

# Metres: across, up and down, and ahead and back of the camera; the far wall is 5 m away.
LOW, HIGH = np.array([-2.0, -1.4, -1.0]), np.array([2.5, 1.2, 5.0])
WALLS = {"left": (0, 0), "right": (0, 1), "ceiling": (1, 0), "floor": (1, 1), "far": (2, 1)}


def turned(yaw_deg: float, pitch_deg: float = 0.0, place=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return a camera-to-world matrix."""
    yaw, pitch = np.radians([yaw_deg, pitch_deg])
    around_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = around_y @ around_x, place
    return pose


def render(camera: Camera, pose: np.ndarray) -> tuple[DepthMap, np.ndarray, np.ndarray]:
    """Return the depth, a photo (H, W, 3) with a checkerboard on each wall, and the wall's number at each pixel."""
    x = (np.arange(camera.width_px) + 0.5 - camera.cx_px) / camera.fx_px
    y = (np.arange(camera.height_px) + 0.5 - camera.cy_px) / camera.fy_px
    rays = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))], axis=2) @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        reach = np.where(rays > 0, (HIGH - pose[:3, 3]) / rays, (LOW - pose[:3, 3]) / rays)
    axis = reach.argmin(axis=2)
    z = np.take_along_axis(reach, axis[:, :, None], 2)[:, :, 0]
    side = np.take_along_axis(rays, axis[:, :, None], 2)[:, :, 0] > 0
    points = pose[:3, 3] + rays * z[:, :, None]
    checker = np.floor(points / 0.5 + 1e-9).sum(axis=2).astype(int) % 2
    hues = np.array([[200, 60, 60], [60, 160, 60], [70, 90, 200], [200, 180, 60], [170, 80, 180], [90, 180, 190]])
    image = (hues[2 * axis + side] * (0.6 + 0.4 * checker)[:, :, None]).astype(np.uint8)
    return DepthMap(z.astype(np.float32), Quantity.DEPTH, Ambiguity.NONE), image, 2 * axis + side


def plane(points: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return a plane's normal, its distance from the origin, and the largest residual of the points."""
    middle = points.mean(0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    normal = normal if normal @ middle > 0 else -normal
    return normal, float(normal @ middle), float(np.abs((points - middle) @ normal).max())
