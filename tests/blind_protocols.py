"""A second implementation of every evaluation protocol, in plain float64 NumPy, written without reading the first.

It exists to be compared with (``tests/test_blind_protocols.py``), so it favours the formula as it is published over
speed and shares no code with ``datool.evaluation``. Every choice that the published descriptions leave open:

1.  A prediction is resized in the quantity that the model puts out; only then is a depth inverted to a disparity.
2.  Bilinear resizing has no antialiasing; a pixel is unknown if one of the pixels that it draws on is unknown.
    Marigold and the least-squares-in-disparity protocol name no resizing rule: align_corners = False, as in MiDaS.
3.  Crops are cut after the prediction has the size of the truth; the KITTI benchmark crop is cut from both maps.
    A frame smaller than 352 x 1216 has no benchmark crop: ValueError. The Eigen crop of NYU is fixed pixels
    (45:471, 41:601), whatever the frame's size.
4.  "max(truth)" (lsq-disparity, MoGe) is the maximum over the pixels that are evaluated.
5.  Sky in the truth (inf) is never evaluated, whatever the cap; neither is truth <= 0.
6.  A prediction unknown (NaN) or infinite after conversion at an evaluated pixel is refused (ValueError); zoe-metric
    alone clips an infinite depth to its maximum. A predicted infinite depth is disparity 0.
7.  A constant prediction: MiDaS says s = t = 0 (so depth = cap everywhere). In the others s = 0 and t = mean.
8.  A depth known up to scale and shift has no disparity: refused by the protocols that fit disparity. Marigold fits
    every depth in depth and every disparity in disparity; p > 0 restricts its fit, not its score.
9.  The metric protocols take predictions without ambiguity only; a metric disparity is inverted after the resizing.
    V2's does not clip them. Images with fewer than 10 valid pixels are refused everywhere, as V2 does.
10. MoGe's quantile is over the finite positive truth, linearly interpolated; "dropped if depth > 1000 q", so <= stays.
    AbsRel is divided by g + 1e-6 in MoGe's own protocol only.
11. Marigold's nearest subsample: factor f = 1024 / longer side when below 1, floor(side f) samples a side,
    the i-th at floor(i / f).
12. Bounds are strict (MiDaS, Marigold, Zoe and lsq-disparity say so; da-v2-reconstructed is MiDaS with other bounds),
    V2's metric protocol is inclusive.
13. da-v2-reconstructed: Garg on the full KITTI frame; Sintel cap 70 (published as 70-80), ETH3D cap 72 and lower bound
    0 for both as in MiDaS; DIODE has no published cap, so the caller gives the range.
14. Boundary F1 takes v = max(aligned disparity, 1e-6), or 1 / max(depth, 1e-6) after a fit in depth: before floors,
    caps and clips. A pair of neighbours counts if both are evaluated pixels. No edges at all gives 0 (the formula).
15. iRMSE is in 1/m. "Scale only" is least squares, s = sum(py) / sum(pp). The L1 fit weighs by 1 / y.
16. Huber: from least squares, 20 times weights min(1, 1.345 sigma / |r|) where sigma = median|r| / 0.6745, that is the
    quartile of a Gaussian.
17. WHDR: given pairs with weights, wrong unless the point said to be closer is strictly closer.
18. MoGe's fits of depth take of each of 64 x 64 equal fields the valid pixel whose centre is nearest to the field's
    (the upper, then the left one of two), L1 weighted by 1 / g; no floor and no clip after it.
19. DA-2K reads the map bilinearly (align_corners = False) at the centre of pixel [row, column] of the original image;
    an unknown value makes the pair wrong.

Written differently at first and changed when the two were compared: 6 (Zoe's own code turns NaN into its minimum, but
an unknown prediction must never be averaged away), 7 (constant maps were refused; they are to be scored and reported),
9 (the 10 pixels were V2's alone), 16 (0.6745 was rounded). 18 was added then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

Scores = dict[str, float]

# --- bounds in metres and crops, per protocol and set ---------------------------------------------------------------

MIDAS = {"nyu": 10.0, "tum": 10.0, "kitti": 80.0, "eth3d": 72.0, "sintel": 72.0}

DA_V2 = {
    "kitti": (1e-3, 80.0, "garg"),
    "nyu": (1e-3, 10.0, "eigen"),
    "sintel": (0.0, 70.0, "none"),
    "eth3d": (0.0, 72.0, "none"),
}

MARIGOLD = {
    "nyu": (1e-3, 10.0, "eigen"),
    "kitti": (1e-5, 80.0, "benchmark+eigen-kitti"),
    "eth3d": (1e-5, np.inf, "none"),
    "diode": (0.6, 350.0, "none"),
    "hypersim": (1e-5, 65.0, "none"),
    "vkitti": (1e-5, 80.0, "benchmark"),
}

ZOE = {
    "nyu": (1e-3, 10.0, "eigen"),
    "kitti": (1e-3, 80.0, "benchmark+garg"),
    "ibims": (0.0, 10.0, "eigen"),
    "sunrgbd": (0.0, 8.0, "eigen"),
    "diml_indoor": (0.0, 10.0, "none"),
    "diml_outdoor": (2.0, 80.0, "garg"),
    "diode_indoor": (1e-3, 10.0, "eigen"),
    "diode_outdoor": (1e-3, 80.0, "garg"),
    "hypersim": (1e-3, 80.0, "eigen"),
    "vkitti": (1e-3, 80.0, "benchmark+garg"),
    "ddad": (1e-3, 80.0, "garg"),
}

V2_MAX = {"hypersim": 20.0, "kitti": 80.0}


# --- resizing and cropping -------------------------------------------------------------------------------------------


def bilinear(values: np.ndarray, shape: tuple[int, int], align_corners: bool) -> np.ndarray:
    """Resize (H, W) to ``shape``, without antialiasing."""
    out = np.asarray(values, dtype=np.float64)
    if out.shape == tuple(shape):
        return out
    for axis in (0, 1):
        out = np.moveaxis(_lerp(np.moveaxis(out, axis, 0), shape[axis], align_corners), 0, axis)
    return out


def _lerp(values: np.ndarray, size: int, align_corners: bool) -> np.ndarray:
    old, i = values.shape[0], np.arange(size, dtype=np.float64)
    if align_corners:
        at = i * (old - 1) / (size - 1) if size > 1 else np.zeros(1)
    else:
        at = np.clip((i + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.minimum(np.floor(at).astype(int), old - 1)
    high = np.minimum(low + 1, old - 1)
    share = (at - low)[:, None]
    with np.errstate(invalid="ignore"):
        mixed = (1 - share) * values[low] + share * values[high]
    return np.where(share == 0, values[low], np.where(share == 1, values[high], mixed))


def benchmark_box(height: int, width: int) -> tuple[slice, slice]:
    """Return KITTI's benchmark crop: the bottom 352 rows, the middle 1216 columns."""
    if height < 352 or width < 1216:
        raise ValueError("frame smaller than the KITTI benchmark crop")
    top, left = height - 352, int((width - 1216) / 2)
    return slice(top, top + 352), slice(left, left + 1216)


