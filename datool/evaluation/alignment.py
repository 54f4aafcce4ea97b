"""Bring a prediction to truth: scale and shift by several rules. NumPy, float64, pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from datool.depth import Ambiguity
from datool.errors import DatoolError

MIN_PIXELS = 10
# Values in a block: a dozen float64 arrays of it fit in 1 MiB of cache.
BLOCK = 8192
# Huber's constant for 95 % efficiency on Gaussian residuals, and how often weights are renewed.
HUBER_K, HUBER_STEPS = 1.345, 20
# Median absolute deviation of a Gaussian, in standard deviations.
MAD_OF_GAUSSIAN = 0.6744897501960817
# Below this share of the values' size, a spread or a residual is rounding and counts as 0.
ROUNDING = 1e-12


def fit_scale_and_shift(pred: np.ndarray, truth: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Return the least-squares scale and shift: argmin of sum w (scale pred + shift - truth)^2.

    scale = cov(pred, truth) / var(pred), about the means and in float64, so that nothing cancels. A constant prediction
    gets scale 0 and the mean of truth.

    Args:
        pred, truth: (N,) values at the pixels that count.
        weights: (N,) at least 0; None = all equal.
    Returns:
        scale: units of truth per unit of pred; shift: units of truth.
    Raises:
        DatoolError: fewer than 10 pixels.

    Source: Ranftl et al. 2020 (MiDaS), arXiv:1907.01341, equation 4.
    """
    _enough(pred)
    pred_mean, truth_mean = _mean(pred, weights), _mean(truth, weights)
    spread = covariance = 0.0
    for part in blocks(len(pred)):
        centred = np.subtract(pred[part], pred_mean, dtype=np.float64)
        weighted = centred if weights is None else centred * weights[part]
        spread += float(weighted @ centred)
        covariance += float(weighted @ np.subtract(truth[part], truth_mean, dtype=np.float64))
    scale = 0.0 if is_constant(pred) or spread <= 0 else covariance / spread
    return scale, truth_mean - scale * pred_mean


