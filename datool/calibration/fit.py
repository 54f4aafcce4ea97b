"""The line from predicted to true disparity through points, some of which may be wrong, and how far to trust it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from datool.calibration.rows import Calibration
from datool.errors import DatoolError

# Tukey's constant for 95 % efficiency on Gaussian residuals; and the median absolute deviation of a Gaussian.
TUKEY_K, MAD_OF_GAUSSIAN = 4.685, 0.6744897501960817
STEPS, CONVERGED = 50, 1e-12
# Relative residuals that are rounding of float32 predictions; and a spread of predictions that is.
ROUNDING, CONSTANT = 1e-6, 1e-6
# Points that the slow, robust start takes; and those groups of which can tell their own errors.
START_POINTS, MIN_GROUPS = 400, 8
# Bounds of the mean slope of Tukey's influence, and of what a point leaves to the others to decide.
FLATTEST, LEAST_ALONE = 0.3, 0.1
# Bounds of the warnings.
FEW, NARROW, ALONE, MANY_OUTLIERS, UNCERTAIN, OFF, MOSTLY_SKY = 5, 0.25, 0.9, 0.2, 0.1, 0.15, 0.5
SCALE_UNCERTAIN, MILLIMETRES = 0.4, 300.0
ENDS = (0.02, 0.98)


@dataclass(frozen=True, eq=False)
class Line:
    """truth = scale * pred + shift.

    Args:
        scale, shift: of the line.
        counts: (N,) how much each point counts, 0 to 1; 0 = set aside.
        leverage: (N,) share of its own fitted value that each point decides.
        covariance: (2, 2) of scale and shift; None where there are too few points.
    """

    scale: float
    shift: float
    counts: np.ndarray
    leverage: np.ndarray
    covariance: np.ndarray | None


def fit_line(pred: np.ndarray, truth: np.ndarray, groups: np.ndarray | None = None) -> Line:
    """Return the line through points of which up to half may be wrong.

    Residuals are relative, (scale pred + shift - truth) / truth, which for small ones is the relative error of depth.
    Least squares reweighted by Tukey's biweight, whose scale is the median absolute residual (raised for few points),
    from a start by repeated medians of slopes; a point far from the others may err by as much as their line does there.
    On NYU and KITTI with Depth Anything V2, 20 random points gave less error of depth this way than by least squares
    of the absolute residuals, plain or with Huber's loss.

    Args:
        pred: (N,) predicted disparity, any units; truth: (N,) disparity in 1/m, above 0.
        groups: (N,) int64: points that share their errors, such as neighbours of a dense map; None = none do.
    Raises:
        DatoolError: fewer than two points, or all predictions are equal.

    Source: Siegel 1982 (repeated medians); Beaton and Tukey 1974 (biweight); errors: Huber 1981, MacKinnon and White
    1985 (HC3), by groups Liang and Zeger 1986.
    """
    pred, truth = np.asarray(pred, np.float64), np.asarray(truth, np.float64)
    span = float(np.ptp(pred)) if len(pred) else 0.0
    if len(pred) < 2 or span <= CONSTANT * float(np.abs(pred).max()):
        got = f"{len(pred)} of {pred[0]:g}" if len(pred) else "none"
        raise DatoolError(
            f"scale and shift need points of two different predicted disparities at least, got {got}.",
            "Give points at other depths.",
        )
    middle = float(np.median(pred))
    x, relative = (pred - middle) / span, 1 / truth
    slope, offset = _start(x, truth)
    rows = np.stack([x, np.ones_like(x)], 1) * relative[:, None]
    counts, reach = np.ones(len(x)), np.zeros(len(x))
    few = 1 + 5 / max(1, len(x) - 2)  # Rousseeuw and Leroy 1987: the median of few residuals is too small
    for _ in range(STEPS):
        residual = np.abs(slope * x + offset - truth) * relative
        limit = TUKEY_K * max(few * float(np.median(residual)) / MAD_OF_GAUSSIAN, ROUNDING)
        # Far from all that count the line itself is uncertain, so that a point there need not be wrong.
        counts = np.maximum(1 - residual**2 / (limit**2 * (1 + reach * (1 - counts))), 0) ** 2
        before = slope, offset
        slope, offset = _least_squares(x, truth, counts * relative**2, before)
        bread = np.linalg.pinv((rows * counts[:, None]).T @ rows)
        reach = np.einsum("ni,ij,nj->n", rows, bread, rows)
        if max(abs(slope - before[0]), abs(offset - before[1])) <= CONVERGED * (abs(slope) + abs(offset)):
            break
    covariance = _covariance(rows, (slope * x + offset - truth) * relative, counts, groups)
    back = np.array([[1 / span, 0], [-middle / span, 1]])
    return Line(
        scale=slope / span,
        shift=offset - slope * middle / span,
        counts=counts,
        leverage=counts * reach,
        covariance=None if covariance is None else back @ covariance @ back.T,
    )


def fit_calibration(
    pred: np.ndarray,
    depth_m: np.ndarray,
    spread: np.ndarray,
    size: tuple[int, int],
    found_by: str,
    groups: np.ndarray | None = None,
) -> Calibration:
    """Return the calibration that known depths give, with warnings where they do not determine it.

    Args:
        pred: (N,) predicted disparity at the points; depth_m: (N,) what is known there.
        spread: (M,) predicted disparity all over the map, or the maps.
        size: (height, width) of the photo.
        found_by: for the record.
        groups: as for `fit_line`.
    Raises:
        DatoolError: the points determine no line, or one by which larger disparity is farther; or all are at one depth.
    """
    if len(depth_m) > 1 and np.ptp(depth_m) <= ROUNDING * np.max(depth_m):
        raise DatoolError(
            f"all points are {depth_m[0]:g} m away, which tells no scale.", "Give nearer and farther ones too."
        )
    line = fit_line(pred, 1 / depth_m, groups)
    if line.scale <= 0:
        raise DatoolError(
            f"by these points larger disparity would be farther: scale {line.scale:.3g} 1/m.",
            "Are x (to the right) and y (down) in that order, from the top left of the upright photo, and distances in "
            "metres? Points should differ in depth by more than the model errs.",
        )
    disparity, used = line.scale * pred + line.shift, line.counts > 0
    shown = used & (disparity > 0)
    errors: tuple[float | None, ...] = (None, None, None)
    if line.covariance is not None:
        deviations = np.sqrt(np.maximum(np.diag(line.covariance), 0))  # rounding may go below
        both = float(line.covariance[0, 1] / deviations.prod()) if deviations.all() else 0.0
        errors = (float(deviations[0]), float(deviations[1]), min(1.0, max(-1.0, both)))
    seen = line.scale * np.asarray(spread, np.float64) + line.shift
    far_m, near_m = (float(end) for end in 1 / np.quantile(seen[seen > 0], ENDS))
    found = Calibration(
        scale_per_m=line.scale,
        shift_per_m=line.shift,
        size=size,
        found_by=found_by,
        num_points=len(pred),
        num_outliers=int(np.sum(~used)),
        near_m=float(depth_m[used].min()),
        far_m=float(depth_m[used].max()),
        abs_rel=float(np.mean(np.abs(1 / disparity[shown] / depth_m[shown] - 1))),
        residual_per_m=float(np.sqrt(np.mean((disparity - 1 / depth_m)[used] ** 2))),
        scale_error_per_m=errors[0],
        shift_error_per_m=errors[1],
        correlation=errors[2],
        map_near_m=near_m,
        map_far_m=far_m,
    )
    found = replace(found, map_near_error_m=found.depth_error_m(near_m), map_far_error_m=found.depth_error_m(far_m))
    return replace(found, warnings=tuple(_doubts(found, line, pred, depth_m, spread)))


def _doubts(found: Calibration, line: Line, pred: np.ndarray, depth_m: np.ndarray, spread: np.ndarray) -> Iterator[str]:
    """Yield why the points may not determine the calibration."""
    num, used = len(pred), line.counts > 0
    if num < FEW:
        what = "two points fit any line" if num == 2 else f"of {num} points a wrong one cannot be told"
        yield f"{what}; give {FEW} or more."
    low, high = np.quantile(spread, ENDS)
    span = float(np.ptp(pred[used]) / (high - low)) if high > low else 1.0
    if span < NARROW:
        yield (
            f"the points span {span:.0%} of the map's disparity: what is not between {found.near_m:.3g} and "
            f"{found.far_m:.3g} m is extrapolated; give nearer and farther ones."
        )
    error = found.scale_error_per_m
    if error is not None and error > SCALE_UNCERTAIN * found.scale_per_m:
        share = error / found.scale_per_m
        yield f"the scale is uncertain by {share:.0%} (standard error); give points that differ more in depth."
    if found.near_m is not None and found.near_m > MILLIMETRES:
        yield f"the nearest point is {found.near_m:.4g} m away: are the distances in millimetres?"
    top = int(np.argmax(line.leverage))
    if num > 2 and line.leverage[top] > ALONE:
        yield (
            f"the point at {depth_m[top]:.3g} m decides the line almost alone (leverage {line.leverage[top]:.2f}); "
            "give others about as near or far."
        )
    if found.num_outliers > MANY_OUTLIERS * num:
        yield f"{found.num_outliers} of {num} points contradict the others and were set aside; check them."
    for end, depth, error in (
        ("near", found.map_near_m, found.map_near_error_m),
        ("far", found.map_far_m, found.map_far_error_m),
    ):
        if depth is not None and error is not None and error > UNCERTAIN * depth:
            yield f"depth at the map's {end} end, {depth:.3g} m, is uncertain by {error / depth:.0%} (standard error)."
    if found.abs_rel is not None and found.abs_rel > OFF:
        yield f"the line misses the points by {found.abs_rel:.0%} of their depth: wrong points, or a poor prediction."
    num_sky = int(np.sum(line.scale * pred[used] + line.shift <= 0))
    if num_sky:
        yield f"{num_sky} of the points come out as sky, the farthest known is at {found.far_m:.3g} m."
    sky = float(np.mean(line.scale * spread + line.shift <= 0))
    if sky > MOSTLY_SKY:
        yield f"{sky:.0%} of the map comes out as sky."


def _start(x: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return slope and offset by repeated medians: of each point's slopes to the others, then of the points'."""
    if len(x) > START_POINTS:
        order = np.lexsort((truth, x))[np.linspace(0, len(x) - 1, START_POINTS).astype(int)]
        x, truth = x[order], truth[order]
    run = x[:, None] - x
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(run == 0, np.nan, (truth[:, None] - truth) / run)
    slope = float(np.median(np.nanmedian(slopes[~np.isnan(slopes).all(1)], axis=1)))
    return slope, float(np.median(truth - slope * x))


