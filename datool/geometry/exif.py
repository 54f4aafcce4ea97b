"""The focal length that a photo's own EXIF tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datool.depth import Camera, same_aspect
from datool.errors import DatoolError, require
from datool.files.images import BROKEN, explained, open_lazily
from datool.geometry.intrinsics import focal_camera

# The diagonal of a 24 x 36 mm frame, which a "35 mm equivalent" refers to (CIPA DCG-001).
DIAGONAL_35_MM = math.hypot(24, 36)
# Tags. Source: EXIF 2.32, tables 4, 7 and 8.
EXIF_IFD, MAKE, MODEL = 0x8769, 0x010F, 0x0110
FOCAL_MM, FOCAL_35_MM = 0x920A, 0xA405
PLANE_X, PLANE_UNIT = 0xA20E, 0xA210
DIGITAL_ZOOM = 0xA404
TAKEN_WIDTH, TAKEN_HEIGHT = 0xA002, 0xA003
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


def exif_camera(path: Path, height_px: int, width_px: int) -> tuple[Camera, str]:
    """Return the camera of a photo of that size, and the tags that told it.

    In this order: FocalLengthIn35mmFilm by the frame's diagonal; FocalLength with the sensor's size in Lensfun's table
    of cameras, if it is installed; FocalLength with FocalPlaneXResolution, which programs leave as it was when they
    make a photo smaller. The last two are lengthened by DigitalZoomRatio, which the first holds already, as ExifTool
    counts it too. Lengths are taken along diagonals, so that a photo that was turned (by its orientation tag, or by a
    program) has the same. The principal point is the middle.

    Args:
        path: the photo, read before with `datool.files.read_image`.
        height_px, width_px: of the photo as read, upright.
    Raises:
        DatoolError: EXIF does not tell; or the photo was cropped since, so that what it tells is of another picture.
    """
    tags, stored = _tags(path)
    taken = _taken(tags)
    upright = (height_px, width_px)
    if taken is not None and not (same_aspect(taken, upright) or same_aspect(taken[::-1], upright)):
        raise DatoolError(
            f"{path} was cropped: EXIF is of {taken[1]}x{taken[0]} pixels, the file has {stored[1]}x{stored[0]}."
        )
    diagonal_px = math.hypot(height_px, width_px)
    equivalent_mm, focal_mm = _number(tags.get(FOCAL_35_MM)), _number(tags.get(FOCAL_MM))
    if equivalent_mm > 0:
        focal_px = equivalent_mm * diagonal_px / DIAGONAL_35_MM
        return focal_camera(focal_px, *upright), f"EXIF FocalLengthIn35mmFilm {equivalent_mm:g} mm"
    if not focal_mm > 0:
        raise DatoolError(f"{path} has no focal length in its EXIF.")
    zoom, words = _number(tags.get(DIGITAL_ZOOM)), f"EXIF FocalLength {focal_mm:g} mm"
    if zoom > 1:
        focal_mm *= zoom
        words += f", DigitalZoomRatio {zoom:g}"
    per_mm = _number(tags.get(PLANE_X)) / MM_PER_UNIT.get(int(_number(tags.get(PLANE_UNIT)) or 2), math.inf)
    make, model = (str(tags.get(tag, "")).strip("\0 ") for tag in (MAKE, MODEL))
    try:
        crop = _crop_factor(path, make, model)
    except DatoolError:
        if not per_mm > 0:
            raise
        # The resolution is of the picture as taken; it may have been made smaller since.
        scale = diagonal_px / math.hypot(*(taken or stored))
        words += f", FocalPlaneXResolution {per_mm:g} pixels/mm"
        return focal_camera(focal_mm * per_mm * scale, *upright), words
    words += f", sensor of {make} {model} (Lensfun: crop factor {crop:.3g})"
    return focal_camera(focal_mm * crop * diagonal_px / DIAGONAL_35_MM, *upright), words


def _tags(path: Path) -> tuple[Mapping[int, Any], tuple[int, int]]:
    """Return the tags of both directories and the stored (height, width)."""
    with explained(str(path)), open(path, "rb") as file:
        header = open_lazily(file)
        if header is None:
            raise DatoolError(f"{path} has no EXIF that datool reads.")
        try:
            exif = header.getexif()
            return {**exif, **exif.get_ifd(EXIF_IFD)}, (header.height, header.width)
        except BROKEN:
            raise DatoolError(f"{path} has broken EXIF.") from None


def _taken(tags: Mapping[int, Any]) -> tuple[int, int] | None:
    """Return the (height, width) as taken, if EXIF tells."""
    size = _number(tags.get(TAKEN_HEIGHT)), _number(tags.get(TAKEN_WIDTH))
    return (int(size[0]), int(size[1])) if min(size) >= 1 else None


def _number(value: Any) -> float:
    """Return a tag's number; 0, which EXIF uses for unknown, where it is missing, no number or 0/0."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _crop_factor(path: Path, make: str, model: str) -> float:
    """Return the 35 mm diagonal over the sensor's, from Lensfun's table."""
    purpose = f"{path} gives its focal length in mm: the size of its sensor ({make} {model})"
    lensfunpy = require("lensfunpy", "exif", purpose, "Or give the camera.")
    found = lensfunpy.Database().find_cameras(make, model) if make and model else []
    if not found:
        raise DatoolError(f"{path} tells its focal length in mm, but the sensor of '{make} {model}' is not in Lensfun.")
    return float(found[0].crop_factor)
