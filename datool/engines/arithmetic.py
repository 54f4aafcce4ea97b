"""What more than one engine computes."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor, nn

# Of the cubic kernel, as in OpenCV and PyTorch.
SHARPNESS = -0.75

Numbers = TypeVar("Numbers", Tensor, np.ndarray)


def cubic(rest: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Return what a place takes of the two values before it and the two after it, in their order.

    Args:
        rest: how far the place is beyond the value before it, from 0 to 1.

    Source: Keys 1981, "Cubic convolution interpolation for digital image processing".
    """
    a = SHARPNESS

    def near(t: Numbers) -> Numbers:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Numbers) -> Numbers:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return far(rest + 1), near(rest), near(1 - rest), far(2 - rest)


def scaled(layer: nn.Linear, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a layer whose result is multiplied by ``scale``, such as LayerScale's gamma.

    Args:
        layer: stays as it was.
        scale: (out,), or None.
    """
    weight, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    if scale is None:
        return weight, bias
    return weight * scale.detach()[:, None], None if bias is None else bias * scale.detach()
