"""A second, plain implementation of each protocol, from the published descriptions, sharing no code with datool.

Every function takes (prediction (H, W), truth depth (H, W) with 0 or NaN unknown) of one size, and gives the errors of
one image: normal equations and determinants as the papers write them, whole maps and masks, sums divided at the end.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
EIGEN_KITTI = (0.3324324, 0.91351351, 0.0359477, 0.96405229)


def shares_mask(height, width, shares):
    mask = np.zeros((height, width))
    mask[int(shares[0] * height) : int(shares[1] * height), int(shares[2] * width) : int(shares[3] * width)] = 1
    return mask == 1


def nyu_mask(height, width):
    rows, columns = np.mgrid[:height, :width]
    return (rows >= 45) & (rows < 471) & (columns >= 41) & (columns < 601)


def benchmark_crop(array):
    height, width = array.shape
    left = int((width - 1216) / 2)
    return array[height - 352 : height, left : left + 1216]


def solve(p, q, m):
    """MiDaS's closed form: (scale, shift), or zeros where the determinant is not above 0."""
    p, q, m = (np.asarray(a, np.float64) for a in (p, q, m))
    p, q = np.where(m > 0, p, 0.0), np.where(m > 0, q, 0.0)
    a00, a01, a11 = np.sum(m * p * p), np.sum(m * p), np.sum(m)
    b0, b1 = np.sum(m * p * q), np.sum(m * q)
    det = a00 * a11 - a01 * a01
    if det <= 0:
        return 0.0, 0.0
    return (a11 * b0 - a01 * b1) / det, (-a01 * b0 + a00 * b1) / det


def errors(p, g, m):
    n = float(m.sum())
    p, g = p[m], g[m]
    d = np.log(p) - np.log(g)
    ratio = np.where(p > g, p / g, g / p)
    return {
        "abs_rel": np.sum(np.abs(p - g) / g) / n,
        "sq_rel": np.sum((p - g) ** 2 / g) / n,
        "rmse": math.sqrt(np.sum((p - g) ** 2) / n),
        "rmse_log": math.sqrt(np.sum(d * d) / n),
        "log10": np.sum(np.abs(np.log10(p) - np.log10(g))) / n,
        "silog": 100 * math.sqrt(max(np.sum(d * d) / n - (np.sum(d) / n) ** 2, 0)),
        "silog_half": math.sqrt(np.sum(d * d) / n - 0.5 * (np.sum(d) / n) ** 2),
        "i_rmse": math.sqrt(np.sum((1 / p - 1 / g) ** 2) / n),
        "delta1": np.sum(ratio < 1.25) / n,
        "delta2": np.sum(ratio < 1.25**2) / n,
        "delta3": np.sum(ratio < 1.25**3) / n,
        "bad_pixels": 100 * np.sum(ratio > 1.25) / n,
        "rel_moge": np.sum(np.abs(p - g) / (g + 1e-6)) / n,
    }


def unknown_as_zero(g):
    return np.where(np.isfinite(g), g, 0).astype(np.float64)


def inverse(g):
    return np.divide(1.0, g, out=np.zeros(g.shape), where=g > 0)


def lsq_disparity(p, g):
    g = unknown_as_zero(g)
    m = (g > 0.001) & (g < 80)
    s, t = solve(p, inverse(g), m)
    return errors(1 / np.maximum(s * p + t, 1 / g[m].max()), g, m)


def da_v2(p, g, near, far, crop):
    g = unknown_as_zero(g)
    m = (g > near) & (g < far) & crop
    s, t = solve(p, inverse(g), m)
    return errors(np.clip(1 / np.maximum(s * p + t, 1 / far), near, far), g, m)


def midas(p, g, cap):
    g = unknown_as_zero(g)
    m = (g > 0) & (g < cap)
    s, t = solve(p, inverse(g), m)
    return errors(1 / np.maximum(s * p + t, 1 / cap), g, m)


def marigold(p, g, near, far, crop, disparity):
    g = unknown_as_zero(g)
    m = (g > near) & (g < far) & crop
    fitted = m & (p > 0)
    if disparity:
        s, t = solve(p, inverse(g), fitted)
        depth = 1 / np.maximum(s * p + t, 1e-3)
    else:
        s, t = solve(p, g, fitted)
        depth = s * p + t
    return errors(np.maximum(np.clip(depth, near, far), 1e-6), g, m)


def moge_disparity(p, g):
    finite = g[np.isfinite(g)]
    g = unknown_as_zero(g)
    m = (g > 0) & (g <= 1000 * np.quantile(finite, 0.01))
    s, t = solve(p, inverse(g), m)
    return errors(1 / np.maximum(s * p + t, 1 / g[m].max()), g, m)


def zoe_metric(p, g, near, far, crop):
    g = unknown_as_zero(g)
    p = np.where(np.isposinf(p), far, p)
    p = np.minimum(np.maximum(p, near), far)
    return errors(p, g, (g > near) & (g < far) & crop)


def v2_metric(p, g, far):
    g = unknown_as_zero(g)
    return errors(p, g, (g >= 0.001) & (g <= far))


def da2k(p, pairs):
    """Share of pairs ((row, column) nearer, (row, column) farther) with strictly larger disparity at the nearer."""
    right = 0
    for (row, column), (other_row, other_column) in pairs:
        right += 1 if float(p[row, column]) > float(p[other_row, other_column]) else 0
    return right / len(pairs)


def l1_affine(x, y):
    """Least of sum |a x + b - y| / y over the lines through every two samples: brute force."""
    lowest, best = np.inf, (0.0, 0.0)
    for i, j in itertools.combinations(range(len(x)), 2):
        a = (y[j] - y[i]) / (x[j] - x[i]) if x[i] != x[j] else 0.0
        b = y[i] - a * x[i]
        cost = float(np.sum(np.abs(a * x + b - y) / y))
        if cost < lowest:
            lowest, best = cost, (a, b)
    return lowest, best


def resize(values, height, width, corners):
    """Bilinear, pixel by pixel."""
    h, w = values.shape
    out = np.zeros((height, width))
    for row, column in itertools.product(range(height), range(width)):
        if corners:
            y, x = row * (h - 1) / max(height - 1, 1), column * (w - 1) / max(width - 1, 1)
        else:
            y = min(max((row + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((column + 0.5) * w / width - 0.5, 0), w - 1)
        y0, x0 = min(int(y), h - 1), min(int(x), w - 1)
        y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
        fy, fx = y - y0, x - x0
        out[row, column] = (1 - fy) * ((1 - fx) * values[y0, x0] + fx * values[y0, x1]) + fy * (
            (1 - fx) * values[y1, x0] + fx * values[y1, x1]
        )
    return out


def boundary_f1(p, g, m):
    """Depth Pro's, pixel loops over the four directions, with a mask."""
    v, w = 1 / np.maximum(p, 1e-6), 1 / np.maximum(g, 1e-6)
    height, width = p.shape
    total = weights = 0.0
    for t in [1.05 + 0.2 * k / 9 for k in range(10)]:
        precisions, recalls = [], []
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            both = pred = true = 0
            for i, j in itertools.product(range(height), range(width)):
                k, n = i + dy, j + dx
                if not (0 <= k < height and 0 <= n < width) or not (m[i, j] and m[k, n]):
                    continue
                a, b = v[k, n] / v[i, j] > t, w[k, n] / w[i, j] > t
                both, pred, true = both + (a and b), pred + a, true + b
            precisions.append(both / max(pred, 1))
            recalls.append(both / max(true, 1))
        precision, recall = sum(precisions) / 4, sum(recalls) / 4
        total += t * (2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        weights += t
    return total / weights
