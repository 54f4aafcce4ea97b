"""How well a depth map agrees with its picture (edges where edges are), and with itself (planes that are plane)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

# Pictures and maps are compared at this short side: what is off by less than a pixel of it does no harm.
SIDE_PX = 128
# Pixels that far from a known one say nothing.
REACH_PX = 5
# Edges of depth are steps of that slope (Sobel, of its logarithm: a tenth from pixel to pixel), and a map has that
# share of them at least, or says nothing: walls and fields.
JUMP, MIN_EDGES = 0.4, 0.03
# Shifts up to this share of the short side are tried.
REACH = 0.25


@dataclass(frozen=True)
class Agreement:
    """How well depth edges meet image edges, in standard deviations over all places where they could lie.

    Args:
        here: as they lie.
        elsewhere: at the best shift.
        shift: the best shift (down, right), as a share of height and width.
        mirrored, upside_down, turned: as the map would lie if it were turned back.
    """

    here: float
    elsewhere: float
    shift: tuple[float, float]
    mirrored: float
    upside_down: float
    turned: float


def agreement(image: np.ndarray, depth: np.ndarray) -> Agreement | None:
    """Return how well a map's edges meet a picture's; None where the map has no edge, or is mostly unknown.

    Both are made small, edges are differences of colour and of the logarithm of depth, unknown pixels take the nearest
    known value. Their cross-correlation over all shifts (FFT) gives the scale on which "here" is judged, so that
    neither contrast nor the number of edges matters.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (h, w) float32 above 0; NaN = unknown, +inf = sky.
    """
    height, width = image.shape[:2]
    scale = SIDE_PX / min(height, width)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    found = _depth_edges(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST))
    if found is None:
        return None
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    colour = np.sqrt(sum(_slope(lab[:, :, channel]) ** 2 for channel in range(3)))
    window = np.outer(np.hanning(size[1] + 2)[1:-1], np.hanning(size[0] + 2)[1:-1]) ** 0.25
    pictured = np.fft.rfft2(_contrast(np.sqrt(colour), window))
    edges, silent = found

    def match(turn: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the agreement at each shift, no shift in the middle: (size[1], size[0])."""
        turned = _contrast(turn(edges), window, turn(silent))
        product = np.fft.irfft2(pictured * np.conj(np.fft.rfft2(turned)), s=window.shape)
        return np.fft.fftshift(product / (product.std() + 1e-12))

    as_it_is = match(lambda values: values)
    centre = as_it_is.shape[0] // 2, as_it_is.shape[1] // 2
    reach = int(REACH * SIDE_PX)
    near = as_it_is[centre[0] - reach : centre[0] + reach + 1, centre[1] - reach : centre[1] + reach + 1]
    row, column = np.unravel_index(int(near.argmax()), near.shape)
    here = slice(centre[0] - 1, centre[0] + 2), slice(centre[1] - 1, centre[1] + 2)
    return Agreement(
        here=float(as_it_is[here].max()),
        elsewhere=float(near.max()),
        shift=(-(int(row) - reach) / size[1], -(int(column) - reach) / size[0]),
        mirrored=float(match(lambda values: values[:, ::-1])[here].max()),
        upside_down=float(match(lambda values: values[::-1])[here].max()),
        turned=float(match(lambda values: values[::-1, ::-1])[here].max()),
    )


def bend(depth: np.ndarray) -> float:
    """Return how much more a map is bent as disparity than as depth: below 0 for depth, above 0 for the inverse.

    A plane in space is a plane in 1/z, and in z it is not. So true depth is straighter after inversion, and what is far
    by mistake (disparity taken for depth) before it. Near 0 where noise hides it, as in sensors' maps.

    Args:
        depth: (h, w) float32 above 0; NaN = unknown, +inf = sky.
    Returns:
        logarithm of the ratio of median curvatures; 0 where too little is known.
    """
    step = max(1, min(depth.shape) // 64)  # whole steps: uneven ones would bend what is straight
    small = depth[::step, ::step].astype(np.float64)
    small[~np.isfinite(small)] = np.nan
    inverse, straight = _curvature(1 / small), _curvature(small)
    return 0.0 if inverse is None or straight is None else float(np.log((inverse + 1e-4) / (straight + 1e-4)))


def nearness_grid(depth: np.ndarray, cells: int) -> np.ndarray:
    """Return how near each cell of a map is by rank: (cells, cells) uint8, 0 = the farthest pixels, 255 = the nearest.

    Unknown counts as the middle.

    Args:
        depth: (h, w) float32 above 0; NaN = unknown, +inf = sky.
        cells: along each side.
    """
    valid = ~np.isnan(depth)
    ranks = np.full(depth.shape, 0.5, np.float32)
    if valid.any():
        _, place, counts = np.unique(-depth[valid], return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        ranks[valid] = ((last - counts / 2) / last[-1]).astype(np.float32)[place.reshape(-1)]
    return np.rint(cv2.resize(ranks, (cells, cells), interpolation=cv2.INTER_AREA) * 255).astype(np.uint8)


def _depth_edges(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the strength of edges, and where nothing can be said: two arrays of (h, w)."""
    finite = np.isfinite(depth)
    if not finite.any():
        return None
    filled = np.where(np.isposinf(depth), 2 * np.percentile(depth[finite], 99.5), depth).astype(np.float32)
    valid = ~np.isnan(filled)
    if valid.mean() < 0.5:
        return None
    away, label = cv2.distanceTransformWithLabels(
        (~valid).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.ones(label.max() + 1, np.float32)
    nearest[label[valid]] = filled[valid]
    slope = _slope(np.log(np.maximum(nearest[label], 1e-6)))
    edges = np.sqrt(np.maximum(slope - max(JUMP, 2 * np.median(slope)), 0))
    silent = away > REACH_PX
    edges[silent] = 0
    return (edges, silent) if np.count_nonzero(edges) >= MIN_EDGES * edges.size else None


def _slope(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    return np.hypot(cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1))


def _contrast(edges: np.ndarray, window: np.ndarray, silent: np.ndarray | None = None) -> np.ndarray:
    """Return edges against their surroundings, the strongest cut, so that many weak ones count beside a few strong."""
    cut = np.minimum(np.ascontiguousarray(edges, np.float32), np.percentile(edges, 97) + 1e-9)
    edges = cv2.GaussianBlur(cut, (0, 0), 1.0)
    edges = edges - cv2.GaussianBlur(edges, (0, 0), 8.0)
    if silent is not None:
        edges[silent] = 0
    return (edges - edges.mean()) * window


def _curvature(values: np.ndarray) -> float | None:
    """Return the median of |second difference| / |first difference| over pixels with any slope."""
    ratios = []
    for turned in (values, values.T):
        slope = np.abs(turned[:, 2:] - turned[:, :-2]) / 2
        curve = np.abs(turned[:, 2:] + turned[:, :-2] - 2 * turned[:, 1:-1])
        with np.errstate(invalid="ignore"):
            sloped = (slope > 1e-6 * np.nanmax(slope, initial=0)) & np.isfinite(curve)
        ratios.append(curve[sloped] / slope[sloped])
    joined = np.concatenate(ratios)
    return float(np.median(joined)) if len(joined) >= 50 else None
