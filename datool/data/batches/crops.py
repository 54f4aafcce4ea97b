"""Where a training picture is cut from its photo, and where a second one is set into it. NumPy and OpenCV, for workers.

Nothing here draws random numbers: draws are given, uniform in [0, 1).

Source: Yang et al. 2024 (Depth Anything V2), arXiv:2406.09414, section 7.1: short side to 518, then a random crop of
518x518; Yang et al. 2024 (V1), arXiv:2401.10891, section 3.2: CutMix, as Yun et al. 2019, arXiv:1905.04899, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import cv2
import numpy as np

NUM_CROP_DRAWS = 4
NUM_BOX_DRAWS = 3

# Rows from, rows to, columns from, columns to, in pixels.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Crop:
    """A part of a resized picture, mirrored or not.

    Args:
        resized: (height, width) that the whole picture is resized to.
        box: what is cut out of it; never more than there is.
        flip: whether left and right change places.
    """

    resized: tuple[int, int]
    box: Box
    flip: bool

    def image(self, image: np.ndarray) -> np.ndarray:
        """Return the part, resized by cubic interpolation without antialias, as both papers' code and as predicting.

        Args:
            image: (H, W, 3) uint8.
        """
        height, width = self.resized
        if (height, width) != image.shape[:2]:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        top, bottom, left, right = self.box
        part = image[top:bottom, left:right]
        return np.ascontiguousarray(part[:, ::-1] if self.flip else part)

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """Return the part of a map of the same picture: at each pixel's centre the nearest value, for depth and masks.

        A mix of two depths is on no surface, and a value beside an unknown one would be lost.

        Args:
            values: (H, W) of any type, of the picture's aspect but of its own size.
        """
        top, bottom, left, right = self.box
        rows = nearest(top, bottom, self.resized[0], values.shape[0])
        columns = nearest(left, right, self.resized[1], values.shape[1])
        return values.take(columns[::-1] if self.flip else columns, axis=1).take(rows, axis=0)


def random_crop(shape: Sequence[int], size: tuple[int, int], flip: float, draws: np.ndarray, zoom: float = 1.0) -> Crop:
    """Return a crop of ``size``: the picture just covers it, its aspect kept, and each place in it is as likely.

    Args:
        shape: (height, width, ...) of the picture; whatever is smaller than ``size`` is enlarged.
        size: (height, width) of the result.
        flip: probability that it is mirrored.
        draws: `NUM_CROP_DRAWS`.
        zoom: smallest share of its sides that is cut from a picture which covers the crop: 1 = as both papers do; below
            it pictures are enlarged by up to 1 / zoom.
    """
    height, width = shape[:2]
    scale = max(size[0] / height, size[1] / width)
    if zoom < 1:
        scale /= zoom + (1 - zoom) * draws[3]
    resized = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    top, left = (int(draw * (whole - part + 1)) for draw, whole, part in zip(draws, resized, size, strict=False))
    return Crop(resized, (top, top + size[0], left, left + size[1]), bool(draws[2] < flip))


def cutmix_box(size: tuple[int, int], area: tuple[float, float], draws: np.ndarray) -> Box:
    """Return the box that the partner's picture fills: of the picture's aspect, about a point that is anywhere in it.

    Its share of the picture is uniform in ``area``, before what reaches over the border is cut off. With (0, 1) this is
    CutMix: 1 - lambda with lambda from Beta(1, 1). It may be empty, or all.

    Args:
        size: (height, width) of the picture.
        area: smallest and largest share.
        draws: `NUM_BOX_DRAWS`.
    """
    share = area[0] + (area[1] - area[0]) * draws[0]
    box: list[int] = []
    for side, draw in zip(size, draws[1:], strict=True):
        middle, half = draw * side, side * sqrt(share) / 2
        box += [max(0, round(middle - half)), min(side, round(middle + half))]
    return box[0], box[1], box[2], box[3]


def nearest(first: int, last: int, resized: int, stored: int) -> np.ndarray:
    """Return for pixels [first, last) of ``resized`` which of ``stored`` ones holds their centre: (N,) int64."""
    return (2 * np.arange(first, last) + 1) * stored // (2 * resized)
