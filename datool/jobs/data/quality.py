"""What makes a photo useless for depth, as numbers of one image: blur, borders, text, flatness, and its fingerprint.

All are measured at one size (short side 256 px), so that a threshold means the same for phones and thumbnails.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from datool.errors import require

SIDE_PX = 256
# Differences up to this are JPEG's, not the picture's.
NOISE = 3
# A stroke is that wide at most, and stands out from paper by that much; a page has that share of both at least.
STROKE_PX = 5
STROKE = 60
MIN_INK = 0.03
PAPER = 16
MIN_PAPER = 0.02
# Tiles along each side, each of which blur may differ in.
TILES = 4


@dataclass(frozen=True)
class Quality:
    """Numbers of one image.

    Args:
        height_px, width_px: its own size.
        phash: 64-bit perceptual hash; pictures that look alike differ in few bits.
        blur: 0 (sharp) to 1, of its sharpest part: a blurred background is none.
        border: share of the picture in borders of one colour.
        text: share of the picture that is as even as paper or a screen, weighted by the strokes of ink beside it.
        contrast: standard deviation of its grey values, 0 to 127.
    """

    height_px: int
    width_px: int
    phash: int
    blur: float
    border: float
    text: float
    contrast: float


def measure(image: np.ndarray) -> Quality:
    """Return the numbers of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
    Raises:
        DatoolError: imagehash is not installed.
    """
    height, width = image.shape[:2]
    scale = min(1.0, SIDE_PX / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return Quality(
        height, width, perceptual_hash(grey), blur(grey), border(small), text(grey), float(grey.std(dtype=np.float64))
    )


def perceptual_hash(grey: np.ndarray) -> int:
    """Return the 64-bit pHash of a picture: signs of its lowest frequencies.

    Args:
        grey: (H, W) uint8.
    Raises:
        DatoolError: imagehash is not installed.

    Source: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"; library imagehash.
    """
    imagehash = require("imagehash", "data", "finding pictures that look alike")
    bits = imagehash.phash(Image.fromarray(grey)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def blur(grey: np.ndarray) -> float:
    """Return how blurred the sharpest of 16 tiles is: 0 to 1, whatever its contrast.

    Blurring again changes a sharp picture much and a blurred one little: the share of neighbours' differences that
    stays. A tile with nothing in it counts as blurred.

    Args:
        grey: (H, W) uint8.

    Source: Crete et al. 2007, "The blur effect: perception and estimation with a new no-reference perceptual blur
    metric"; here over tiles, for photos with a blurred background.
    """
    values = grey.astype(np.float32)
    kept = []
    for axis in (0, 1):
        kernel = np.full((9, 1) if axis == 0 else (1, 9), 1 / 9, np.float32)
        sharp = np.abs(np.diff(values, axis=axis))
        again = np.abs(np.diff(cv2.filter2D(values, -1, kernel, borderType=cv2.BORDER_REPLICATE), axis=axis))
        lost = np.maximum(sharp - again, 0)
        total, gone = _tile_sums(sharp), _tile_sums(lost)
        kept.append(np.where(total > NOISE * sharp.size / TILES**2 / 2, 1 - gone / np.maximum(total, 1e-6), 1.0))
    return float(np.maximum(*kept).min())


def border(image: np.ndarray) -> float:
    """Return the share of the picture in borders of one colour on two sides that face each other: 0 to 1.

    One side alone is the sky or a table.

    Args:
        image: (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    rows = _facing(image)
    columns = _facing(image[rows[0] : height - rows[1]].transpose(1, 0, 2)) if sum(rows) < height else (0, 0)
    return 1 - max(0, height - sum(rows)) * max(0, width - sum(columns)) / (height * width)


def text(grey: np.ndarray) -> float:
    """Return how much a picture looks like a document or a screen: 0 to 1.

    Thin strokes of ink stand on even paper of one brightness, the commonest one: the share of strokes that stand on it,
    times the share of even pixels away from strokes; less in proportion where strokes are few.

    Args:
        grey: (H, W) uint8.
    """
    kernel = np.ones((STROKE_PX, STROKE_PX), np.uint8)
    closed, opened = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, kernel), cv2.morphologyEx(grey, cv2.MORPH_OPEN, kernel)
    dark, light = cv2.subtract(closed, grey) >= STROKE, cv2.subtract(grey, opened) >= STROKE
    strokes = dark | light
    away = cv2.dilate(strokes.astype(np.uint8), kernel) == 0
    if away.mean() < MIN_PAPER or not strokes.any():
        return 0.0
    uneven = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 2 * NOISE
    paper = int(np.bincount(grey.reshape(-1)).argmax())
    on_paper = (dark & _is_near(closed, paper)) | (light & _is_near(opened, paper))
    share = np.count_nonzero(on_paper) / np.count_nonzero(strokes)
    return float((1 - uneven[away].mean()) * share * min(1.0, strokes.mean() / MIN_INK))


def _is_near(grey: np.ndarray, paper: int) -> np.ndarray:
    return np.abs(grey.astype(np.int16) - paper) <= PAPER


def _tile_sums(values: np.ndarray) -> np.ndarray:
    rows, columns = (np.arange(TILES) * side // TILES for side in values.shape)
    return np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.float64), columns, axis=1)


def _facing(image: np.ndarray) -> tuple[int, int]:
    """Return how many rows at the top and at the bottom are border; 0 and 0 unless they are of one colour."""
    top, bottom = np.median(image[0], axis=0), np.median(image[-1], axis=0)
    if np.abs(top - bottom).max() > 4 * NOISE:
        return 0, 0
    rows = _even_lines(image, top), _even_lines(image[::-1], bottom)
    return rows if min(rows) else (0, 0)


def _even_lines(image: np.ndarray, colour: np.ndarray) -> int:
    """Return how many rows at the top are of a colour throughout."""
    uneven = (np.abs(image - colour).max(axis=2) > 4 * NOISE).mean(axis=1) > 0.01
    return int(uneven.argmax()) if uneven.any() else len(image)
