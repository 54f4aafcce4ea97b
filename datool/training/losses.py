"""Losses between maps, and between tokens. Pure, masked, one value an image.

Every function takes float maps (B, H, W) with a bool mask of the same shape and returns (B,): the mean over the global
batch is the caller's, so that splitting a batch over ranks changes nothing. All arithmetic is float32, inside autocast
too (float64 where maps are). An image without valid pixels costs 0 here, and the caller leaves it out of the mean.
Invalid pixels carry no gradient, whatever they hold.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below this spread, as a share of its largest magnitude, a map counts as constant: it is centred but not blown up.
_MIN_SPREAD = 1e-6


def _full(values: Tensor) -> Tensor:
    """Return the values in float32, or in float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _unit(values: Tensor, valid: Tensor) -> Tensor:
    """Return each image's values over the largest magnitude among them, 0 at invalid pixels; all 0 stays so.

    What is done to maps here does not depend on their scale, so this changes nothing but what rounding does, and it
    makes a spread one that is relative to the map. The divisor is no part of the graph.
    """
    values = torch.where(valid, _full(values), 0)
    size = values.detach().abs().amax((1, 2), keepdim=True)
    return values / torch.where(size > 0, size, 1)


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
    values = _unit(values, valid)
    known = torch.where(valid, values, torch.nan).flatten(1)
    median = known.nanmedian(1).values.nan_to_num(0)[:, None, None]
    centred = torch.where(valid, values - median, 0)
    spread = masked_mean(centred.abs(), valid).clamp(min=_MIN_SPREAD)[:, None, None]
    return centred / spread


