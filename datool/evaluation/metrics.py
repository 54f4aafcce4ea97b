"""Score aligned predictions against truth. NumPy, float64, pure functions.

Pixel metrics take depths above 0 at the pixels that count, (N,) each: ``pred`` p (aligned) and ``truth`` g; d = ln p -
ln g. Each is a mean, or a function of a few means, over the pixels: `PixelMetric` gives the sums of a block of pixels
and what becomes of their means, so that a map goes through the processor's cache once, whichever metrics are asked for.
A set's value is the mean over images of the image's value unless the protocol says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from datool.evaluation.alignment import MIN_PIXELS, fit_scale_and_shift

__all__ = [
    "METRICS",
    "MIN_PIXELS",
    "Errors",
    "Metric",
    "PixelMetric",
    "accuracy",
    "boundary_f1",
    "fit_scale_and_shift",
    "measure",
    "whdr",
]

# Depth Pro's ten thresholds of the ratio of neighbouring disparities, and the least depth.
BOUNDARY_RATIOS = np.linspace(1.05, 1.25, 10)
LEAST_DEPTH = 1e-6


class Errors:
    """What pixel metrics share, each computed when it is first asked for.

    Args:
        pred, truth: (n,) float64 depths, p and g.
        centre: any number near most of d, the same for all blocks of an image: variances are taken about it.
    """

    def __init__(self, pred: np.ndarray, truth: np.ndarray, centre: float = 0.0) -> None:
        self.pred, self.truth, self.centre = pred, truth, centre

    @cached_property
    def ratio(self) -> np.ndarray:
        """p / g."""
        return self.pred / self.truth

    @cached_property
    def relative(self) -> np.ndarray:
        """(p - g) / g."""
        return self.ratio - 1

    @cached_property
    def difference(self) -> np.ndarray:
        """p - g."""
        return self.pred - self.truth

    @cached_property
    def log(self) -> np.ndarray:
        """d = ln p - ln g."""
        return np.log(self.ratio)

    @cached_property
    def worst(self) -> np.ndarray:
        """max(p / g, g / p)."""
        return np.maximum(self.ratio, self.truth / self.pred)


def abs_rel(errors: Errors) -> tuple[float]:
    """Return the sum of |p - g| / g. Source: Eigen et al. 2014, arXiv:1406.2283."""
    return (_sum(np.abs(errors.relative)),)


def rel_moge(errors: Errors) -> tuple[float]:
    """Return the sum of |p - g| / (g + 1e-6). Source: MoGe moge/test/metrics.py."""
    return (_sum(np.abs(errors.difference) / (errors.truth + 1e-6)),)


def sq_rel(errors: Errors) -> tuple[float]:
    """Return the sum of (p - g)^2 / g, in units of depth. LeReS divides by g^2. Source: Eigen et al. 2014."""
    return (float(errors.difference @ errors.relative),)


def rmse(errors: Errors) -> tuple[float]:
    """Return the sum of (p - g)^2. Source: Eigen et al. 2014."""
    return (float(errors.difference @ errors.difference),)


def rmse_log(errors: Errors) -> tuple[float]:
    """Return the sum of d^2, natural logarithm. Source: Eigen et al. 2014."""
    return (float(errors.log @ errors.log),)


def log10(errors: Errors) -> tuple[float]:
    """Return the sum of |log10 p - log10 g|. Source: Saxena et al. 2009 (Make3D)."""
    return (_sum(np.abs(errors.log)) / np.log(10),)


def silog(errors: Errors) -> tuple[float, float]:
    """Return the sums of d and d^2, about the centre, which a variance does not see. Source: KITTI devkit."""
    log = errors.log - errors.centre
    return _sum(log), float(log @ log)


def silog_half(errors: Errors) -> tuple[float, float]:
    """Return the sums of d and d^2. Source: Depth-Anything-V2 metric_depth/util/metric.py."""
    return _sum(errors.log), float(errors.log @ errors.log)


def inverse_rmse(errors: Errors) -> tuple[float]:
    """Return the sum of (1/p - 1/g)^2, in 1/m^2 for metres (KITTI's table: 1/km). Source: KITTI devkit."""
    inverse = errors.relative / errors.pred
    return (float(inverse @ inverse),)


def delta(power: int) -> Callable[[Errors], tuple[float]]:
    """Return what counts pixels with max(p/g, g/p) < 1.25^power, strictly. Source: Eigen et al. 2014."""
    return lambda errors: (float(np.count_nonzero(errors.worst < 1.25**power)),)


def bad_pixels(errors: Errors) -> tuple[float]:
    """Count pixels with max(p/g, g/p) > 1.25. Source: Ranftl et al. 2020 (MiDaS), its evaluation gists."""
    return (float(np.count_nonzero(errors.worst > 1.25)),)


def _sum(values: np.ndarray) -> float:
    return float(values.sum())


def _root(mean: float) -> float:
    return float(np.sqrt(mean))


def _deviation(mean: float, mean_square: float) -> float:
    """100 sqrt(mean d^2 - (mean d)^2); rounding may leave the difference below 0."""
    difference = mean_square - mean**2
    return 100 * float(np.sqrt(max(difference, 0.0) if np.isfinite(difference) else difference))


def _half_deviation(mean: float, mean_square: float) -> float:
    """sqrt(mean d^2 - 0.5 (mean d)^2): no 100, lambda 0.5."""
    return float(np.sqrt(mean_square - 0.5 * mean**2))


@dataclass(frozen=True)
class PixelMetric:
    """A function of means over the pixels that count.

    Args:
        sums: errors of a block of pixels -> the sums of it.
        title: what tables print; names the convention where there are several.
        finish: means over all pixels -> value.
        higher_is_better: which way is good.
    """

    sums: Callable[[Errors], tuple[float, ...]]
    title: str
    finish: Callable[..., float] = float
    higher_is_better: bool = False
    on = "pixels"

    def compute(self, pred: np.ndarray, truth: np.ndarray) -> float:
        """Return the value of (N,) depths above 0."""
        return measure([self], [(pred, truth)])[0]


def measure(metrics: Sequence[PixelMetric], parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Return each metric over all parts together.

    Args:
        metrics: which.
        parts: (pred, truth), (n,) float64 depths each, of any sizes; each is held no longer than it is measured.
    """
    found: list[list[tuple[float, ...]]] = []
    count, centre = 0, 0.0
    with np.errstate(all="ignore"):
        for pred, truth in parts:
            if not count:
                first = float(np.log(pred[0] / truth[0]))
                centre = first if np.isfinite(first) else 0.0
            errors = Errors(pred, truth, centre)
            found.append([metric.sums(errors) for metric in metrics])
            count += len(pred)
        sums = [np.sum(blocks, axis=0) for blocks in zip(*found, strict=True)]
        return [float(metric.finish(*(total / count))) for metric, total in zip(metrics, sums, strict=True)]


def whdr(nearer: np.ndarray, farther: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the weighted share of pairs in the wrong order; a tie or an unknown value is wrong.

    Args:
        nearer, farther: (N,) disparities at the points of which the first is known to be nearer.
        weights: (N,) confidence in each pair; None = all equal, as in DIW.

    Source: Bell et al. 2014 (WHDR); Chen et al. 2016 (DIW), arXiv:1604.03901.
    """
    return float(np.average(~(nearer > farther), weights=weights))


def accuracy(nearer: np.ndarray, farther: np.ndarray) -> float:
    """Return the share of pairs in the right order; a tie or an unknown value is wrong.

    Args:
        nearer, farther: (N,) disparities at the points of which the first is known to be nearer.

    Source: Yang et al. 2024 (Depth Anything V2), arXiv:2406.09414, section 6.
    """
    return float((nearer > farther).mean())


def boundary_f1(pred: np.ndarray, truth: np.ndarray, valid: np.ndarray) -> float:
    """Return Depth Pro's boundary F1 of two depth maps.

    With v = 1 / max(depth, 1e-6) there is an edge between neighbours i and j where v_j / v_i > t. Precision and recall
    are taken for each of four directions, averaged, and give F1(t); ten t from 1.05 to 1.25 are averaged with weight t.
    Neighbours count only where both are valid (the original has no mask, so unknown pixels become edges there).

    Args:
        pred: (H, W) depth, aligned: a shift changes ratios. truth: (H, W) depth. valid: (H, W) bool.

    Source: Bochkovskii et al. 2024 (Depth Pro), arXiv:2410.02073; src/depth_pro/eval/boundary_metrics.py.
    """
    steps: list[list[np.ndarray]] = []
    with np.errstate(invalid="ignore"):
        disparities = [1 / np.maximum(depth, LEAST_DEPTH) for depth in (pred, truth)]
    for first, second in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        both = valid[first] & valid[second]
        ratios = [(v[second][both] / v[first][both]) for v in disparities]
        steps += [ratios, [1 / ratio for ratio in ratios]]
    scores = []
    for limit in BOUNDARY_RATIOS:
        precision = recall = 0.0
        for pred_ratio, truth_ratio in steps:
            pred_edge, truth_edge = pred_ratio > limit, truth_ratio > limit
            hits = int(np.count_nonzero(pred_edge & truth_edge))
            precision += hits / max(int(np.count_nonzero(pred_edge)), 1) / 4
            recall += hits / max(int(np.count_nonzero(truth_edge)), 1) / 4
        total = precision + recall
        scores.append(2 * precision * recall / total if total > 0 else 0.0)
    return float(np.average(scores, weights=BOUNDARY_RATIOS))


@dataclass(frozen=True)
class Metric:
    """One way to score that is no mean over pixels.

    Args:
        compute: the function.
        title: what tables print.
        on: ``map`` (pred, truth, valid: (H, W)) or ``pairs`` (nearer, farther).
        higher_is_better: which way is good.
    """

    compute: Callable[..., float]
    title: str
    on: str
    higher_is_better: bool = False


METRICS: dict[str, PixelMetric | Metric] = {
    "abs_rel": PixelMetric(abs_rel, "AbsRel"),
    "sq_rel": PixelMetric(sq_rel, "SqRel (/g)"),
    "rmse": PixelMetric(rmse, "RMSE", _root),
    "rmse_log": PixelMetric(rmse_log, "RMSE log", _root),
    "log10": PixelMetric(log10, "log10"),
    "silog": PixelMetric(silog, "SILog (KITTI, x100)", _deviation),
    "silog_half": PixelMetric(silog_half, "SILog (V2, lambda 0.5)", _half_deviation),
    "i_rmse": PixelMetric(inverse_rmse, "iRMSE", _root),
    "delta1": PixelMetric(delta(1), "delta1", higher_is_better=True),
    "delta2": PixelMetric(delta(2), "delta2", higher_is_better=True),
    "delta3": PixelMetric(delta(3), "delta3", higher_is_better=True),
    "bad_pixels": PixelMetric(bad_pixels, "bad pixels, %", lambda mean: 100 * mean),
    "rel_moge": PixelMetric(rel_moge, "Rel (MoGe)"),
    "boundary_f1": Metric(boundary_f1, "boundary F1 (Depth Pro)", "map", True),
    "accuracy": Metric(accuracy, "accuracy", "pairs", True),
    "whdr": Metric(whdr, "WHDR", "pairs"),
}
