"""What is known of a photo's depth: points that somebody measured, a sparse map, the ground under a camera."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datool.depth import Camera, DepthMap, Quantity, same_aspect
from datool.errors import DatoolError
from datool.files.images import explained

FORM = "Write x,y,metres a line, or image,x,y,metres: pixels from the top left corner, to the right and down."
# Pixels of a dense map that are used; drawn by a fixed seed. More change nothing but the time.
MAX_SAMPLES = 20_000
# A photo is cut into as many by as many cells, whose pixels count as sharing their errors.
CELLS = 8
# The ground reaches from the picture's lower edge up to this share of the way from the horizon to it.
GROUND_FROM = 1 / 3


@dataclass(frozen=True)
class Point:
    """One measured distance.

    Args:
        x_px, y_px: in the upright photo; the first pixel's centre is (0.5, 0.5).
        depth_m: along the optical axis, above 0.
        image: end of the photo's path; empty = the only photo.
        where: for messages.
    """

    x_px: float
    y_px: float
    depth_m: float
    image: str = ""
    where: str = "--point"


@dataclass(frozen=True, eq=False)
class DepthSamples:
    """Depth at places of a photo.

    Args:
        x_px, y_px: (N,) float64 places.
        depth_m: (N,) float64, above 0 and finite.
        size: (height, width) of the photo that the places are in.
        dense: whether neighbours share their errors.
    """

    x_px: np.ndarray
    y_px: np.ndarray
    depth_m: np.ndarray
    size: tuple[int, int]
    dense: bool

    def groups(self) -> np.ndarray:
        """Return (N,) int64: the points that share their errors have one number."""
        if not self.dense:
            return np.arange(len(self.x_px))
        row, column = (
            np.minimum((at * CELLS / side).astype(np.int64), CELLS - 1)
            for at, side in ((self.y_px, self.size[0]), (self.x_px, self.size[1]))
        )
        return row * CELLS + column

    def of(self, kept: np.ndarray) -> DepthSamples:
        """Return some of the points: (N,) bool or their numbers."""
        return DepthSamples(self.x_px[kept], self.y_px[kept], self.depth_m[kept], self.size, self.dense)


@dataclass(frozen=True)
class Ground:
    """Flat ground under a camera without roll.

    Args:
        height_m: of the camera above it.
        pitch_deg: how far the camera looks down. horizon_row: row of the horizon, from the top edge. One of both.
        mask: (H, W) bool, where the ground is to be looked for; None = the lower part of the picture.
    Raises:
        DatoolError: a height not above 0, or not one of pitch and horizon.
    """

    height_m: float
    pitch_deg: float | None = None
    horizon_row: float | None = None
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0 < self.height_m < math.inf:
            raise DatoolError(f"--camera-height-m is {self.height_m:g}, expected metres above 0.")
        if (self.pitch_deg is None) == (self.horizon_row is None):
            raise DatoolError(
                "a camera height needs one of --pitch-deg and --horizon-row.",
                "A level camera has --pitch-deg 0; --horizon-row is where far, flat ground meets the sky.",
            )
        if self.pitch_deg is not None and not -90 < self.pitch_deg < 90:
            raise DatoolError(f"--pitch-deg is {self.pitch_deg:g}, expected -90 (up) to 90 (down).")


def parse_point(text: str) -> Point:
    """Return the point that ``x,y,metres`` or ``image,x,y,metres`` means.

    Raises:
        DatoolError: another form, or metres not above 0.
    """
    return _point(text.split(","), "--point")


def read_points(path: Path) -> tuple[Point, ...]:
    """Return the points of a CSV file; a first line of names, empty lines and those after ``#`` are passed over.

    Raises:
        DatoolError: unreadable, a line of another form, or without points.
    """
    with explained(f"points {path}"), open(path, newline="", encoding="utf-8-sig") as file:
        lines = [(number, line) for number, line in enumerate(csv.reader(file), start=1)]
    lines = [(number, line) for number, line in lines if "".join(line).strip() and not line[0].lstrip().startswith("#")]
    if lines and len(lines[0][1]) in (3, 4) and not any(map(_is_number, lines[0][1])):
        del lines[0]
    if not lines:
        raise DatoolError(f"{path} has no points.", FORM)
    return tuple(_point(line, f"{path}:{number}") for number, line in lines)


def point_samples(points: Sequence[Point], size: tuple[int, int]) -> DepthSamples:
    """Return the points as places of a photo of (height, width).

    Raises:
        DatoolError: one lies outside.
    """
    for point in points:
        if not (0 <= point.x_px <= size[1] and 0 <= point.y_px <= size[0]):
            raise DatoolError(
                f"{point.where}: the point ({point.x_px:g}, {point.y_px:g}) is outside the upright photo, which is "
                f"{size[1]} wide and {size[0]} high.",
                "Give x (to the right) and y (down) in its pixels, from the top left corner.",
            )
    columns = np.array([(point.x_px, point.y_px, point.depth_m) for point in points], np.float64).reshape(-1, 3)
    return DepthSamples(columns[:, 0], columns[:, 1], columns[:, 2], size, dense=False)


def map_samples(depth: DepthMap, size: tuple[int, int]) -> DepthSamples:
    """Return the pixels of a metric map, sparse or dense, as places of a photo of (height, width).

    Sky and unknown pixels are left out; of more than 20,000 as many are drawn.

    Raises:
        DatoolError: the map is of another aspect, or knows nothing.
    """
    if not same_aspect(depth.shape, size):
        raise DatoolError(
            f"the known depth is {depth.shape[1]}x{depth.shape[0]}, the photo {size[1]}x{size[0]}: cropped or turned.",
            "Give depth of the whole upright photo.",
        )
    values = depth.to(Quantity.DEPTH).values
    rows, columns = np.nonzero(np.isfinite(values))
    if not len(rows):
        raise DatoolError("the known depth has no pixel with a value.", "Is its --divisor right?")
    scale = np.array(size) / values.shape
    samples = DepthSamples(
        (columns + 0.5) * scale[1], (rows + 0.5) * scale[0], values[rows, columns].astype(np.float64), size, dense=True
    )
    return _thinned(samples)


def ground_samples(ground: Ground, camera: Camera) -> DepthSamples:
    """Return the depth of flat ground at pixels of its region.

    By a camera at height h that looks down by the angle p, ground at row v has the disparity cos p (v - horizon) /
    (fy h), the horizon being at cy - fy tan p: linear in the row. Without a mask the region is every column of the rows
    at least a third of the way from the horizon down to the picture's lower edge (or from its upper edge, if the
    horizon is above it); up to half of what stands there may be no ground.

    Args:
        ground: height and direction.
        camera: of the upright photo.
    Raises:
        DatoolError: the horizon is below the picture, or a mask of another aspect or without pixels below the horizon.
    """
    fy = abs(camera.fy_px)
    if ground.horizon_row is None:
        assert ground.pitch_deg is not None, "one of both is there"
        tangent = math.tan(math.radians(ground.pitch_deg))
        horizon = camera.cy_px - fy * tangent
    else:
        horizon = ground.horizon_row
        tangent = (camera.cy_px - horizon) / fy
    size = camera.height_px, camera.width_px
    if horizon >= size[0] - 1:
        raise DatoolError(
            f"the horizon is at row {horizon:.0f}, below the picture of {size[0]} rows: no ground is seen.",
            "Check --pitch-deg (positive looks down) or --horizon-row.",
        )
    at = np.arange(size[0]) + 0.5
    if ground.mask is None:
        region = np.repeat((at - horizon >= GROUND_FROM * (size[0] - horizon))[:, None], size[1], axis=1)
    else:
        region = _fitted(ground.mask, size) & (at > horizon)[:, None]
    rows, columns = np.nonzero(region)
    if not len(rows):
        raise DatoolError(f"no pixel of --ground-mask is below the horizon at row {horizon:.0f}.", "Check both.")
    disparity = (rows + 0.5 - horizon) / (math.hypot(1, tangent) * fy * ground.height_m)
    return _thinned(DepthSamples(columns + 0.5, rows + 0.5, 1 / disparity, size, dense=True))


def sample(map: DepthMap, samples: DepthSamples) -> np.ndarray:
    """Return (N,) float64: the map's values at the places, between the four pixels around; NaN next to unknown ones.

    Args:
        map: of the photo, at any size of its aspect.
        samples: where.
    """
    height, width = map.shape
    y = np.clip(samples.y_px * height / samples.size[0] - 0.5, 0, height - 1)
    x = np.clip(samples.x_px * width / samples.size[1] - 0.5, 0, width - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = y - top, x - left
    result = np.zeros(len(x))
    for row, by_row in ((top, 1 - down), (np.minimum(top + 1, height - 1), down)):
        for column, by_column in ((left, 1 - right), (np.minimum(left + 1, width - 1), right)):
            share = by_row * by_column
            result += np.where(share > 0, share * map.values[row, column], 0)
    return result


def _point(cells: Sequence[str], where: str) -> Point:
    text = ",".join(cells)
    if len(cells) not in (3, 4) or not all(map(_is_number, cells[-3:])):
        raise DatoolError(f"{where}: got '{text}', expected x,y,metres.", FORM)
    x, y, metres = map(float, cells[-3:])
    if not 0 < metres < math.inf:
        raise DatoolError(f"{where}: got {metres:g} metres, expected a distance above 0.", FORM)
    return Point(x, y, metres, cells[0].strip() if len(cells) == 4 else "", where)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _fitted(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the mask at the photo's size, by the nearest pixel."""
    if not same_aspect(mask.shape, size):
        raise DatoolError(
            f"--ground-mask is {mask.shape[1]}x{mask.shape[0]}, the photo {size[1]}x{size[0]}.",
            "Give one of the photo.",
        )
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]


def _thinned(samples: DepthSamples) -> DepthSamples:
    num = len(samples.x_px)
    if num <= MAX_SAMPLES:
        return samples
    return samples.of(np.sort(np.random.default_rng(0).choice(num, MAX_SAMPLES, replace=False)))
