"""Cameras in other people's conventions, as datool's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from datool.depth import Camera
from datool.errors import DatoolError
from datool.files.images import explained

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def opencv_camera(camera_px: Sequence[float], shape: tuple[int, ...]) -> Camera:
    """Return the camera whose principal point was counted from the middle of the top-left pixel, as OpenCV does.

    datool counts from its corner, so half a pixel is added.

    Args:
        camera_px: fx, fy, cx, cy as the data set gives them.
        shape: (height, width, ...) of the image that they belong to.
    """
    fx_px, fy_px, cx_px, cy_px = camera_px
    return Camera(fx_px, fy_px, cx_px + 0.5, cy_px + 0.5, shape[0], shape[1])


def read_numbers(path: Path, count: int, meaning: str) -> list[float]:
    """Return the numbers of a small text file, whatever stands between them.

    Args:
        path: the file.
        count: how many there must be.
        meaning: for messages: "fx, fy, cx, cy".
    Raises:
        DatoolError: missing, or another count.
    """
    with explained(f"camera {path}"):
        text = path.read_text("utf-8")
    numbers = [float(number) for number in NUMBER.findall(text)]
    if len(numbers) != count:
        raise DatoolError(
            f"cannot read camera {path}: got {len(numbers)} numbers, expected {count}: {meaning}.", "Fetch it again."
        )
    return numbers
