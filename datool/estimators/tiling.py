"""Depth of pictures far larger than a network's input: cut into tiles that agree with a look at the whole."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from math import ceil
from typing import TypeVar

import cv2
import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError
from datool.estimators import Estimator
from datool.estimators.predictor import Prediction
from datool.evaluation.alignment import MIN_PIXELS, fit_huber

Item = TypeVar("Item")

# Long side of the picture for the look at the whole; no less than a tile's.
WHOLE_PX = 2048
# A tile is compared with the whole in so many cells a side; what is coarser than this many of them is the whole's.
CELLS, SMOOTH_CELLS = 32, 2.0
# Of a tile's side, what it shares with its neighbour unless told otherwise, and the most that it may.
OVERLAP, MAX_OVERLAP = 0.25, 0.5
MIN_TILE_PX = 64
# Pixels of tiles that are predicted together.
TOGETHER_PIXELS = 8_000_000


class Tiled:
    """Estimates the depth of large pictures tile by tile, with any estimator.

    Where a tile lies is seen on the whole picture, shrunk; what it shows, on the tile itself. So a tile is brought to
    the whole by scale and shift (robustly, in disparity where that is known), its coarse structure is replaced by the
    whole's, and tiles are faded into each other over their overlap. A picture that fits in one tile is given to the
    estimator as it is. Memory beyond the picture and its map is that of a few tiles.

    Args:
        estimator: any.
        tile_px: side of a tile in pixels of the picture.
        overlap_px: what neighbours share; None = a quarter of a tile.
    Raises:
        DatoolError: a tile below 64 pixels, or an overlap above half of it.
    """

    def __init__(self, estimator: Estimator, tile_px: int, overlap_px: int | None = None) -> None:
        if tile_px < MIN_TILE_PX:
            raise DatoolError(f"--tile {tile_px} is too small.", f"Give {MIN_TILE_PX} or more; 1024 is usual.")
        self.overlap_px = round(tile_px * OVERLAP) if overlap_px is None else overlap_px
        if not 0 < self.overlap_px <= tile_px * MAX_OVERLAP:
            raise DatoolError(
                f"--overlap {self.overlap_px} does not fit tiles of {tile_px} pixels.", "Give 1 to half of --tile."
            )
        self.estimator, self.tile_px = estimator, tile_px

    def predict(self, images: Sequence[np.ndarray]) -> list[DepthMap]:
        """Return one map an image, of the image's size.

        Args:
            images: (H, W, 3) uint8 RGB each, of any sizes.
        """
        return [self._predict(image) for image in images]

    def stream(
        self, items: Iterable[Item], read: Callable[[Item], np.ndarray], keep_images: bool = False
    ) -> Generator[Prediction[Item]]:
        """Yield one prediction an item as `Predictor.stream` does, one picture in memory at a time.

        Args:
            items: what to read, in order.
            read: item -> (H, W, 3) uint8 RGB; a DatoolError becomes the item's result.
            keep_images: hand each picture out beside its map.
        """
        for item in items:
            try:
                image = read(item)
                depth = self._predict(image)
            except DatoolError as error:
                yield Prediction(item, error)
                continue
            yield Prediction(item, depth, image if keep_images else None, depth.shape)
            del image, depth  # not kept while the next one is read

    def _predict(self, image: np.ndarray) -> DepthMap:
        height, width = image.shape[:2]
        if max(height, width) <= self.tile_px:
            return self.estimator.predict([image])[0]
        scale = min(1.0, max(WHOLE_PX, self.tile_px) / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        whole = self.estimator.predict([small])[0]
        coarse = _values(whole)
        values = np.zeros((height, width), np.float32)
        rows, columns = (tiles(side, self.tile_px, self.overlap_px) for side in (height, width))
        for row in rows:
            for some in _together(columns, self.tile_px**2):
                maps = self.estimator.predict([np.ascontiguousarray(image[row[0], column]) for column, _ in some])
                for (column, fade), depth in zip(some, maps, strict=True):
                    there = _region(coarse, row[0], column, (height, width))
                    tile = agreed(_values(depth), there)
                    tile *= row[1][:, None]
                    tile *= fade
                    values[row[0], column] += tile
        return _as_before(values, whole, coarse)


Tile = tuple[slice, np.ndarray]


def tiles(side_px: int, tile_px: int, overlap_px: int) -> list[Tile]:
    """Return where tiles lie along a side, and how each fades: float32 weights that add up to 1 everywhere.

    Args:
        side_px: of the picture.
        tile_px: of a tile; the only one is shorter where the side is.
        overlap_px: the least that neighbours share.
    """
    if side_px <= tile_px:
        return [(slice(0, side_px), np.ones(side_px, np.float32))]
    num = ceil((side_px - overlap_px) / (tile_px - overlap_px))
    starts = np.linspace(0, side_px - tile_px, num).round().astype(int)
    shared = tile_px - int(np.diff(starts).max())
    # Half a period of a cosine, without the 0 at its start.
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(shared) + 0.5) / shared)
    total = np.zeros(side_px)
    windows = []
    for number, start in enumerate(starts):
        window = np.ones(tile_px)
        if number > 0:
            window[:shared] *= rise
        if number < num - 1:
            window[-shared:] *= rise[::-1]
        total[start : start + tile_px] += window
        windows.append((slice(int(start), int(start) + tile_px), window))
    return [(where, (window / total[where]).astype(np.float32)) for where, window in windows]


def agreed(tile: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return a tile's values in the scale and shift, and with the coarse structure, of the whole.

    tile * a + b + smooth(whole - (tile * a + b)): a and b are Huber's over the cells, where a tile that contradicts the
    whole gets a = 0; what is smooth is added by a Gaussian of two cells.

    Args:
        tile: (H, W) float32; NaN = unknown.
        whole: (h, w) float32: the same region of the whole picture's map, a value a cell.
    """
    cells = _shrunk(tile, whole.shape)
    known = np.isfinite(cells) & np.isfinite(whole)
    scale, shift = 1.0, 0.0
    if known.sum() >= MIN_PIXELS:
        scale, shift = fit_huber(cells[known], whole[known])
        if scale <= 0:
            scale, shift = 0.0, float(np.median(whole[known]))
    missing = np.where(known, whole - (scale * cells + shift), 0).astype(np.float32)
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), SMOOTH_CELLS, borderType=cv2.BORDER_REFLECT)
    smooth = cv2.GaussianBlur(missing, (0, 0), SMOOTH_CELLS, borderType=cv2.BORDER_REFLECT)
    smooth = np.divide(smooth, np.maximum(weight, 1e-6))
    added = cv2.resize(smooth, (tile.shape[1], tile.shape[0]), interpolation=cv2.INTER_CUBIC)
    added += np.float32(shift)
    added += tile * np.float32(scale)
    return added


