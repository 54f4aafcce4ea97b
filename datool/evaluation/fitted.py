"""What lies between a prediction and its numbers: the fit to truth, and the score."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# The least aligned disparity where boundaries are sought. Source: MoGe moge/test/metrics.py.
EDGE_FLOOR = 1e-6


@dataclass(frozen=True)
class Score:
    """One image.

    Args:
        values: metric -> value.
        weight: pixels or pairs that count.
        scale, shift: of the fit.
        flags: what was strange though it could be scored: ``constant``, ``scale-zero``, ``scale-negative``,
            ``resized``, ``tie``, ``unknown-point``.
    """

    values: dict[str, float]
    weight: int
    scale: float = 1.0
    shift: float = 0.0
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A prediction beside truth, at the pixels that count, and the fit between them.

    Args:
        values: (N,) prediction, in the space of the fit.
        truth: (N,) float32 depth.
        valid: (h, w) bool, the pixels that count of ``window``.
        window: the rows and columns of truth that ``valid`` is of.
        scale, shift: of the fit.
        floor: the least aligned disparity; -inf = none.
        in_disparity: whether ``values`` are disparities.
        clip: aligned depth is brought to this range; None = not.
        flags: what was strange.
    """

    values: np.ndarray
    truth: np.ndarray
    valid: np.ndarray
    window: tuple[slice, slice]
    scale: float
    shift: float
    floor: float
    in_disparity: bool
    clip: tuple[float, float] | None
    flags: tuple[str, ...]

    def align(self, values: np.ndarray) -> np.ndarray:
        """Return predicted values, of any shape, in the space of the fit, as aligned depth in float64."""
        depth = np.multiply(values, self.scale, dtype=np.float64)
        depth += self.shift
        if self.in_disparity:
            np.maximum(depth, self.floor, out=depth)
            np.divide(1, depth, out=depth)
        return depth if self.clip is None else np.clip(depth, *self.clip, out=depth)

    def depth(self, part: slice = slice(None)) -> np.ndarray:
        """Return (n,) float64: the aligned depth of some of the pixels."""
        return self.align(self.values[part])

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return aligned and true depth (h, w) float64 of the window for boundaries, NaN at pixels that do not count.

        They are sought before the floor and the clip, which flatten what lies beyond them.
        """
        pair = (np.full(self.valid.shape, np.nan), np.full(self.valid.shape, np.nan))
        bare = replace(self, floor=EDGE_FLOOR, clip=None)
        with np.errstate(divide="ignore"):
            pair[0][self.valid] = bare.depth()
        pair[1][self.valid] = self.truth
        return pair
