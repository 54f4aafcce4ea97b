"""A page that turns a cloud in any browser, offline: one file, nothing fetched."""

from __future__ import annotations

import base64
import json
from importlib.resources import files

import numpy as np

from datool.depth import Camera
from datool.errors import DatoolError
from datool.geometry.cloud import Cloud

# 10 bytes a point, 14 as text.
MAX_POINTS = 750_000
STEPS = 65535
# What lies farther out than this many times the middle 98 % would leave coarse steps to the rest.
OUTER_SHARE, ROOM = 0.01, 2.0
# Squares overlap by this, since points do not lie on the screen's grid.
WIDER = 1.2


def view_page(cloud: Cloud, camera: Camera, name: str, voxel: float = 0.0, share: float = 1.0) -> bytes:
    """Return an HTML page that shows the cloud, first as the camera saw it, and orbits, zooms and measures.

    Positions are kept in 65536 steps along each side of a box around them; points far outside the others are left out,
    and of more than 750,000 a random part is shown. The page says how many.

    Args:
        cloud: in the camera's axes.
        camera: that saw it; its field of view is the page's.
        name: shown on the page.
        voxel: side of the voxels that points stand for; 0 = each stands for its pixel.
        share: of the pixels' points that are in the cloud.
    Raises:
        DatoolError: no point.
    """
    if not len(cloud):
        raise DatoolError(f"there is no point of {name} to show.")
    near = _near(cloud)
    shown = near.thinned(MAX_POINTS)
    places = shown.turned("y-up").points_n3.astype(np.float64)
    low = places.min(0)
    extent = np.maximum(places.max(0) - low, 1e-6)
    widths = shown.widths(camera.fx_px, voxel, share * len(shown) / len(near)) * WIDER
    narrowest = float(widths.min())
    ratio = max(float(widths.max()) / narrowest, 1 + 1e-6)
    width_steps = np.log(np.maximum(widths / narrowest, 1)) / np.log(ratio) * 255
    data = {
        "name": name,
        "facts": _facts(len(shown), len(cloud), cloud.unit),
        "unit": cloud.unit or "(no unit)",
        "places": _text(np.rint((places - low) / extent * STEPS).astype("<u2")),
        "colours": _text(shown.colours_n3),
        "widths": _text(np.rint(width_steps).astype(np.uint8)),
        "low": low.tolist(),
        "extent": extent.tolist(),
        "narrowest": narrowest,
        "ratio": ratio,
        "eye": [0.0, 0.0, 0.0],
        "target": [0.0, 0.0, -float(np.median(shown.points_n3[:, 2]))],
        "up": [0.0, 1.0, 0.0],
        "tan_x": camera.width_px / 2 / camera.fx_px,
        "tan_y": camera.height_px / 2 / abs(camera.fy_px),
    }
    page = files("datool.geometry").joinpath("viewer.html").read_text("utf-8")
    # A name may hold anything, also what would end the script.
    return page.replace("__DATA__", json.dumps(data).replace("<", "\\u003c")).encode("utf-8")


def _near(cloud: Cloud) -> Cloud:
    """Return the cloud without the points that are far outside the others."""
    some = cloud.points_n3[:: max(1, len(cloud) // 100_000)]
    low, high = np.quantile(some, [OUTER_SHARE, 1 - OUTER_SHARE], axis=0)
    room = ROOM * (high - low) + 1e-6
    return cloud.part(np.all((cloud.points_n3 >= low - room) & (cloud.points_n3 <= high + room), axis=1))


def _text(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def _facts(shown: int, total: int, unit: str) -> str:
    part = f"{total:,} points" if shown == total else f"{shown:,} of {total:,} points"
    return f"{part}, in metres" if unit == "m" else f"{part}, without a unit"
