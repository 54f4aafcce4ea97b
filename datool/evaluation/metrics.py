"""Score aligned predictions against truth. NumPy, float64, pure functions.

Pixel metrics take depths above 0 at the pixels that count, (N,) each: ``pred`` p (aligned) and ``truth`` g; d = ln p -
ln g. A set's value is the mean over images of the image's value unless the protocol says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from datool.depth import DepthMap, Quantity
from datool.errors import DatoolError
from datool.evaluation.alignment import MIN_PIXELS, fit_scale_and_shift

__all__ = [
    "METRICS",
    "MIN_PIXELS",
    "Metric",
    "Scores",
    "abs_rel",
    "boundary_f1",
    "delta",
    "fit_scale_and_shift",
    "inverse_rmse",
    "log10",
    "rel_moge",
    "rmse",
    "rmse_log",
    "score_disparity",
    "silog",
    "silog_half",
    "sq_rel",
    "whdr",
]

# Depth Pro's ten thresholds of the ratio of neighbouring disparities, and the least depth.
BOUNDARY_RATIOS = np.linspace(1.05, 1.25, 10)
LEAST_DEPTH = 1e-6


def abs_rel(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return mean |p - g| / g. Source: Eigen et al. 2014, arXiv:1406.2283."""
    return float((np.abs(pred - truth) / truth).mean())


