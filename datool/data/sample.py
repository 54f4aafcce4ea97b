"""What training sees."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Tensors of one training step, on the training device.

    Args:
        image: (B, 3, H, W) float32 RGB in [0, 1], not yet normalised.
        target: (B, H, W) float32 in the model's quantity: disparity in [0, 1] for relative models.
        valid: (B, H, W) bool, where the target is known.
    """

    image: Tensor
    target: Tensor
    valid: Tensor
