"""A picture of a cloud, without a display: every point a small square, the nearest in front."""

from __future__ import annotations

import numpy as np

from datool.depth import Camera
from datool.geometry.cloud import Cloud
from datool.geometry.projection import project

WIDTH_PX = 960
BACKGROUND = (24, 26, 30)
# Degrees that the camera is moved around the middle of what it saw: to the right, and up.
TURN_DEG, LIFT_DEG = 18.0, 12.0
# More points than this are more than the picture shows; and the widest square.
MAX_POINTS = 4_000_000
MAX_SIDE_PX = 7
# Squares overlap by this, since points do not lie on the picture's grid; and points nearer than this share of the
# middle's distance would hide all others.
WIDER, NEAREST = 1.2, 0.02


def splat(
    cloud: Cloud,
    camera: Camera,
    voxel: float = 0.0,
    share: float = 1.0,
    turn_deg: float = TURN_DEG,
    lift_deg: float = LIFT_DEG,
) -> np.ndarray:
    """Return the cloud as the camera would see it from a little aside, (H, W, 3) uint8 RGB, 960 pixels wide.

    Points are squares as wide as their pixel was on the surface, so that surfaces close and gaps stay gaps.

    Args:
        cloud: in the camera's axes.
        camera: that saw it.
        voxel: side of the voxels that points stand for; 0 = each stands for its pixel.
        share: of the pixels' points that are in the cloud.
        turn_deg, lift_deg: how far around the cloud's middle it goes, to the right and up; 0 and 0 is the photo.
    """
    source = camera
    camera = camera.resized(max(1, round(camera.height_px * WIDTH_PX / camera.width_px)), WIDTH_PX)
    picture = np.full((camera.height_px, camera.width_px, 3), BACKGROUND, np.uint8)
    if not len(cloud):
        return picture
    shown = cloud.thinned(MAX_POINTS)
    widths = shown.widths(source.fx_px, voxel, share * len(shown) / len(cloud))
    middle = np.median(shown.points_n3, axis=0).astype(np.float64) * (0, 0, 1)
    points = (shown.points_n3 - middle) @ _turn(turn_deg, lift_deg).T + middle
    ahead = points[:, 2] > NEAREST * middle[2]
    points, colours, widths = points[ahead], shown.colours_n3[ahead], widths[ahead]
    place = np.floor(project(points, camera)).astype(np.int64)
    side = WIDER * widths * camera.fx_px / points[:, 2]
    reach = np.clip(np.ceil(side) // 2, 0, MAX_SIDE_PX // 2).astype(np.int64)
    order = np.argsort(-points[:, 2], kind="stable")
    nearest = np.full(picture.shape[:2], np.inf)
    widest = int(reach.max(initial=0))
    for down in range(-widest, widest + 1):
        for right in range(-widest, widest + 1):
            chosen = order[reach[order] >= max(abs(down), abs(right))]
            column, row = place[chosen, 0] + right, place[chosen, 1] + down
            inside = (column >= 0) & (column < camera.width_px) & (row >= 0) & (row < camera.height_px)
            chosen, column, row = chosen[inside], column[inside], row[inside]
            # Of several points in one pixel the last written stays, and the order goes from far to near.
            depth = np.full(picture.shape[:2], np.inf)
            colour = np.zeros_like(picture)
            depth[row, column], colour[row, column] = points[chosen, 2], colours[chosen]
            closer = depth < nearest
            nearest[closer], picture[closer] = depth[closer], colour[closer]
    return picture


def _turn(turn_deg: float, lift_deg: float) -> np.ndarray:
    """Return the rotation of the scene that moves the camera to the right and up around it."""
    turn, lift = np.radians(turn_deg), np.radians(lift_deg)
    around_y = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    around_x = np.array([[1, 0, 0], [0, np.cos(lift), -np.sin(lift)], [0, np.sin(lift), np.cos(lift)]])
    return around_x @ around_y
