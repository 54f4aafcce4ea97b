"""What PyTorch leaves on the table on a CPU.

Linear layers repack their weights at each call; glibc gives big buffers back to the kernel after each layer, which then
clears them again; fused attention gains nothing from bfloat16; autocast converts weights over and over, and rounds to
bfloat16 where that costs accuracy and saves no time. `benchmarks/NOTES.md` has the figures.
"""

from __future__ import annotations

import copy
import ctypes
import platform
import re
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from datool.engines.arithmetic import scaled
from datool.models.encoders import PyramidEncoder, is_plain_attention

# mallopt's numbers and what they are set to: one pool for all threads, that keeps up to 1 GiB, and no mmap below it.
_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
_KEPT_BYTES = 1 << 30
# The head's convolutions that compute in bfloat16: those whose rounding reaches the map least, for the time they save.
# What they add up in, resize and hand to the last layers stays float32.
_LOW_CONVS = r"head\.(adapts\.\d|resizes\.3|fusions\.\d\.unit[12]\.conv[12]|output1)"
_ROUNDED = r"head\.fusions\.\d\.unit[12]\.conv1"  # only the next convolution reads these


class PackedLinear(nn.Module):
    """A linear layer whose weight lies the way oneDNN's kernels read it; for inference.

    Args:
        linear: what to pack; not needed afterwards.
        gelu: apply GELU in the same pass.
        dtype: what it computes in, and returns; its sums are float32.
        scale: (out,) what the result is multiplied by, or None.
    """

    def __init__(
        self,
        linear: nn.Linear,
        gelu: bool = False,
        dtype: torch.dtype = torch.float32,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        weight, bias = scaled(linear, scale)
        self.dtype = dtype
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), None)
        self.bias = None if bias is None else bias.to(dtype)
        self.post: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.bias, *self.post)


class LowConv(nn.Module):
    """A convolution in bfloat16 that takes any type.

    Args:
        conv: the convolution; stays as it was.
        rounded: return bfloat16 too, else float32.
    """

    def __init__(self, conv: nn.Conv2d, rounded: bool) -> None:
        super().__init__()
        self.conv = copy.deepcopy(conv).to(torch.bfloat16)
        self.rounded = rounded

    def forward(self, x: Tensor) -> Tensor:
        """Return what the convolution does of (B, C, H, W)."""
        out = self.conv(x.to(torch.bfloat16))
        return out if self.rounded else out.float()


def _attend_in_bf16(attn: Any, x: Tensor, *_: object, **__: object) -> Tensor:
    """Take the place of timm's ``Attention.forward``.

    A head at a time, as matrix products: PyTorch's fused attention takes as long in bfloat16 as in float32 where a CPU
    lacks AMX, oneDNN's products half as long, and the logits of one head stay in the cache.
    """
    batch, num_tokens = x.shape[:2]
    # (3, B, heads, N, d) in one copy: rows that lie together make the products a quarter faster
    qkv = attn.qkv(x).reshape(batch, num_tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
    heads = torch.empty_like(qkv[0])
    logits = qkv.new_empty(num_tokens, num_tokens)
    for one in range(batch):
        for head in range(attn.num_heads):
            q, k, v = qkv[:, one, head]
            torch.mm(q, k.T, out=logits)
            torch.softmax(logits, -1, out=logits)
            torch.mm(logits, v, out=heads[one, head])
    return attn.proj(heads.transpose(1, 2).reshape(batch, num_tokens, -1))


def packed(net: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return ``net`` made fast for inference; ``net`` itself where oneDNN is not built in.

    A copy that shares all other tensors: ``net`` stays as it was. In float32 results differ from its own by rounding.

    Args:
        net: a `DepthAnything` on the CPU, float32.
        dtype: float32, or, where `takes_bf16`, bfloat16: then linear layers, attention and most of the head's
            convolutions compute in it, while what blocks add up, norms and the last layers stay float32.
    """
    if not _has_onednn():
        return net
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    net = copy.deepcopy(net, shared)
    low = dtype is torch.bfloat16
    for name, module in list(net.named_modules()):
        _fold_layer_scale(module, dtype)
        if low and is_plain_attention(module):
            _pack_attention(module)
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and not hasattr(module, "q_bias"):  # with it timm reads the weight itself
                # timm's MLP: the activation stands beside its linear layer, and takes all that it gives.
                act = getattr(module, "act", None) if type(module).__name__ == "Mlp" and child_name == "fc1" else None
                gelu = isinstance(act, nn.GELU) and act.approximate == "none"
                setattr(module, child_name, PackedLinear(child, gelu, dtype))
                if gelu:
                    module.act = nn.Identity()
            elif low and isinstance(child, nn.Conv2d) and re.fullmatch(_LOW_CONVS, whole := f"{name}.{child_name}"):
                setattr(module, child_name, LowConv(child, bool(re.fullmatch(_ROUNDED, whole))))
    return net


def takes_bf16(net: nn.Module) -> bool:
    """Tell whether `packed` knows where this network bears bfloat16; else that is left to autocast.

    A ViT of plain attention does in its blocks. A convolutional encoder does nowhere: there autocast was 2e-2 off on a
    trained model and took 46 ms a photo, bfloat16 in the head alone 1e-3 and 52 ms, float32 70 ms.
    """
    if isinstance(getattr(net, "encoder", None), PyramidEncoder):
        return _has_onednn()
    blocks = [module for module in net.modules() if hasattr(module, "attn")]
    return _has_onednn() and bool(blocks) and all(is_plain_attention(block.attn) for block in blocks)


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def _fold_layer_scale(block: Any, dtype: torch.dtype) -> None:
    """Multiply LayerScale into the linear layer before it."""
    for part, last, scale in (("attn", "proj", "ls1"), ("mlp", "fc2", "ls2")):
        gamma = getattr(getattr(block, scale, None), "gamma", None)
        linear = getattr(getattr(block, part, None), last, None)
        if gamma is not None and isinstance(linear, nn.Linear):
            setattr(getattr(block, part), last, PackedLinear(linear, dtype=dtype, scale=gamma))
            setattr(block, scale, nn.Identity())


def _pack_attention(attn: Any) -> None:
    """Have attention compute in bfloat16, its logits' scale multiplied into the queries."""
    scale = torch.ones(attn.qkv.out_features)
    scale[: attn.qkv.out_features // 3] = attn.scale
    attn.qkv = PackedLinear(attn.qkv, dtype=torch.bfloat16, scale=scale)
    attn.forward = MethodType(_attend_in_bf16, attn)


def keep_buffers() -> None:
    """Have the C library keep freed memory for the next layer, where it is glibc: for the whole process."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES)):
        libc.mallopt(parameter, value)