def _together(columns: Sequence[Tile], pixels: int) -> Iterator[Sequence[Tile]]:
    """Yield the tiles of a row, as many as may be predicted together."""
    num = max(1, TOGETHER_PIXELS // pixels)
    for first in range(0, len(columns), num):
        yield columns[first : first + num]


def _region(coarse: np.ndarray, row: slice, column: slice, size: tuple[int, int]) -> np.ndarray:
    """Return the means in the cells of a tile, of the whole picture's map, by linear interpolation.

    Args:
        coarse: (h, w) float32, the map of the whole picture.
        row, column: of the tile, in pixels of the picture.
        size: (height, width) of the picture.
    """
    scale_y, scale_x = coarse.shape[0] / size[0], coarse.shape[1] / size[1]
    height, width = row.stop - row.start, column.stop - column.start
    cells_y, cells_x = min(CELLS, height), min(CELLS, width)
    if coarse.shape == size:
        return _shrunk(coarse[row, column], (cells_y, cells_x))
    # A sample a pixel of the coarse map or more, a whole number a cell, at the centres of equal parts of the tile.
    num_y, num_x = (
        n * max(1, ceil(side * s / n)) for n, side, s in ((cells_y, height, scale_y), (cells_x, width, scale_x))
    )
    at_y = (row.start + (np.arange(num_y) + 0.5) * height / num_y) * scale_y - 0.5
    at_x = (column.start + (np.arange(num_x) + 0.5) * width / num_x) * scale_x - 0.5
    where_x, where_y = np.meshgrid(at_x.astype(np.float32), at_y.astype(np.float32))
    sampled = cv2.remap(coarse, where_x, where_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return _shrunk(sampled, (cells_y, cells_x))


def _shrunk(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the means of the known values in each cell; NaN where none is."""
    known = np.isfinite(values)
    area = size[1], size[0]
    if known.all():
        return cv2.resize(values, area, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(np.where(known, values, 0).astype(np.float32), area, interpolation=cv2.INTER_AREA)
    share = cv2.resize(known.astype(np.float32), area, interpolation=cv2.INTER_AREA)
    return np.where(share > 0.01, sums / np.maximum(share, 0.01), np.nan).astype(np.float32)


def _inverted(depth: DepthMap) -> bool:
    """Tell whether a map is compared by its inverse, in which near and far count alike."""
    return depth.quantity is Quantity.DEPTH and depth.ambiguity is not Ambiguity.SCALE_AND_SHIFT


def _values(depth: DepthMap) -> np.ndarray:
    return depth.to(Quantity.DISPARITY).values if _inverted(depth) else depth.values


def _as_before(values: np.ndarray, whole: DepthMap, coarse: np.ndarray) -> DepthMap:
    """Return blended values in the quantity of the whole's map; what left its range comes back to its edge."""
    if whole.ambiguity is not Ambiguity.SCALE_AND_SHIFT:
        # Details may not turn what is far into sky: nothing is farther than the whole's farthest, doubled.
        lowest = np.nanmin(coarse) / 2 if np.isfinite(coarse).any() else 0
        np.maximum(values, np.float32(lowest), out=values)
    if _inverted(whole):
        with np.errstate(divide="ignore"):
            np.divide(np.float32(1), values, out=values)
    return DepthMap(values, whole.quantity, whole.ambiguity)