def fit_positive(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the least-squares scale and shift with a scale of at least 0: for a prediction with near and far exchanged
    that is 0 and the mean of truth, so that it scores as a constant map.

    Raises:
        DatoolError: fewer than 10 pixels.
    """
    scale, shift = fit_scale_and_shift(pred, truth)
    return (scale, shift) if scale > 0 else (0.0, _mean(truth, None))


def fit_or_zero(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the least-squares scale and shift, or 0 and 0 for a constant prediction.

    Source: MiDaS's evaluation (gists of Ranftl linked from DPT's EVALUATION.md), where the determinant is not above 0.
    """
    return (0.0, 0.0) if is_constant(pred) else fit_scale_and_shift(pred, truth)


def fit_scale(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the least-squares scale, sum pred truth / sum pred^2, and shift 0; scale 0 for an all-zero prediction.

    Raises:
        DatoolError: fewer than 10 pixels.
    """
    pred, truth = _checked(pred, truth)
    size = float(pred @ pred)
    return (float(pred @ truth) / size if size > 0 else 0.0), 0.0


def fit_medians(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the scale median(truth) / median(pred) and shift 0.

    Raises:
        DatoolError: fewer than 10 pixels, or the prediction's median is 0.

    Source: monodepth2 evaluate_depth.py.
    """
    pred, truth = _checked(pred, truth)
    middle = float(np.median(pred))
    if middle == 0:
        raise DatoolError("cannot scale by medians: the prediction's median is 0.", "Choose alignment=least-squares.")
    return float(np.median(truth)) / middle, 0.0


def fit_scale_l1(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the scale that makes the mean relative error smallest, and shift 0.

    argmin of sum |scale pred - truth| / truth: exactly the median of truth / pred with weights |pred| / truth.

    Args:
        pred, truth: (N,) values at the pixels that count; truth above 0.
    Raises:
        DatoolError: fewer than 10 pixels.

    Source: Wang et al. 2024 (MoGe), arXiv:2410.19115; moge/utils/alignment.py.
    """
    pred, truth = _checked(pred, truth)
    return _slope_l1(pred, truth, 1 / truth), 0.0


def fit_l1(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the scale and shift that make the mean relative error smallest, exactly.

    argmin of sum |scale pred + shift - truth| / truth. A best line passes through a sample. MoGe tries every sample as
    that anchor; here the best line through one anchor gives the next (it passes through a second sample), until no
    sample on the line gives a better one. The objective is convex and piecewise linear, so that is the same optimum,
    in O(n log n) a step.

    Args:
        pred, truth: (N,) values at the pixels that count; truth above 0.
    Raises:
        DatoolError: fewer than 10 pixels.

    Source: objective of MoGe (arXiv:2410.19115, section 3.2); descent of Wesolowsky 1981.
    """
    pred, truth = _checked(pred, truth)
    weights = 1 / truth
    if is_constant(pred):
        return 0.0, weighted_median(truth, weights)
    near = ROUNDING * 1e3 * float(np.abs(truth).max())
    scale, shift = fit_scale_and_shift(pred, truth, weights)
    anchors = [int(np.argmin(np.abs(scale * pred + shift - truth)))]
    best = np.inf
    while anchors:
        anchor = anchors.pop()
        slope = _slope_l1(pred - pred[anchor], truth - truth[anchor], weights)
        offset = float(truth[anchor] - slope * pred[anchor])
        residual = np.abs(slope * pred + offset - truth)
        cost = float(weights @ residual)
        if cost < best * (1 - ROUNDING):
            best, scale, shift = cost, slope, offset
            on_line = np.flatnonzero(residual <= near)
            # Many samples on one line are samples of few distinct values; each value needs one try.
            _, first = np.unique(pred[on_line], return_index=True)
            anchors = [int(index) for index in on_line[first] if index != anchor]
    return scale, shift


def fit_huber(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return scale and shift under Huber's loss, by 20 rounds of reweighted least squares.

    Weights are min(1, 1.345 sigma / |residual|), sigma being the median absolute residual over 0.6745.

    Raises:
        DatoolError: fewer than 10 pixels.

    Source: Huber 1964; k and rounds as in plumbline (github.com/kmatzen/plumbline).
    """
    pred, truth = _checked(pred, truth)
    scale, shift = fit_scale_and_shift(pred, truth)
    for _ in range(HUBER_STEPS):
        residual = np.abs(scale * pred + shift - truth)
        limit = HUBER_K * float(np.median(residual)) / MAD_OF_GAUSSIAN
        if limit <= ROUNDING * float(np.abs(truth).max()):
            break  # half of the pixels are met exactly
        scale, shift = fit_scale_and_shift(pred, truth, np.minimum(1, limit / np.maximum(residual, limit)))
    return scale, shift


def no_fit(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return scale 1 and shift 0: the prediction is taken as it is."""
    return 1.0, 0.0


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the smallest value at which half of the weight is reached: an argmin of sum w |x - value|.

    Args:
        values: (N,); weights: (N,) at least 0, not all 0.
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(reached, reached[-1] / 2)]])


def is_constant(pred: np.ndarray) -> bool:
    """Tell whether the values differ by no more than rounding."""
    low, high = float(pred.min()), float(pred.max())
    return high - low <= ROUNDING * max(abs(low), abs(high))


def blocks(num: int) -> Iterator[slice]:
    """Yield slices that cover ``num`` values, each short enough for its arrays to stay in the processor's cache."""
    return (slice(start, start + BLOCK) for start in range(0, num, BLOCK))


def _slope_l1(pred: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    counts = pred != 0
    if not counts.any():
        return 0.0
    return weighted_median(truth[counts] / pred[counts], weights[counts] * np.abs(pred[counts]))


def _checked(pred: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _enough(pred)
    return pred.astype(np.float64), truth.astype(np.float64)


def _mean(values: np.ndarray, weights: np.ndarray | None) -> float:
    return float(values.mean(dtype=np.float64) if weights is None else np.average(values, weights=weights))


def _enough(pred: np.ndarray) -> None:
    if len(pred) < MIN_PIXELS:
        raise DatoolError(f"cannot fit scale and shift to {len(pred)} pixels, at least {MIN_PIXELS} are needed.")


@dataclass(frozen=True)
class Alignment:
    """One rule.

    Args:
        fit: (pred (N,), truth (N,)) -> scale, shift.
        removes: the most ambiguous prediction that it makes comparable.
        title: the rule in words.
    """

    fit: Callable[[np.ndarray, np.ndarray], tuple[float, float]]
    removes: Ambiguity
    title: str


ALIGNMENTS: dict[str, Alignment] = {
    "least-squares": Alignment(fit_scale_and_shift, Ambiguity.SCALE_AND_SHIFT, "least squares, scale and shift"),
    "least-squares-or-zero": Alignment(fit_or_zero, Ambiguity.SCALE_AND_SHIFT, "the same; 0 for a constant map"),
    "least-squares-positive": Alignment(
        fit_positive, Ambiguity.SCALE_AND_SHIFT, "least squares, scale at least 0, and shift"
    ),
    "scale": Alignment(fit_scale, Ambiguity.SCALE, "least squares, scale alone"),
    "median": Alignment(fit_medians, Ambiguity.SCALE, "ratio of medians"),
    "l1": Alignment(fit_l1, Ambiguity.SCALE_AND_SHIFT, "least relative error, scale and shift"),
    "l1-scale": Alignment(fit_scale_l1, Ambiguity.SCALE, "least relative error, scale alone"),
    "huber": Alignment(fit_huber, Ambiguity.SCALE_AND_SHIFT, "Huber's loss, scale and shift"),
    "none": Alignment(no_fit, Ambiguity.NONE, "none: metric predictions only"),
}
