"""A camera from numbers that a person or a program gives: a focal length, an angle, a file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from datool.depth import Camera, same_aspect
from datool.errors import DatoolError
from datool.files.images import explained

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# How files name fx, fy, cx, cy, and how far from the top-left pixel's corner they begin to count (OpenCV in its middle,
# nerfstudio in its corner); width and height; a matrix; and the image of a row.
NAMES = ((("fx", "fy", "cx", "cy"), 0.5), (("fl_x", "fl_y", "cx", "cy"), 0.0))
OWN_NAMES = ("fx_px", "fy_px", "cx_px", "cy_px")
SIZES = (("width", "height"), ("w", "h"), ("image_width", "image_height"), ("width_px", "height_px"))
MATRICES = ("K", "camera_matrix", "intrinsic_matrix", "intrinsics", "cam_K")
IMAGES = ("image", "input", "name", "file_name", "file_path")
FORMS = (
    'Write {"fx": 1000, "fy": 1000, "cx": 960, "cy": 540, "width": 1920, "height": 1080}, {"K": [[...], ...]}, '
    "a text of fx fy cx cy or of 3x3 numbers, both with or without width height after them, or a line an image: "
    '{"image": "a.jpg", "camera_px": [fx, fy, cx, cy]}.'
)
# A pinhole camera sees no wider: its picture would be all border.
WIDEST_DEG = 160.0
# Without its picture's size a principal point is believed within this share of the image around the middle.
AROUND_MIDDLE = 0.2


@dataclass(frozen=True)
class Intrinsics:
    """What a file says about one camera.

    Args:
        fx_px, fy_px, cx_px, cy_px: as `Camera` has them: the top-left pixel's centre is (0.5, 0.5).
        size: (height, width) that they belong to; None = the file does not say: the image as it is.
    """

    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    size: tuple[int, int] | None = None

    def camera(self, height_px: int, width_px: int) -> Camera:
        """Return the camera of an image of that size.

        Raises:
            DatoolError: they belong to a picture of another aspect, or hardly belong to one of this size.
        """
        numbers = (self.fx_px, self.fy_px, self.cx_px, self.cy_px)
        if self.size is None:
            off = max(abs(self.cx_px / width_px - 0.5), abs(self.cy_px / height_px - 0.5))
            if off > AROUND_MIDDLE:
                raise DatoolError(
                    f"the principal point ({self.cx_px:g}, {self.cy_px:g}) is far from the middle of the image, which "
                    f"is {width_px}x{height_px}: are the numbers of another size?",
                    "Add the width and height that they belong to.",
                )
            check_width(self.fx_px, width_px)
            return Camera(*numbers, height_px, width_px)
        check_width(self.fx_px, self.size[1])
        if not same_aspect(self.size, (height_px, width_px)):
            raise DatoolError(
                f"the intrinsics are of a {self.size[1]}x{self.size[0]} picture, the image is {width_px}x{height_px}: "
                "cropped or turned.",
                "Give those of this image.",
            )
        return Camera(*numbers, *self.size).resized(height_px, width_px)


@dataclass(frozen=True)
class IntrinsicsFile:
    """The cameras of a file: one for all images, or one an image.

    Args:
        path: the file, for messages.
        common: of every image; None = rows name theirs.
        rows: image as the file writes it -> its camera.
    """

    path: Path
    common: Intrinsics | None = None
    rows: Mapping[str, Intrinsics] = field(default_factory=dict)

    def of(self, image: Path) -> Intrinsics | None:
        """Return the camera of an image, None if the file does not have it.

        A row is of an image whose path ends in what the row says; the longest such row counts, so that ``b/1.jpg`` and
        ``1.jpg`` may both be there.
        """
        if self.common is not None:
            return self.common
        parts = PurePath(image).parts
        for start in range(len(parts)):
            tail = str(PurePath(*parts[start:]))
            if tail in self.rows:
                return self.rows[tail]
        return None


def focal_camera(focal_px: float, height_px: int, width_px: int) -> Camera:
    """Return a camera of square pixels whose axis meets the middle of the image.

    Raises:
        DatoolError: not above 0, or so short that it is hardly in pixels.
    """
    check_focal(focal_px)
    check_width(focal_px, width_px)
    return Camera(focal_px, focal_px, width_px / 2, height_px / 2, height_px, width_px)


def fov_camera(fov_deg: float, height_px: int, width_px: int) -> Camera:
    """Return a camera whose image is ``fov_deg`` wide: horizontally, from the left border to the right one.

    Raises:
        DatoolError: not between 0 and 160.
    """
    check_fov(fov_deg)
    return focal_camera(width_px / 2 / math.tan(math.radians(fov_deg) / 2), height_px, width_px)


def check_focal(focal_px: float) -> None:
    """Raise a DatoolError for a focal length that no picture has."""
    if not 0 < focal_px < math.inf:
        raise DatoolError(f"a focal length of {focal_px:g} pixels cannot be.", "Give one above 0.")


def check_fov(fov_deg: float) -> None:
    """Raise a DatoolError for a field of view that no pinhole camera has."""
    if not 0 < fov_deg <= WIDEST_DEG:
        raise DatoolError(
            f"a field of view of {fov_deg:g} degrees cannot be.", f"Give one between 0 and {WIDEST_DEG:g}."
        )


def check_width(focal_px: float, width_px: int) -> None:
    """Raise a DatoolError for a focal length that is hardly in pixels of a picture so wide."""
    seen_deg = math.degrees(2 * math.atan(width_px / 2 / focal_px))
    if seen_deg > WIDEST_DEG + 1e-6:
        raise DatoolError(
            f"with a focal length of {focal_px:g} pixels a picture {width_px} wide would see {seen_deg:.0f} degrees.",
            "Is it in millimetres? Pixels = millimetres * width in pixels / sensor's width in millimetres.",
        )


def read_intrinsics(path: Path) -> IntrinsicsFile:
    """Return the cameras of a file: JSON, JSON lines or plain numbers (``FORMS`` shows them).

    ``camera_px`` and ``fx_px`` ... are datool's own names and count as datool does, and so does nerfstudio, which says
    ``fl_x``; all else counts from the middle of the top-left pixel, as OpenCV, and half a pixel is added. Open3D's
    matrices, which go by columns, are turned. Lens distortion is not undone.

    Raises:
        DatoolError: unreadable, or of no such form.
    """
    path = Path(path)
    with explained(f"intrinsics {path}"):
        text = path.read_text("utf-8")
    if not text.lstrip().startswith(("{", "[")):
        return IntrinsicsFile(path, _from_numbers(path, [float(number) for number in NUMBER.findall(text)]))
    try:
        content: Any = json.loads(text)
    except ValueError:
        content = _lines(path, text)
    if isinstance(content, dict):
        common = _from_object(path, content)
        if common is not None and not any(name in content for name in IMAGES):
            return IntrinsicsFile(path, common)
        content = [content] if common is not None else [_named(name, row) for name, row in content.items()]
    flat = content if isinstance(content, list) else []
    flat = [item for part in flat for item in (part if isinstance(part, list) else [part])]
    if flat and all(isinstance(item, (int, float)) for item in flat):
        return IntrinsicsFile(path, _from_numbers(path, flat))
    if not isinstance(content, list):
        raise DatoolError(f"cannot read intrinsics {path}: got {type(content).__name__}.", FORMS)
    return IntrinsicsFile(path, rows=_rows(path, content))


def _rows(path: Path, content: Sequence[Any]) -> dict[str, Intrinsics]:
    rows = {}
    for number, row in enumerate(content, start=1):
        known = _from_object(path, row) if isinstance(row, dict) else None
        names = [row[name] for name in IMAGES if name in row] if isinstance(row, dict) else []
        if known is not None and names:
            rows[str(PurePath(names[0]))] = known
        elif not names:
            raise DatoolError(f"cannot read intrinsics {path}: row {number} names no image.", FORMS)
    if not rows:
        raise DatoolError(f"no row of {path} has intrinsics.", FORMS)
    return rows


def _lines(path: Path, text: str) -> list[Any]:
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise DatoolError(f"cannot read intrinsics {path}: no JSON ({error}).", FORMS) from error


def _named(name: str, row: Any) -> Any:
    return {"image": name, **row} if isinstance(row, dict) else {"image": name, "K": row}


def _from_object(path: Path, row: Mapping[str, Any]) -> Intrinsics | None:
    """Return what a JSON object says; None if it has nothing of a camera's."""
    if isinstance(row.get("camera"), dict):
        row = {**row, **row["camera"]}
    size = next(
        (
            (int(row[height]), int(row[width]))
            for width, height in SIZES
            if isinstance(row.get(width), (int, float)) and isinstance(row.get(height), (int, float))
        ),
        None,
    )
    own = row.get("camera_px") or [row[name] for name in OWN_NAMES if row.get(name) is not None]
    if own:
        return _checked(path, own, size, 0.0)
    for names, shift_px in NAMES:
        if all(name in row for name in names):
            return _checked(path, [row[name] for name in names], size, shift_px)
    for name in MATRICES:
        if name in row:
            matrix = row[name]["data"] if isinstance(row[name], dict) else row[name]
            return _from_numbers(path, np.ravel(matrix).tolist(), size)
    return None


