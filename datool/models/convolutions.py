"""Convolutions of timm's networks as export and training on a CPU need them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn


def adapt_convolutions(net: nn.Module) -> None:
    """Put a `Convolution` in the place of each convolution of ``net`` that needs one; weights stay the same tensors."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is Conv2dSame or (type(child) is nn.Conv2d and _is_slow_backwards(child)):
                setattr(module, name, Convolution(child))


class Convolution(nn.Conv2d):
    """A convolution with the weights, shape and results of another.

    TensorFlow's "same" padding is fixed, as it is where a stride divides the map's sides: timm computes it anew from
    each input's size, which cannot be exported for sizes that are left open. And gradients of depthwise kernels are
    computed in float32 where autocast would have them in bfloat16 on a CPU.

    Args:
        conv: the other one.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        same = isinstance(conv, Conv2dSame)
        how: Any = conv  # whose sizes are tuples of any length to the type checker
        super().__init__(
            how.in_channels, how.out_channels, how.kernel_size, how.stride, 0 if same else how.padding,
            how.dilation, how.groups, how.bias is not None, how.padding_mode, device="meta",
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias
        self.pads: list[int] = []
        if same:
            for axis in (1, 0):
                both = max(0, conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1 - conv.stride[axis])
                self.pads += [both // 2, both - both // 2]

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out, h, w) for (B, in, H, W); with "same" padding h and w are H and W over the stride."""
        return super().forward(F.pad(x, self.pads) if any(self.pads) else x)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        low = torch.is_grad_enabled() and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (low and bias is None and self.padding_mode == "zeros" and _is_slow_backwards(self)):
            return super()._conv_forward(x, weight, bias)
        dtype = torch.get_autocast_dtype("cpu")
        return _Float32Gradients.apply(x.to(dtype), weight.to(dtype), self)


class _Float32Gradients(torch.autograd.Function):
    """A convolution whose gradients are computed in float32, and returned in its own type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.how = conv.stride, conv.padding, conv.dilation, conv.groups
        return F.conv2d(x, weight, None, *ctx.how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        to_x, to_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), None, stride, padding, dilation, False, [0, 0], groups,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )  # fmt: skip
        return to_x.to(x.dtype), to_weight.to(weight.dtype), None


def _is_slow_backwards(conv: nn.Conv2d) -> bool:
    """Tell whether oneDNN's gradients of this convolution take 2 to 8 times as long in bfloat16 as in float32.

    Measured on a Zen 4 with avx512_bf16 (PyTorch 2.9): depthwise kernels of 5x5, and strided ones.
    """
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    return depthwise and (max(conv.kernel_size) > 3 or max(conv.stride) > 1)
