"""From a photo to the network's input, as the published models were fed.

Source: DepthAnything/Depth-Anything-V2 ``depth_anything_v2/dpt.py`` (``image2tensor``) and ``util/transform.py``.
"""

from __future__ import annotations

from math import ceil

import cv2
import numpy as np

from datool.errors import DatoolError

MAX_ASPECT = 8.0
# Larger photos are converted to floats so many rows at a time: one of 200 M pixels never stands in memory as floats.
BAND_PIXELS, BAND_ROWS = 1 << 21, 256


def network_size(
    height: int, width: int, size_px: int, patch_px: int, max_aspect: float = MAX_ASPECT
) -> tuple[int, int]:
    """Return (height, width) of the network's input: aspect kept, short side at least ``size_px``.

    Each side is scaled by the same factor and rounded to the nearest multiple of the patch, a half to the even one; a
    side that this leaves below ``size_px`` is rounded up.

    Args:
        height, width: of the photo.
        size_px: wanted short side.
        patch_px: height and width of one token.
        max_aspect: the largest long side over short side, which bounds the network's input.
    Raises:
        DatoolError: the photo is too elongated, or ``size_px`` holds no token.
    """
    if size_px < patch_px:
        raise DatoolError(f"--size {size_px} is smaller than one patch of the model ({patch_px}).", "Raise --size.")
    aspect = max(height, width) / min(height, width)
    if aspect > max_aspect:
        raise DatoolError(
            f"{width}x{height} has its sides at {aspect:.1f} to 1, more than the {max_aspect:g} of --max-aspect.",
            "Crop it, or raise --max-aspect (the network's input grows with it).",
        )
    scale = max(size_px / height, size_px / width)

    def rounded(side: int) -> int:
        multiple = round(side * scale / patch_px) * patch_px
        return multiple if multiple >= size_px else ceil(side * scale / patch_px) * patch_px

    return rounded(height), rounded(width)


def to_input(
    image: np.ndarray, size: tuple[int, int], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> np.ndarray:
    """Return the photo resized and normalised.

    Cubic without antialias, on float64, not clamped. The published code divides by 255 before and not after, which
    differs by rounding alone. (On float32 cv2 is four times faster, but rounds its weights: 2e-4 of the range.)

    Args:
        image: (H, W, 3) uint8 RGB.
        size: (height, width) of the result.
        mean, std: of the encoder, for values in [0, 1].
    Returns:
        (height, width, 3) float32.
    """
    height, width = size
    narrow = image
    if image.shape[0] * image.shape[1] > BAND_PIXELS:
        # cv2 resizes columns first, then rows; doing so in two calls gives the same numbers.
        narrow = np.empty((image.shape[0], width, 3))
        for top in range(0, image.shape[0], BAND_ROWS):
            band = image[top : top + BAND_ROWS].astype(np.float64)
            narrow[top : top + BAND_ROWS] = _cubic(band, len(band), width)
    pixels = _cubic(narrow.astype(np.float64, copy=False), height, width).astype(np.float32)
    spread = np.array(std, np.float32)
    pixels /= 255 * spread
    pixels -= np.divide(mean, spread, dtype=np.float32)
    return pixels


def _cubic(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
