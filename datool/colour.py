"""A picture of a map: nearer is warmer and brighter, whatever the map measures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, lookup


def to_picture(depth: DepthMap, cmap: str = "Spectral_r", ends: tuple[float, float] | None = None) -> np.ndarray:
    """Return the map as an (H, W, 3) uint8 RGB picture.

    The finite values of this one map fill the colours from far to near, linear in disparity: depth is inverted where
    its ambiguity allows, and its colours are reversed where its shift is unknown. Sky is the far end, unknown is black,
    and a map of one value gets the middle colour.

    Args:
        depth: any map.
        cmap: a name of ``COLOUR_MAPS``; ``grey`` (near = white) is what ControlNet's depth input takes.
        ends: the `nearness` of the first and the last colour, such as those of a whole film; None = this map's own.
    Raises:
        DatoolError: unknown colour map.
    """
    colours = lookup(COLOUR_MAPS, cmap, "colour map")()
    index = between_ends(depth, ends)
    index *= 255
    picture = cv2.applyColorMap(np.rint(index, out=index).astype(np.uint8), colours[:, None])
    picture[~depth.valid] = 0
    return picture


def nearness(depth: DepthMap) -> np.ndarray:
    """Return (H, W) float64 that grows toward the camera: disparity; depth inverted, or negated if its shift is open.

    Sky is 0 where it is infinite depth; unknown is NaN.
    """
    values = depth.values.astype(np.float64)
    if depth.quantity is Quantity.DEPTH:
        shifted = depth.ambiguity is Ambiguity.SCALE_AND_SHIFT
        values = np.negative(values, out=values) if shifted else np.divide(1, values, out=values)
    return values


def between_ends(depth: DepthMap, ends: tuple[float, float] | None = None) -> np.ndarray:
    """Return (H, W) float64 in [0, 1]: 0 at the far end and at sky, 1 at the near end; unknown is 0.

    Args:
        depth: any map.
        ends: `nearness` of the far and the near end, beyond which values are cut; None = the farthest finite value and
            the nearest.
    """
    values = nearness(depth)
    finite = np.isfinite(depth.values)
    if not finite.any():
        return np.zeros(depth.shape)
    far = np.min(values, where=finite, initial=np.inf) if ends is None else ends[0]
    near = np.max(values, where=finite, initial=-np.inf) if ends is None else ends[1]
    if far == near:
        values[finite] = 0.5
    else:
        values -= far
        values /= near - far
        np.clip(values, 0, 1, out=values)
    values[~finite] = 0
    return values


def side_by_side(image: np.ndarray, picture: np.ndarray, gap_px: int = 16) -> np.ndarray:
    """Return (H, 2W + gap, 3) uint8: the photo left, the picture of its map right, white between.

    Args:
        image: (H, W, 3) uint8 RGB.
        picture: (H, W, 3) uint8 RGB.
        gap_px: width of the white gap.
    Raises:
        DatoolError: the two differ in size.
    """
    if image.shape != picture.shape:
        raise DatoolError(f"cannot put {image.shape} beside {picture.shape}: expected equal (H, W, 3).")
    gap = np.full((image.shape[0], gap_px, 3), 255, np.uint8)
    return np.concatenate([image, gap, picture], axis=1)


@cache
def _spectral_reversed() -> np.ndarray:
    """Return (256, 3) uint8 RGB, violet-blue (far) to red (near), linear between ColorBrewer's 11 colours."""
    points = np.array(SPECTRAL, np.float64)[::-1]
    at = np.linspace(0, 1, 256)
    stops = np.linspace(0, 1, len(points))
    return np.stack([np.rint(np.interp(at, stops, points[:, c])) for c in range(3)], axis=1).astype(np.uint8)


@cache
def _from_cv2(code: int) -> np.ndarray:
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], code)
    return np.ascontiguousarray(ramp[:, 0, ::-1])


@cache
def _grey() -> np.ndarray:
    return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


# Source: ColorBrewer 2.0 "Spectral", 11 classes (Cynthia Brewer, Mark Harrower, Penn State; Apache-2.0).
SPECTRAL = (
    (158, 1, 66),
    (213, 62, 79),
    (244, 109, 67),
    (253, 174, 97),
    (254, 224, 139),
    (255, 255, 191),
    (230, 245, 152),
    (171, 221, 164),
    (102, 194, 165),
    (50, 136, 189),
    (94, 79, 162),
)

COLOUR_MAPS: dict[str, Callable[[], np.ndarray]] = {
    "Spectral_r": _spectral_reversed,
    "inferno": lambda: _from_cv2(cv2.COLORMAP_INFERNO),
    "turbo": lambda: _from_cv2(cv2.COLORMAP_TURBO),
    "grey": _grey,
}