def _from_numbers(path: Path, numbers: Sequence[float], size: tuple[int, int] | None = None) -> Intrinsics:
    """Return fx, fy, cx, cy from four numbers or a matrix of nine, and from six or eleven their size too."""
    if len(numbers) in (6, 11):
        *numbers, width, height = numbers
        if not (min(width, height) >= 1 and width % 1 == height % 1 == 0):
            raise DatoolError(f"cannot read intrinsics {path}: a size of {width:g}x{height:g} cannot be.", FORMS)
        size = int(height), int(width)
    if len(numbers) == 9:
        matrix = np.array(numbers, np.float64).reshape(3, 3)
        if not matrix[:2, 2].any():
            matrix = matrix.T
        numbers = [matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]]
    return _checked(path, numbers, size, 0.5)


def _checked(path: Path, numbers: Any, size: tuple[int, int] | None, shift_px: float) -> Intrinsics:
    try:
        fx, fy, cx, cy = map(float, numbers)
    except (TypeError, ValueError) as error:
        got = f"{len(numbers)} numbers" if isinstance(numbers, (list, tuple)) else repr(numbers)
        raise DatoolError(f"cannot read intrinsics {path}: got {got}, expected fx, fy, cx, cy.", FORMS) from error
    if not (fx > 0 and fy != 0 and math.isfinite(fx + fy + cx + cy)):
        raise DatoolError(f"intrinsics {path}: fx {fx:g}, fy {fy:g}, cx {cx:g}, cy {cy:g} cannot be.", FORMS)
    return Intrinsics(fx, fy, cx + shift_px, cy + shift_px, size)
