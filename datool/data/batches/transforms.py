"""Training targets; and windows and colour for rendered scenes, batched, on whatever device the tensors are.

Nothing here draws random numbers: every function takes its draws, uniform in [0, 1), one row a sample, so that a sample
is a function of the numbers that it was given. Photos are cut in `datool.data.batches.crops`, and coloured in
`datool.data.batches.augment`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError

NUM_WINDOW_DRAWS = 5
NUM_COLOUR_DRAWS = 9
_LUMA = (0.299, 0.587, 0.114)


def disparity_target(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Return training disparity: 1 / depth, sky 0, then min-max to [0, 1] over the valid pixels of each map.

    Args:
        depth: (B, H, W), NaN = unknown, +inf = sky.
    Returns:
        target (B, H, W) with 0 at unknown pixels, and valid (B, H, W) bool.

    Source: Yang et al. 2024 (Depth Anything V1), arXiv:2401.10891, section 3.1.
    """
    valid = ~depth.isnan()
    disparity = torch.where(valid, 1 / depth, 0)
    high = torch.where(valid, disparity, -torch.inf).flatten(1).amax(1)[:, None, None]
    low = torch.where(valid, disparity, torch.inf).flatten(1).amin(1)[:, None, None]
    scaled = (disparity - low) / (high - low).clamp(min=1e-12)
    return torch.where(valid, scaled, 0), valid


def minmax_target(depth: DepthMap, max_depth_m: float) -> np.ndarray:
    """Return `disparity_target` of one map: (H, W) float32 in [0, 1], NaN = unknown; a constant map is 0.

    Disparity known up to scale and shift, a model's label, is taken as it is: only its range changes.

    Raises:
        DatoolError: depth known up to scale and shift.
    """
    disparity = depth.to(Quantity.DISPARITY).values
    if not depth.valid.any():
        return disparity
    low, high = np.nanmin(disparity), np.nanmax(disparity)
    return (disparity - low) / np.maximum(high - low, np.float32(1e-12))


def plain_disparity_target(depth: DepthMap, max_depth_m: float) -> np.ndarray:
    """Return disparity as it is: (H, W) float32, NaN = unknown.

    Raises:
        DatoolError: depth known up to scale and shift.
    """
    return depth.to(Quantity.DISPARITY).values


def metric_target(depth: DepthMap, max_depth_m: float) -> np.ndarray:
    """Return metres: (H, W) float32, NaN = unknown, sky, or beyond ``max_depth_m``.

    Raises:
        DatoolError: the map's scale is unknown.

    Source: DepthAnything/Depth-Anything-V2 ``metric_depth/train.py`` (what lies beyond is out of the loss).
    """
    if depth.ambiguity is not Ambiguity.NONE:
        raise DatoolError(
            f"got {depth.quantity.value} known up to {depth.ambiguity.value.replace('-', ' ')}, expected metres.",
            "Train a relative model on it, or label with a metric one.",
        )
    metres = depth.to(Quantity.DEPTH).values
    return np.where((metres <= max_depth_m) & np.isfinite(metres), metres, np.float32(np.nan))


def window(image: Tensor, depth: Tensor, size: Sequence[int], zoom: float, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a random window out of each sample, mirror half of them, and resize it to ``size``.

    The image is sampled bilinearly, depth by the nearest pixel: a mix of two depths is on no surface.

    Args:
        image: (B, 3, H, W).
        depth: (B, H, W).
        size: (height, width) of the result in pixels.
        zoom: smallest window, as a share of the picture's sides; 1 keeps the whole picture.
        draws: (B, `NUM_WINDOW_DRAWS`).
    Returns:
        (B, 3, *size) and (B, *size).
    """
    flip, share, stretch, left, top = draws.unbind(1)
    share_x = zoom + (1 - zoom) * share
    share_y = (share_x * (1 + 0.3 * (1 - zoom) * (2 * stretch - 1))).clamp(max=1)
    theta = torch.zeros(len(image), 2, 3, device=image.device)
    theta[:, 0, 0] = torch.where(flip < 0.5, -share_x, share_x)
    theta[:, 1, 1] = share_y
    theta[:, 0, 2] = (2 * left - 1) * (1 - share_x)
    theta[:, 1, 2] = (2 * top - 1) * (1 - share_y)
    grid = F.affine_grid(theta, [len(image), 1, *size], align_corners=False)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    depth = F.grid_sample(depth[:, None], grid, mode="nearest", padding_mode="border", align_corners=False)
    return image, depth[:, 0]


def colour(image: Tensor, strength: float, draws: Tensor) -> Tensor:
    """Change exposure, gamma, white balance, contrast and saturation, and blur some, each by its own draw.

    Args:
        image: (B, 3, H, W) RGB in [0, 1].
        strength: 0 leaves the picture alone, 1 halves or doubles the exposure at most.
        draws: (B, `NUM_COLOUR_DRAWS`).
    Returns:
        (B, 3, H, W) in [0, 1].
    """
    signed = (2 * draws - 1)[:, :, None, None, None] * strength
    exposure, gamma, contrast, saturation = (signed[:, i] for i in range(4))
    balance = torch.cat([signed[:, 4], torch.zeros_like(signed[:, 4]), signed[:, 5]], dim=1)
    luma = torch.tensor(_LUMA, device=image.device)[:, None, None]

    image = image.clamp(min=1e-4) ** torch.exp2(gamma)
    image = image * torch.exp2(exposure + 0.5 * balance)
    grey = (image * luma).sum(1, keepdim=True)
    to_grey = (draws[:, 6] < 0.1 * strength)[:, None, None, None]
    image = torch.where(to_grey, grey, grey + (image - grey) * (1 + saturation))
    mean = grey.mean((2, 3), keepdim=True)
    image = mean + (image - mean) * (1 + 0.6 * contrast)
    soft = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.where(draws[:, 7] < 0.5 * strength, draws[:, 8], 0)[:, None, None, None]
    return (image + (soft - image) * share).clamp(0, 1)


# What a model learns to give -> (a map, the largest depth in metres) -> target.
TARGETS: dict[str, Callable[[DepthMap, float], np.ndarray]] = {
    "disparity-minmax": minmax_target,
    "disparity": plain_disparity_target,
    "depth": metric_target,
}