def align_least_squares(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return scale * pred + shift, the least-squares fit to the target over valid pixels of each image, scale >= 0.

    The least-squares scale is covariance / variance; here it is |covariance| / variance. Where near is near, that is
    the same. A prediction that has near and far exchanged would be turned over by a negative scale, and so cost as
    little as the right one. With the absolute value it costs 1 + 3 r^2 times what a constant costs, r < 0 being its
    correlation with the target, instead of 1 - r^2 times; and a scale that is merely cut off at 0 would leave it the
    cost of a constant and no gradient. A prediction that is constant over the valid pixels gets scale 0: there is
    nothing to scale.

    Args:
        pred, target: (B, H, W).
        valid: (B, H, W) bool.
    Returns:
        (B, H, W), of no meaning at invalid pixels; gradients flow through scale and shift.

    Source: Ranftl et al. 2020 (MiDaS), arXiv:1907.01341, equation 4; the absolute value is ours.
    """
    pred, target = _unit(pred, valid), torch.where(valid, _full(target), 0)
    pred_mean = masked_mean(pred, valid)[:, None, None]
    target_mean = masked_mean(target, valid)[:, None, None]
    centred = torch.where(valid, pred - pred_mean, 0)
    variance = masked_mean(centred.square(), valid)
    covariance = masked_mean(centred * (target - target_mean), valid)
    scale = (covariance.abs() / variance.clamp(min=_MIN_SPREAD**2))[:, None, None]
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
    residual = torch.where(valid, align_least_squares(pred, target, valid) - _full(target), 0)
    return masked_mean(residual.square(), valid) / 2, residual


def gradient_matching(residual: Tensor, valid: Tensor, scales: int = 4) -> Tensor:
    """Mean absolute gradient of the residual over ``scales`` levels, each twice as coarse as the one before.

    Args:
        residual: (B, H, W) aligned prediction minus target.
        valid: (B, H, W) bool; a gradient counts where both its pixels are valid.
    Returns:
        (B,), summed over levels and both directions.

    Source: Ranftl et al. 2020 (MiDaS), arXiv:1907.01341, equation 11; as in its author's published snippet, each level
    is divided by its own valid pixels, where the equation has those of the image for all.
    """
    residual = torch.where(valid, _full(residual), 0)
    total = residual.new_zeros(len(residual))
    for level in range(scales):
        step = 2**level
        part, known = residual[:, ::step, ::step], valid[:, ::step, ::step]
        pixels = known.flatten(1).sum(1).clamp(min=1)
        for axis in (1, 2):
            pair = known.narrow(axis, 1, known.shape[axis] - 1) & known.narrow(axis, 0, known.shape[axis] - 1)
            total = total + torch.where(pair, part.diff(dim=axis).abs(), 0).flatten(1).sum(1) / pixels
    return total


def ssi_trimmed(pred: Tensor, target: Tensor, valid: Tensor, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """As `ssi_mae`, but the largest residuals of each image are left out, and the sum is halved.

    Args:
        pred, target: (B, H, W) disparity, any scale and shift.
        valid: (B, H, W) bool.
        share: of the valid pixels that is left out.
    Returns:
        loss (B,), and the residual (B, H, W) that `gradient_matching` takes, of all pixels.

    Source: Ranftl et al. 2020 (MiDaS), arXiv:1907.01341, equation 7: a sum over 80 % of the pixels, over twice their
        whole number.
    """
    _, residual = ssi_mae(pred, target, valid)
    kept = drop_largest(residual.abs(), valid, share)
    return masked_mean(torch.where(kept, residual.abs(), 0), valid) / 2, residual


def drop_largest(values: Tensor, valid: Tensor, share: float) -> Tensor:
    """Return ``valid`` without the largest values of each image: floor(share x valid pixels) of them.

    Args:
        values: (B, H, W).
        valid: (B, H, W) bool.
        share: 0 to 1.
    Returns:
        (B, H, W) bool. Of equal values, which ones go is not said.

    Source: Yang et al. 2024 (Depth Anything V2), arXiv:2406.09414, section 5; its author: a threshold by percentile in
        each sample, then the mean of the rest (DepthAnything/Depth-Anything-V2 issue 108).
    """
    if not share:
        return valid
    ranked = torch.where(valid, values.detach(), -torch.inf).flatten(1).argsort(1, descending=True)
    dropped = (valid.flatten(1).sum(1, keepdim=True) * share).floor()
    keep = torch.arange(ranked.shape[1], device=ranked.device) >= dropped
    return valid & torch.empty_like(keep).scatter_(1, ranked, keep).view_as(valid)


def silog(pred: Tensor, target: Tensor, valid: Tensor, variance: float = 0.5, root: bool = True) -> Tensor:
    """Scale-invariant logarithmic error: of d = log target - log pred, mean(d^2) - variance x mean(d)^2, or its root.

    Args:
        pred, target: (B, H, W) metres; a prediction below a tenth of a millimetre counts as that.
        valid: (B, H, W) bool; false where the target is not above 0.
        variance: 1 forgives a wrong scale wholly, 0 not at all.
        root: take the square root, as V2's script and BTS do; Eigen's own form has none.
    Returns:
        (B,). Each image by itself, where V2's script takes all pixels of a GPU's batch at once: so ranks do not matter.

    Source: DepthAnything/Depth-Anything-V2 ``metric_depth/util/loss.py`` (root, 0.5); Eigen et al. 2014,
        arXiv:1406.2283, equation 4 (no root, 0.5).
    """
    logs = torch.where(valid, _full(target), 1).log() - torch.where(valid, _full(pred), 1).clamp(min=1e-4).log()
    inner = masked_mean(logs.square(), valid) - variance * masked_mean(logs, valid).square()
    # At a perfect prediction the root has no slope, and rounding may leave less than nothing.
    return inner.clamp(min=1e-12).sqrt() if root else inner


def feature_alignment(tokens: Tensor, frozen: Tensor, margin: float = 0.85) -> Tensor:
    """1 - cosine between the tokens of two encoders, mean over the tokens of each image that are not alike already.

    Args:
        tokens, frozen: (B, C, h, w); no gradient goes to ``frozen``.
        margin: tokens whose cosine is above it are left out: "a tolerance of 0.15" is 0.85.
    Returns:
        (B,); 0 where all are alike.

    Source: Yang et al. 2024 (Depth Anything V1), arXiv:2401.10891, section 3.3 and equation 9.
    """
    cosine = torch.nn.functional.cosine_similarity(_full(tokens), _full(frozen.detach()), dim=1)
    return masked_mean(1 - cosine, cosine.detach() <= margin)


def scale_anchor(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Squared logarithm of how much wider the prediction spreads than the target, both as standard deviations.

    The scale-and-shift-invariant losses do not see the prediction's scale s. So their gradient has no part along it,
    each step is at a right angle to it, and each step makes it longer: the output grows without bound where nothing
    else pulls (people who rebuilt V2's student saw that). This pulls.

    Args:
        pred, target: (B, H, W).
        valid: (B, H, W) bool.
    Returns:
        (B,); 0 where either is constant.

    Source: ours; the observation is Distill-Any-Depth issue 36.
    """

    ours, theirs = _deviation(pred, valid), _deviation(target, valid)
    known = (ours > 0) & (theirs > 0)
    return (torch.where(known, ours, 1).log() - torch.where(known, theirs, 1).log()).square()


def correlation(pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return Pearson's correlation of prediction and target over valid pixels of each image.

    Args:
        pred, target: (B, H, W).
        valid: (B, H, W) bool.
    Returns:
        (B,) from -1 to 1; 0 where the prediction is constant, NaN where the target is or where nothing is valid.
    """
    pred, target = _standardised(pred, valid), _standardised(target, valid)
    found = masked_mean(pred * target, valid).clamp(-1, 1)
    return torch.where((target != 0).flatten(1).any(1), found, torch.nan)


def _standardised(values: Tensor, valid: Tensor) -> Tensor:
    """Return the values with mean 0 and standard deviation 1 over valid pixels of each image; all 0 if constant."""
    values = _unit(values, valid)
    centred = torch.where(valid, values - masked_mean(values, valid)[:, None, None], 0)
    deviation = masked_mean(centred.square(), valid).sqrt()[:, None, None]
    return torch.where(deviation > _MIN_SPREAD, centred / torch.where(deviation > 0, deviation, 1), 0)


def _deviation(values: Tensor, valid: Tensor) -> Tensor:
    """Return the standard deviation over valid pixels of each image, (B,); 0 where it is rounding."""
    values = torch.where(valid, _full(values), 0)
    size = values.detach().abs().amax((1, 2))
    unit = _unit(values, valid)
    variance = masked_mean((unit - masked_mean(unit, valid)[:, None, None]).square(), valid)
    varies = variance > _MIN_SPREAD**2
    return torch.where(varies, torch.where(varies, variance, 1).sqrt() * size, 0)