def _least_squares(
    x: np.ndarray, truth: np.ndarray, weights: np.ndarray, before: tuple[float, float]
) -> tuple[float, float]:
    """Return weighted slope and offset; those before where the weights leave one place only."""
    total = weights.sum()
    if total <= 0:
        return before
    x_mean, truth_mean = weights @ x / total, weights @ truth / total
    centred = x - x_mean
    spread = float(weights @ centred**2 / total)
    if spread <= CONSTANT**2:
        return before
    slope = float(weights @ (centred * (truth - truth_mean)) / total) / spread
    return slope, float(truth_mean - slope * x_mean)


def _covariance(
    rows: np.ndarray, residual: np.ndarray, counts: np.ndarray, groups: np.ndarray | None
) -> np.ndarray | None:
    """Return the (2, 2) covariance of slope and offset; None where too few points, or groups, tell it.

    The larger of two: that of points which all err alike, and that of groups which err each in its own way, with
    residuals as if each point had been left out.
    """
    used = counts > 0
    rows, root = rows[used], np.sqrt(counts[used])
    _, numbers = np.unique((np.arange(len(counts)) if groups is None else groups)[used], return_inverse=True)
    num, num_groups = len(rows), int(numbers.max(initial=-1)) + 1
    if num < 3 or (num_groups < min(num, MIN_GROUPS)):
        return None
    bread = np.linalg.pinv(rows.T @ rows)
    pull = root**2 * residual[used] / max(float(np.mean(root * (5 * root - 4))), FLATTEST)
    alike = bread * float(pull @ pull) / (num - 2)
    alone = 1 - np.einsum("ni,ij,nj->n", rows, bread, rows)
    scores = rows * (pull / np.maximum(alone, LEAST_ALONE))[:, None]
    sums = np.stack([np.bincount(numbers, scores[:, axis], num_groups) for axis in (0, 1)], 1)
    apart = bread @ (sums.T @ sums) @ bread
    return max(alike, apart, key=lambda covariance: float(np.trace(rows.T @ rows @ covariance)))
