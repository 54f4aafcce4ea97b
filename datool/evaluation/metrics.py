"""Align a prediction to truth, and score it. NumPy, float64."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from datool.depth import DepthMap, Quantity
from datool.errors import DatoolError

MIN_PIXELS = 10


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


def fit_scale_and_shift(pred: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the least-squares scale and shift that bring ``pred`` to ``truth``.

    Computed about the means in float64, so that nothing cancels. A constant prediction gets scale 0.

    Args:
        pred, truth: (N,) values at the pixels that count.
    Returns:
        scale: units of truth per unit of pred; shift: units of truth.
    Raises:
        DatoolError: fewer than 10 pixels.

    Source: Ranftl et al. 2020 (MiDaS), arXiv:1907.01341, equation 4.
    """
    if len(pred) < MIN_PIXELS:
        raise DatoolError(f"cannot fit scale and shift to {len(pred)} pixels, at least {MIN_PIXELS} are needed.")
    pred, truth = pred.astype(np.float64), truth.astype(np.float64)
    centred = pred - pred.mean()
    variance = (centred**2).mean()
    scale = float((centred * (truth - truth.mean())).mean() / variance) if variance > 0 else 0.0
    return scale, float(truth.mean() - scale * pred.mean())


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