def crop_mask(name: str, height: int, width: int) -> np.ndarray:
    """Return (H, W) bool: the pixels inside the crop called ``name`` ("a+b": b within the frame that a leaves)."""
    mask = np.zeros((height, width), dtype=bool)
    if name.startswith("benchmark"):
        rest = name.removeprefix("benchmark").removeprefix("+") or "none"
        mask[benchmark_box(height, width)] = crop_mask(rest, 352, 1216)
    elif name == "none":
        mask[:] = True
    elif name == "eigen":
        mask[45:471, 41:601] = True
    elif name == "garg":
        mask[int(0.40810811 * height) : int(0.99189189 * height), int(0.03594771 * width) : int(0.96405229 * width)] = (
            True
        )
    elif name == "eigen-kitti":
        mask[int(0.3324324 * height) : int(0.91351351 * height), int(0.0359477 * width) : int(0.96405229 * width)] = (
            True
        )
    else:
        raise ValueError(name)
    return mask


# --- alignments: (n,) prediction p and target y give s and t ---------------------------------------------------------


def least_squares(p: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Minimise sum (s p + t - y)^2; of a constant prediction only the mean of y is left."""
    if np.ptp(p) == 0:
        return 0.0, float(y.mean())
    column = np.stack([p, np.ones_like(p)], axis=1)
    size = np.abs(column).max(axis=0)
    s, t = np.linalg.lstsq(column / size, y, rcond=None)[0] / size
    return float(s), float(t)


def midas_closed_form(p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """Do the same by MiDaS's determinant; zero both where it is not positive."""
    a00, a01, a11, b0, b1 = (p * p).sum(), p.sum(), float(p.size), (p * q).sum(), q.sum()
    det = a00 * a11 - a01 * a01
    if p.size == 0 or np.ptp(p) == 0 or det <= 0:
        return 0.0, 0.0
    return float((a11 * b0 - a01 * b1) / det), float((-a01 * b0 + a00 * b1) / det)


def scale_least_squares(p: np.ndarray, y: np.ndarray) -> float:
    """Minimise sum (s p - y)^2."""
    return float((p * y).sum() / (p * p).sum())


def scale_median(p: np.ndarray, g: np.ndarray) -> float:
    """Return monodepth2's ratio of medians."""
    return float(np.median(g) / np.median(p))


def scale_weighted_l1(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    """Minimise sum w |s p - y|: the median of y / p weighted by w |p|."""
    ratio, weight = y / p, w * np.abs(p)
    order = np.argsort(ratio)
    total = np.cumsum(weight[order])
    return float(ratio[order][np.searchsorted(total, total[-1] / 2)])


def affine_weighted_l1(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """Minimise sum w |s p + t - y|: each sample in turn lies on the line, which leaves the scale problem."""
    lowest, best = np.inf, (0.0, 0.0)
    for anchor in range(p.size):
        dp, dy = p - p[anchor], y - y[anchor]
        moves = dp != 0
        s = scale_weighted_l1(dp[moves], dy[moves], w[moves]) if moves.any() else 0.0
        cost = float((w * np.abs(s * dp - dy)).sum())
        if cost < lowest:
            lowest, best = cost, (s, float(y[anchor] - s * p[anchor]))
    return best


def huber(p: np.ndarray, y: np.ndarray, k: float = 1.345, rounds: int = 20) -> tuple[float, float]:
    """Fit by iteratively reweighted least squares with Huber's weights."""
    s, t = least_squares(p, y)
    for _ in range(rounds):
        r = np.abs(s * p + t - y)
        sigma = np.median(r) / NormalDist().inv_cdf(0.75)
        if sigma == 0:
            break
        w = np.minimum(1.0, k * sigma / np.maximum(r, 1e-300))
        mp, my = (w * p).sum() / w.sum(), (w * y).sum() / w.sum()
        s = float((w * (p - mp) * (y - my)).sum() / (w * (p - mp) ** 2).sum())
        t = float(my - s * mp)
    return s, t


# --- metrics of one image: (n,) aligned depth p and true depth g in metres ------------------------------------------


def abs_rel(p: np.ndarray, g: np.ndarray, epsilon: float = 0.0) -> float:
    """Mean |p - g| / (g + epsilon)."""
    return float(np.mean(np.abs(p - g) / (g + epsilon)))


def sq_rel(p: np.ndarray, g: np.ndarray) -> float:
    """Mean (p - g)^2 / g, in metres."""
    return float(np.mean((p - g) ** 2 / g))


def rmse(p: np.ndarray, g: np.ndarray) -> float:
    """Root of the mean square error, in metres."""
    return float(np.sqrt(np.mean((p - g) ** 2)))


def rmse_log(p: np.ndarray, g: np.ndarray) -> float:
    """Root of the mean square of ln p - ln g."""
    return float(np.sqrt(np.mean((np.log(p) - np.log(g)) ** 2)))


def log10(p: np.ndarray, g: np.ndarray) -> float:
    """Mean |log10 p - log10 g|."""
    return float(np.mean(np.abs(np.log10(p) - np.log10(g))))


def silog(p: np.ndarray, g: np.ndarray, share: float = 1.0, factor: float = 100.0) -> float:
    """Return factor sqrt(mean d^2 - share (mean d)^2): 1 and 100 for KITTI's, 0.5 and 1 for that of V2."""
    d = np.log(p) - np.log(g)
    return float(factor * np.sqrt(max(0.0, np.mean(d * d) - share * np.mean(d) ** 2)))


def irmse(p: np.ndarray, g: np.ndarray) -> float:
    """Root of the mean square of 1 / p - 1 / g, in 1/m."""
    return float(np.sqrt(np.mean((1 / p - 1 / g) ** 2)))


def delta(p: np.ndarray, g: np.ndarray, power: int) -> float:
    """Share of pixels with max(p / g, g / p) < 1.25^power."""
    return float(np.mean(np.maximum(p / g, g / p) < 1.25**power))


def whdr(depth: np.ndarray, pairs: Iterable[tuple[tuple[int, int], tuple[int, int], float]]) -> float:
    """Weighted share of wrong pairs: each (closer pixel, farther pixel, weight)."""
    pairs = list(pairs)
    wrong = sum(weight for near, far, weight in pairs if not depth[near] < depth[far])
    return float(wrong / sum(weight for *_, weight in pairs))


def boundary_f1(v_pred: np.ndarray, v_true: np.ndarray, mask: np.ndarray) -> float:
    """Depth Pro's boundary F1 of two (H, W) inverse depths, over neighbours that are both in ``mask``."""
    here, there = slice(None, -1), slice(1, None)
    every = slice(None)
    directions = [
        ((here, every), (there, every)),
        ((there, every), (here, every)),
        ((every, here), (every, there)),
        ((every, there), (every, here)),
    ]
    thresholds = np.linspace(1.05, 1.25, 10)
    precision, recall = np.zeros(10), np.zeros(10)
    for i, j in directions:
        both = mask[i] & mask[j]
        ratio_pred, ratio_true = v_pred[j][both] / v_pred[i][both], v_true[j][both] / v_true[i][both]
        steep = (ratio_pred > thresholds[0]) | (ratio_true > thresholds[0])
        ratio_pred, ratio_true = ratio_pred[steep], ratio_true[steep]
        for k, threshold in enumerate(thresholds):
            pred, true = ratio_pred > threshold, ratio_true > threshold
            hits = np.sum(pred & true)
            precision[k] += hits / max(pred.sum(), 1) / 4
            recall[k] += hits / max(true.sum(), 1) / 4
    both_zero = precision + recall == 0
    f1 = 2 * precision * recall / np.where(both_zero, 1, precision + recall)
    return float((thresholds * f1).sum() / thresholds.sum())


def all_metrics(p: np.ndarray, g: np.ndarray) -> Scores:
    """Return every per-pixel metric of section 7."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "abs_rel": abs_rel(p, g),
            "sq_rel": sq_rel(p, g),
            "rmse": rmse(p, g),
            "rmse_log": rmse_log(p, g),
            "log10": log10(p, g),
            "silog": silog(p, g),
            "silog_half": silog(p, g, 0.5, 1.0),
            "i_rmse": irmse(p, g),
            "delta1": delta(p, g, 1),
            "delta2": delta(p, g, 2),
            "delta3": delta(p, g, 3),
            "bad_pixels": 100 * float(np.mean(np.maximum(p / g, g / p) > 1.25)),
            "rel_moge": abs_rel(p, g, 1e-6),
        }


# --- protocols: (h, w) prediction with its meaning and (H, W) truth in metres, NaN unknown, inf sky ------------------


def lsq_disparity(
    pred: np.ndarray, quantity: str, ambiguity: str, truth: np.ndarray, low: float = 1e-3, high: float = 80.0
) -> Scores:
    """Fit disparity by least squares on low < truth < high, floor it at 1 / max(truth), invert."""
    truth, p = _truth(truth), _disparity(pred, quantity, ambiguity, truth.shape, False)
    mask = np.isfinite(truth) & (truth > low) & (truth < high)
    s, t = least_squares(*_fit_pair(p, 1 / truth, mask))
    return _score_disparity(s * p + t, truth, mask, 1 / truth[mask].max())


def midas(pred: np.ndarray, quantity: str, ambiguity: str, truth: np.ndarray, cap: float) -> Scores:
    """Follow section 6.1: closed form in disparity on 0 < truth < cap, floor 1 / cap."""
    return _midas(pred, quantity, ambiguity, truth, 0.0, cap, "none")


def da_v2_reconstructed(
    pred: np.ndarray, quantity: str, ambiguity: str, truth: np.ndarray, low: float, high: float, crop: str
) -> Scores:
    """Follow section 6.1 with the bounds and crops that come nearest to the V2 paper."""
    return _midas(pred, quantity, ambiguity, truth, low, high, crop)


def _midas(
    pred: np.ndarray, quantity: str, ambiguity: str, truth: np.ndarray, low: float, cap: float, crop: str
) -> Scores:
    truth, p = _truth(truth), _disparity(pred, quantity, ambiguity, truth.shape, False)
    mask = np.isfinite(truth) & (truth > low) & (truth < cap) & crop_mask(crop, *truth.shape)
    s, t = midas_closed_form(*_fit_pair(p, 1 / truth, mask))
    return _score_disparity(s * p + t, truth, mask, 1 / cap)


def marigold(
    pred: np.ndarray,
    quantity: str,
    ambiguity: str,
    truth: np.ndarray,
    low: float,
    high: float,
    crop: str = "none",
    alignment_max_res: int | None = None,
) -> Scores:
    """Fit depth in depth and disparity in disparity (p > 0, floor 1e-3), clip to [low, high], then >= 1e-6."""
    truth = _truth(truth)
    p = bilinear(pred, truth.shape, False)
    mask = np.isfinite(truth) & (truth > low) & (truth < high) & crop_mask(crop, *truth.shape)
    if crop.startswith("benchmark"):
        box = benchmark_box(*truth.shape)
        p, truth, mask = p[box], truth[box], mask[box]
    rows, columns = (_subsample(side, max(truth.shape), alignment_max_res) for side in truth.shape)
    some = np.ix_(rows, columns)
    if quantity == "depth":
        s, t = least_squares(*_fit_pair(p[some], truth[some], mask[some]))
        aligned = s * p + t
        depth = aligned
        v = 1 / np.maximum(aligned, 1e-6)
    else:
        s, t = least_squares(*_fit_pair(p[some], 1 / truth[some], mask[some] & (p[some] > 0)))
        aligned = s * p + t
        depth = 1 / np.maximum(aligned, 1e-3)
        v = np.maximum(aligned, 1e-6)
    depth = np.maximum(np.clip(depth, low, high), 1e-6)
    return {**all_metrics(depth[mask], truth[mask]), "boundary_f1": boundary_f1(v, 1 / truth, mask)}


def _subsample(side: int, longer: int, most: int | None) -> np.ndarray:
    if most is None or longer <= most:
        return np.arange(side)
    factor = most / longer
    return np.minimum((np.arange(int(side * factor)) / factor).astype(int), side - 1)


def moge_disparity(pred: np.ndarray, quantity: str, ambiguity: str, truth: np.ndarray) -> Scores:
    """Fit disparity by least squares on finite truth up to 1000 times its 1 % quantile, floor 1 / max(truth)."""
    truth, p = _truth(truth), _disparity(pred, quantity, ambiguity, truth.shape, False)
    mask = _without_outliers(truth)
    s, t = least_squares(*_fit_pair(p, 1 / truth, mask))
    return _score_disparity(s * p + t, truth, mask, 1 / truth[mask].max())


def moge_depth(pred: np.ndarray, quantity: str, ambiguity: str, truth: np.ndarray, shift: bool) -> Scores:
    """Fit depth by least relative error on 64 x 64 pixels, scale and ``shift`` or scale alone; metrics may be NaN."""
    truth = _truth(truth)
    if ambiguity == "scale-and-shift" and (quantity == "disparity" or not shift):
        raise ValueError("an unknown shift remains")
    p = bilinear(pred, truth.shape, False)
    if quantity == "disparity":
        with np.errstate(divide="ignore"):
            p = 1 / p
    mask = _without_outliers(truth)
    _fit_pair(p, truth, mask)
    x, y = _fit_pair(p, truth, _one_a_field(mask, 64))
    s, t = affine_weighted_l1(x, y, 1 / y) if shift else (scale_weighted_l1(x, y, 1 / y), 0.0)
    depth = s * p + t
    return _score_metric(depth, 1 / np.maximum(depth, 1e-6), truth, mask)


def _without_outliers(truth: np.ndarray) -> np.ndarray:
    mask = np.isfinite(truth)
    return mask & (truth <= 1000 * np.quantile(truth[mask], 0.01)) if mask.any() else mask


def _one_a_field(mask: np.ndarray, fields: int) -> np.ndarray:
    chosen = np.zeros_like(mask)
    sides = [(np.arange(side) + 0.5) / (side / fields) for side in mask.shape]  # a field is 1 long
    rows, columns = ([np.flatnonzero(at.astype(int) == field) for field in range(fields)] for at in sides)
    down, right = ((at - at.astype(int) - 0.5) * side / fields for at, side in zip(sides, mask.shape, strict=True))
    for row in filter(len, rows):
        for column in filter(len, columns):
            inside = mask[row[0] : row[-1] + 1, column[0] : column[-1] + 1]
            if inside.any():
                away = down[row][:, None] ** 2 + right[column] ** 2
                place = np.argmin(np.where(inside, np.round(away, 9), np.inf))
                chosen[row[place // column.size], column[place % column.size]] = True
    return chosen


def zoe_metric(
    pred: np.ndarray, quantity: str, ambiguity: str, truth: np.ndarray, low: float, high: float, crop: str = "none"
) -> Scores:
    """Score metric depth as it is: align_corners = True, clipped to [low, high], on low < truth < high in the crop."""
    truth = _truth(truth)
    depth = _metric(pred, quantity, ambiguity, truth.shape)
    v = 1 / np.maximum(depth, 1e-6)
    mask = np.isfinite(truth) & (truth > low) & (truth < high) & crop_mask(crop, *truth.shape)
    return _score_metric(np.clip(depth, low, high), v, truth, mask)


def v2_metric(pred: np.ndarray, quantity: str, ambiguity: str, truth: np.ndarray, high: float) -> Scores:
    """Score metric depth as it is on 0.001 <= truth <= high."""
    truth = _truth(truth)
    depth = _metric(pred, quantity, ambiguity, truth.shape)
    mask = np.isfinite(truth) & (truth >= 1e-3) & (truth <= high)
    return _score_metric(depth, 1 / np.maximum(depth, 1e-6), truth, mask)


def _truth(truth: np.ndarray) -> np.ndarray:
    truth = np.asarray(truth, dtype=np.float64).copy()
    with np.errstate(invalid="ignore"):
        truth[~(truth > 0)] = np.nan
    return truth


def _disparity(
    pred: np.ndarray, quantity: str, ambiguity: str, shape: tuple[int, ...], align_corners: bool
) -> np.ndarray:
    p = bilinear(pred, shape, align_corners)
    if quantity == "disparity":
        return p
    if ambiguity == "scale-and-shift":
        raise ValueError("a depth with an unknown shift has no disparity")
    with np.errstate(divide="ignore"):
        return 1 / p


def _metric(pred: np.ndarray, quantity: str, ambiguity: str, shape: tuple[int, ...]) -> np.ndarray:
    if ambiguity != "none":
        raise ValueError("a metric protocol needs metric predictions")
    p = bilinear(pred, shape, True)
    with np.errstate(divide="ignore"):
        return p if quantity == "depth" else 1 / p


def _fit_pair(p: np.ndarray, y: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if mask.sum() < 10:
        raise ValueError("fewer than 10 valid pixels")
    if not np.isfinite(p[mask]).all():
        raise ValueError("the prediction is not finite at a valid pixel")
    return p[mask], y[mask]


def _score_disparity(aligned: np.ndarray, truth: np.ndarray, mask: np.ndarray, floor: float) -> Scores:
    depth = 1 / np.maximum(aligned, floor)
    f1 = boundary_f1(np.maximum(aligned, 1e-6), 1 / truth, mask)
    return {**all_metrics(depth[mask], truth[mask]), "boundary_f1": f1}


def _score_metric(depth: np.ndarray, v: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> Scores:
    if mask.sum() < 10:
        raise ValueError("fewer than 10 valid pixels")
    if not np.isfinite(depth[mask]).all():
        raise ValueError("the prediction is not finite at a valid pixel")
    return {**all_metrics(depth[mask], truth[mask]), "boundary_f1": boundary_f1(v, 1 / truth, mask)}


# --- averages -------------------------------------------------------------------------------------------------------


def image_mean(scores: Sequence[Scores]) -> Scores:
    """Return the mean over images of each metric, an image counting once."""
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def pixel_mean(scores: Sequence[Scores], valid_pixels: Sequence[int]) -> Scores:
    """Return the mean weighted by each image's number of evaluated pixels."""
    return {name: float(np.average([one[name] for one in scores], weights=valid_pixels)) for name in scores[0]}


# --- DA-2K ----------------------------------------------------------------------------------------------------------


def da2k_pair(
    pred: np.ndarray, quantity: str, image_hw: tuple[int, int], closer: tuple[int, int], farther: tuple[int, int]
) -> bool:
    """Tell whether the point [row, column] said to be closer is strictly closer; a tie is wrong."""
    near, far = (_sample(pred, image_hw, point) for point in (closer, farther))
    return bool(near > far if quantity == "disparity" else near < far)


def da2k(
    annotations: dict[str, list[dict[str, Any]]],
    predictions: dict[str, tuple[np.ndarray, str, tuple[int, int]]],
) -> dict[str, Any]:
    """Return pooled accuracy, accuracy per scene (the folder's name) and the images without prediction, in [0, 1]."""
    verdicts: dict[str, list[bool]] = {}
    missing = [path for path in annotations if path not in predictions]
    for path, pairs in annotations.items():
        if path in predictions:
            pred, quantity, image_hw = predictions[path]
            for pair in pairs:
                closer = pair["closer_point"]
                farther = "point2" if closer == "point1" else "point1"
                right = da2k_pair(pred, quantity, image_hw, pair[closer], pair[farther])
                verdicts.setdefault(path.split("/")[-2], []).append(right)
    pooled = [one for scene in verdicts.values() for one in scene]
    return {
        "pooled": float(np.mean(pooled)),
        "scenes": {scene: float(np.mean(ones)) for scene, ones in verdicts.items()},
        "missing": missing,
    }


def _sample(pred: np.ndarray, image_hw: tuple[int, int], point: Sequence[int]) -> float:
    """Read one pixel of the map as it would be after resizing to the image's size."""
    spans = []
    for at, old, new in zip(point, pred.shape, image_hw, strict=True):
        if not 0 <= at < new:
            raise ValueError(f"point {at} outside of {new} pixels")
        source = min(max((at + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        low = int(source)
        spans.append([(low, 1 - (source - low)), (min(low + 1, old - 1), source - low)])
    corners = [(r, c, a * b) for r, a in spans[0] for c, b in spans[1] if a * b > 0]
    return float(sum(weight * np.float64(pred[r, c]) for r, c, weight in corners))
