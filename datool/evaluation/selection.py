"""Which pixels of a map count, which of them are fitted, and how a map of another size comes to truth's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datool.evaluation.alignment import blocks
from datool.evaluation.unscored import UnscoredError

Box = tuple[slice, slice]


@dataclass(frozen=True)
class Crop:
    """Two rectangles: what the image is cut to before anything else, and what of that counts.

    Args:
        frame: (height, width) that the image is cut to, at the bottom and centred; None = not cut.
        shares: top, bottom, left, right of what counts, as shares of height and width; None = all.
        pixels: the same in pixels.
        title: in words.
    """

    frame: tuple[int, int] | None = None
    shares: tuple[float, float, float, float] | None = None
    pixels: tuple[int, int, int, int] | None = None
    title: str = ""

    def cut(self, shape: tuple[int, int]) -> Box:
        """Return where the frame lies in an image.

        Raises:
            UnscoredError: the image is smaller.
        """
        if self.frame is None:
            return slice(0, shape[0]), slice(0, shape[1])
        if shape[0] < self.frame[0] or shape[1] < self.frame[1]:
            raise UnscoredError("truth-size", f"truth of {shape} is smaller than the crop of {self.frame}.")
        top, left = shape[0] - self.frame[0], (shape[1] - self.frame[1]) // 2
        return slice(top, shape[0]), slice(left, left + self.frame[1])

    def counts(self, shape: tuple[int, int]) -> Box:
        """Return what counts in the frame of this shape; shares are cut down to whole pixels."""
        if self.pixels is not None:
            top, bottom, left, right = self.pixels
        elif self.shares is not None:
            sides = (shape[0], shape[0], shape[1], shape[1])
            top, bottom, left, right = (int(share * side) for share, side in zip(self.shares, sides, strict=True))
        else:
            return slice(0, shape[0]), slice(0, shape[1])
        return slice(top, bottom), slice(left, right)


BENCHMARK_FRAME = (352, 1216)
GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
EIGEN = (0.3324324, 0.91351351, 0.0359477, 0.96405229)

CROPS: dict[str, Crop] = {
    "none": Crop(title="all"),
    "garg": Crop(shares=GARG, title="Garg et al. 2016"),
    "eigen": Crop(shares=EIGEN, title="Eigen et al. 2014, KITTI"),
    "eigen-nyu": Crop(pixels=(45, 471, 41, 601), title="Eigen et al. 2014, NYU"),
    "kb": Crop(BENCHMARK_FRAME, title="KITTI's depth benchmark: bottom 352 rows, centre 1216 columns"),
    "kb-garg": Crop(BENCHMARK_FRAME, GARG, title="benchmark crop, then Garg's"),
    "kb-eigen": Crop(BENCHMARK_FRAME, EIGEN, title="benchmark crop, then Eigen's"),
}


def open_range(near: float, far: float, closed: bool) -> tuple[np.float32, np.float32]:
    """Return the least and the greatest float32 that count, so that a float32 map need not become float64.

    Args:
        near, far: the range. closed: whether its ends count.
    """
    low, high = np.float32(near), np.float32(min(far, float(np.finfo(np.float32).max)))
    if float(low) < near or (not closed and float(low) == near):
        low = np.nextafter(low, np.float32(np.inf))
    if float(high) > far or (not closed and float(high) == far):
        high = np.nextafter(high, np.float32(0))
    return low, high


def gathered(valid: np.ndarray, *maps: np.ndarray) -> list[np.ndarray]:
    """Return (N,) of each map: its values where ``valid``, as ``values[valid]`` gives them, but 2 to 6 times as fast.

    Args:
        valid: (H, W) bool. maps: (H, W) each.
    """
    flat = valid.ravel()
    out = [np.empty(np.count_nonzero(flat), values.dtype) for values in maps]
    wholes = [values.ravel() for values in maps]
    start = 0
    for part in blocks(len(flat)):
        places = np.flatnonzero(flat[part])
        end = start + len(places)
        for whole, taken in zip(wholes, out, strict=True):
            whole[part].take(places, out=taken[start:end], mode="clip")  # places are inside; "raise" would buffer
        start = end
    return out


def thinned(valid: np.ndarray, max_px: int) -> np.ndarray:
    """Return (H, W) bool: of the pixels that count, those that nearest-neighbour resizing to ``max_px`` takes.

    Source: Marigold src/util/alignment.py (``alignment_max_res``).
    """
    if max(valid.shape) <= max_px:
        return valid
    taken = np.zeros_like(valid)
    factor = max_px / max(valid.shape)
    taken[np.ix_(*(np.floor(np.arange(max(1, int(side * factor))) / factor).astype(int) for side in valid.shape))] = (
        True
    )
    return valid & taken


def one_a_cell(valid: np.ndarray, cells: int) -> np.ndarray:
    """Return (H, W) bool: of the pixels that count, the one nearest to the middle of each of cells x cells fields.

    Of two equally near the upper, then the left one is taken.

    Source: MoGe's masked nearest sampling; how it breaks ties is UNVERIFIED.
    """
    places = np.argwhere(valid)
    size = np.array(valid.shape) / cells
    cell = np.minimum((places + 0.5) // size, cells - 1)
    distance = (((places + 0.5) - (cell + 0.5) * size) ** 2).sum(axis=1)
    number = (cell[:, 0] * cells + cell[:, 1]).astype(int)
    order = np.lexsort((distance, number))
    _, first = np.unique(number[order], return_index=True)
    taken = np.zeros_like(valid)
    taken[tuple(places[order[first]].T)] = True
    return taken


def resize_bilinear(values: np.ndarray, shape: tuple[int, int], how: str) -> np.ndarray:
    """Return a map resized bilinearly, without antialias, in float64.

    Args:
        values: (h, w).
        shape: (H, W) wanted.
        how: ``centres`` keeps pixel centres in place by area (align_corners=False), ``corners`` the corner pixels.
    """
    for axis, wanted in enumerate(shape):
        given = values.shape[axis]
        if how == "corners":
            place = np.linspace(0, given - 1, wanted) if wanted > 1 else np.zeros(1)
        else:
            place = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, given - 1)
        low = np.minimum(place.astype(int), max(given - 2, 0))
        high = np.minimum(low + 1, given - 1)
        share = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        before, after = np.take(values, low, axis), np.take(values, high, axis)
        # A neighbour of weight 0 says nothing: infinity times 0 is no number.
        with np.errstate(invalid="ignore"):
            mixed = before * (1 - share) + after * share
        values = np.where(share == 0, before, np.where(share == 1, after, mixed))
    return values