def rel_moge(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return mean |p - g| / (g + 1e-6). Source: MoGe moge/test/metrics.py."""
    return float((np.abs(pred - truth) / (truth + 1e-6)).mean())


def sq_rel(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return mean (p - g)^2 / g, in units of depth. LeReS divides by g^2. Source: Eigen et al. 2014."""
    return float(((pred - truth) ** 2 / truth).mean())


def rmse(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return the root of mean (p - g)^2. Source: Eigen et al. 2014."""
    return float(np.sqrt(((pred - truth) ** 2).mean()))


def rmse_log(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return the root of mean d^2, natural logarithm. Source: Eigen et al. 2014."""
    return float(np.sqrt((np.log(pred / truth) ** 2).mean()))


def log10(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return mean |log10 p - log10 g|. Source: Saxena et al. 2009 (Make3D)."""
    return float(np.abs(np.log10(pred / truth)).mean())


def silog(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return 100 sqrt(mean d^2 - (mean d)^2), the convention of KITTI, ZoeDepth and Marigold. Source: KITTI devkit."""
    return float(100 * np.log(pred / truth).std())


def silog_half(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return sqrt(mean d^2 - 0.5 (mean d)^2), the convention of Depth Anything V2's metric code: no 100, lambda 0.5.

    Source: Depth-Anything-V2 metric_depth/util/metric.py.
    """
    d = np.log(pred / truth)
    return float(np.sqrt((d**2).mean() - 0.5 * d.mean() ** 2))


def inverse_rmse(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return the root of mean (1/p - 1/g)^2, in 1/m for metres (KITTI's table: 1/km). Source: KITTI devkit."""
    return float(np.sqrt(((1 / pred - 1 / truth) ** 2).mean()))


def delta(pred: np.ndarray, truth: np.ndarray, power: int = 1) -> float:
    """Return the share of pixels with max(p/g, g/p) < 1.25^power, strictly. Source: Eigen et al. 2014."""
    return float((np.maximum(pred / truth, truth / pred) < 1.25**power).mean())


def delta2(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return `delta` for 1.25^2."""
    return delta(pred, truth, 2)


def delta3(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return `delta` for 1.25^3."""
    return delta(pred, truth, 3)


def bad_pixels(pred: np.ndarray, truth: np.ndarray) -> float:
    """Return 100 mean[max(p/g, g/p) > 1.25]. Source: Ranftl et al. 2020 (MiDaS), its evaluation gists."""
    return float(100 * (np.maximum(pred / truth, truth / pred) > 1.25).mean())


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
    """One way to score.

    Args:
        compute: the function.
        title: what tables print; names the convention where there are several.
        on: ``pixels`` (pred, truth: (N,) depths), ``map`` (pred, truth, valid: (H, W)) or ``pairs`` (nearer, farther).
        higher_is_better: which way is good.
    """

    compute: Callable[..., float]
    title: str
    on: str = "pixels"
    higher_is_better: bool = False


@dataclass(frozen=True)
class Scores:
    """How one map compares with truth.

    Args:
        abs_rel: mean of |pred - truth| / truth.
        delta1: share of pixels whose ratio to truth, the larger over the smaller, is below 1.25.
        correlation: Pearson's, between the disparities, before any floor.
        scale, shift: of the fit, in 1/truth per unit of prediction, and 1/truth.
        num_pixels: valid pixels.
    """

    abs_rel: float
    delta1: float
    correlation: float
    scale: float
    shift: float
    num_pixels: int


def score_disparity(pred: DepthMap, truth: DepthMap, near: float = 1e-3, far: float = 80.0) -> Scores:
    """Score disparity known up to scale and shift against depth: fit in disparity, measure in depth.

    Least squares of scale and shift to 1/truth over pixels with near < truth < far, floor at 1/max(truth), invert.
    The prediction is resized bilinearly to the truth's size.

    Args:
        pred: disparity.
        truth: depth, in metres or known up to scale.
        near, far: the open range of truth that counts, in truth's unit.
    Raises:
        DatoolError: pred is no disparity, or fewer than 10 pixels count.

    Source: the reconstruction of Depth Anything's protocol (MiDaS's, with MoGe's floor); none was released.
    """
    if pred.quantity is not Quantity.DISPARITY:
        raise DatoolError(f"expected a prediction of disparity, got {pred.quantity.value}.")
    depth = truth.to(Quantity.DEPTH).values.astype(np.float64)
    values = pred.values
    if values.shape != depth.shape:
        values = cv2.resize(values, depth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    with np.errstate(invalid="ignore"):
        counts = (depth > near) & (depth < far) & np.isfinite(values)
    depth, disparity = depth[counts], values[counts].astype(np.float64)
    scale, shift = fit_scale_and_shift(disparity, 1 / depth)
    aligned = 1 / np.maximum(scale * disparity + shift, 1 / depth.max())
    ratio = np.maximum(aligned / depth, depth / aligned)
    spread = disparity.std() * (1 / depth).std()
    covariance = ((disparity - disparity.mean()) * (1 / depth - (1 / depth).mean())).mean()
    return Scores(
        abs_rel=float((np.abs(aligned - depth) / depth).mean()),
        delta1=float((ratio < 1.25).mean()),
        correlation=float(covariance / spread) if spread > 0 else 0.0,
        scale=scale,
        shift=shift,
        num_pixels=len(depth),
    )


METRICS: dict[str, Metric] = {
    "abs_rel": Metric(abs_rel, "AbsRel"),
    "sq_rel": Metric(sq_rel, "SqRel (/g)"),
    "rmse": Metric(rmse, "RMSE"),
    "rmse_log": Metric(rmse_log, "RMSE log"),
    "log10": Metric(log10, "log10"),
    "silog": Metric(silog, "SILog (KITTI, x100)"),
    "silog_half": Metric(silog_half, "SILog (V2, lambda 0.5)"),
    "i_rmse": Metric(inverse_rmse, "iRMSE"),
    "delta1": Metric(delta, "delta1", higher_is_better=True),
    "delta2": Metric(delta2, "delta2", higher_is_better=True),
    "delta3": Metric(delta3, "delta3", higher_is_better=True),
    "bad_pixels": Metric(bad_pixels, "bad pixels, %"),
    "rel_moge": Metric(rel_moge, "Rel (MoGe)"),
    "boundary_f1": Metric(boundary_f1, "boundary F1 (Depth Pro)", "map", True),
    "accuracy": Metric(accuracy, "accuracy", "pairs", True),
    "whdr": Metric(whdr, "WHDR", "pairs"),
}
