"""Losses between maps that are known up to scale and shift. Pure, masked, one value an image.

Every function takes float maps (B, H, W) with a bool mask of the same shape and returns (B,): the mean over the global
batch is the caller's, so that splitting a batch over ranks changes nothing. All arithmetic is float32. An image without
valid pixels costs 0 and carries no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below this spread a map counts as constant: it is centred but not blown up.
_MIN_SPREAD = 1e-6


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over valid pixels of each image, 0 where there are none.

    Args:
        values: (B, H, W), anything at invalid pixels.
        valid: (B, H, W) bool.
    Returns:
        (B,).
    """
    total = torch.where(valid, values, 0).flatten(1).sum(1)
    return total / valid.flatten(1).sum(1).clamp(min=1)


def normalise_median(values: Tensor, valid: Tensor) -> Tensor:
    """Return (values - median) / mean absolute deviation, both over valid pixels of each image.

    Args:
        values: (B, H, W).
        valid: (B, H, W) bool.
    Returns:
        (B, H, W), 0 at invalid pixels.

    Source: Yang et al. 2024 (Depth Anything V1), arXiv:2401.10891, section 3.1.
    """
    values = torch.where(valid, values.float(), 0)
    known = torch.where(valid, values, torch.nan).flatten(1)
    median = known.nanmedian(1).values.nan_to_num(0)[:, None, None]
    centred = torch.where(valid, values - median, 0)
    spread = masked_mean(centred.abs(), valid).clamp(min=_MIN_SPREAD)[:, None, None]
    return centred / spread


def align_least_squares(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return scale * pred + shift, the least-squares fit to the target over valid pixels of each image.

    A prediction that is constant over the valid pixels gets scale 0: there is nothing to scale.

    Args:
        pred, target: (B, H, W).
        valid: (B, H, W) bool.
    Returns:
        (B, H, W); gradients flow through scale and shift.

    Source: Ranftl et al. 2020 (MiDaS), arXiv:1907.01341, equation 4.
    """
    pred, target = pred.float(), target.float()
    pred_mean = masked_mean(pred, valid)[:, None, None]
    target_mean = masked_mean(target, valid)[:, None, None]
    centred = torch.where(valid, pred - pred_mean, 0)
    variance = masked_mean(centred.square(), valid)
    covariance = masked_mean(centred * (target - target_mean), valid)
    scale = (covariance / variance.clamp(min=_MIN_SPREAD**2))[:, None, None]
    return scale * (pred - pred_mean) + target_mean


def ssi_mae(pred: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Scale-and-shift-invariant mean absolute error: both maps through `normalise_median`.

    Args:
        pred, target: (B, H, W) disparity, any scale and shift.
        valid: (B, H, W) bool.
    Returns:
        loss (B,), and the residual (B, H, W) that `gradient_matching` takes.

    Source: Yang et al. 2024 (Depth Anything V1), arXiv:2401.10891, equations 1-3.
    """
    residual = normalise_median(pred, valid) - normalise_median(target, valid)
    return masked_mean(residual.abs(), valid), residual


def ssi_mse(pred: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Scale-and-shift-invariant squared error: half the mean square of what least squares leaves over.

    Args:
        pred, target: (B, H, W) disparity, any scale and shift.
        valid: (B, H, W) bool.
    Returns:
        loss (B,), and the residual (B, H, W) that `gradient_matching` takes.

    Source: Ranftl et al. 2020 (MiDaS), arXiv:1907.01341, equation 5; the loss that V2's author names
        (DepthAnything/Depth-Anything-V2 issue 137).
    """
    residual = align_least_squares(pred, target, valid) - target.float()
    return masked_mean(residual.square(), valid) / 2, residual


def gradient_matching(residual: Tensor, valid: Tensor, scales: int = 4) -> Tensor:
    """Mean absolute gradient of the residual over ``scales`` levels, each twice as coarse as the one before.

    Args:
        residual: (B, H, W) aligned prediction minus target.
        valid: (B, H, W) bool; a gradient counts where both its pixels are valid.
    Returns:
        (B,), summed over levels and both directions.

    Source: Ranftl et al. 2020 (MiDaS), arXiv:1907.01341, equation 11.
    """
    residual = torch.where(valid, residual.float(), 0)
    total = torch.zeros(len(residual), device=residual.device)
    for level in range(scales):
        step = 2**level
        part, known = residual[:, ::step, ::step], valid[:, ::step, ::step]
        pixels = known.flatten(1).sum(1).clamp(min=1)
        for axis in (1, 2):
            pair = known.narrow(axis, 1, known.shape[axis] - 1) & known.narrow(axis, 0, known.shape[axis] - 1)
            total = total + torch.where(pair, part.diff(dim=axis).abs(), 0).flatten(1).sum(1) / pixels
    return total
