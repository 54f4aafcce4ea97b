"""A network laid out for a GPU: the same function, in fewer and cheaper kernels.

What blocks add up stays float32; what multiplies is bfloat16 or 8-bit in the blocks, and float16 in the patch embedding
and the head. There float16 costs what bfloat16 does and rounds eight times finer, and much of bfloat16's error arises
in those two (`benchmarks/NOTES.md`). Nor does it overflow: the head is made of products, sums and ReLUs, so that it can
compute on values 2**-4 times as large, exactly, up to its last layer.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datool.engines.arithmetic import scaled
from datool.models.depth_anything import DepthAnything
from datool.models.dpt import DPTHead
from datool.models.encoders import ViTEncoder, is_plain_attention

# What the head's values are multiplied by in float16: up to a million fit, and down to 1e-3 nothing is lost.
HEAD_SCALE = 2.0**-4
# Position embeddings kept, of as many sizes: at most 8 MB each.
MAX_POSITIONS = 32
MAX_VARIANTS = 64
FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max


class Linear(nn.Module):
    """A linear layer in a type, its result multiplied by ``gamma`` (out,)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, gamma: Tensor | None = None) -> None:
        super().__init__()
        weight, bias = scaled(layer, gamma)
        self.register_buffer("weight", weight.to(dtype))
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        return F.linear(x, self.weight, self.bias)


class Fp8Linear(nn.Module):
    """A linear layer of 8-bit floats (e4m3): each row of weights and each token has a scale of its own.

    Args:
        layer, gamma: as for `Linear`; both numbers of features are multiples of 16.
        dtype: of the result.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, gamma: Tensor | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        weight, bias = scaled(layer, gamma)
        rounded, scale = to_fp8(weight)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if bias is None else bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for (..., in)."""
        rounded, scale = to_fp8(x.flatten(0, -2))
        out = torch._scaled_mm(
            rounded, self.weight.t(), scale, self.scale, bias=self.bias, out_dtype=self.dtype, use_fast_accum=True
        )
        return out.unflatten(0, x.shape[:-1])


def to_fp8(rows_nc: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as 8-bit floats, and what each is to be multiplied by: (n, c) e4m3 and (n, 1) float32."""
    scale = rows_nc.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / FP8_MAX
    return (rows_nc.float() / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


class Norm(nn.Module):
    """A layer norm of float32 that returns another type."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        return F.layer_norm(x, x.shape[-1:], self.norm.weight, self.norm.bias, self.norm.eps).to(self.dtype)


class Block(nn.Module):
    """A transformer block that leaves its last sum to the next one, which then adds and normalises in one kernel.

    Args:
        block: timm's, of plain attention. LayerScale is multiplied into the layer before it.
        dtype: what it computes in.
        linear: `Linear` or `Fp8Linear`.
    """

    def __init__(self, block: Any, dtype: torch.dtype, linear: type[Linear] | type[Fp8Linear]) -> None:
        super().__init__()
        self.num_heads, self.scale = block.attn.num_heads, block.attn.scale
        self.norm1, self.norm2 = Norm(block.norm1, dtype), Norm(block.norm2, dtype)
        self.qkv = linear(block.attn.qkv, dtype)
        self.proj = linear(block.attn.proj, dtype, _gamma(block.ls1))
        self.mlp = copy.deepcopy(block.mlp)
        for name, child in block.mlp.named_children():
            if isinstance(child, nn.Linear):
                setattr(self.mlp, name, linear(child, dtype, _gamma(block.ls2) if name == "fc2" else None))

    def forward(self, stream_bnc: Tensor, delta_bnc: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stream after attention, and what the MLP adds to it.

        Args:
            stream_bnc: float32.
            delta_bnc: what is still to be added to it, in the block's type.
        """
        stream = stream_bnc + delta_bnc
        q, k, v = self.qkv(self.norm1(stream)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        stream = stream + self.proj(attended.transpose(1, 2).flatten(2))
        return stream, self.mlp(self.norm2(stream))


class Enlarge(nn.Module):
    """A transposed convolution whose stride is its kernel, as one matrix product."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.factor = conv.stride[0]
        weight = conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)  # (row, column, out) x in
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", conv.bias.detach().repeat(self.factor**2))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, factor h, factor w) for (B, C, h, w), channels last."""
        parts = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).unflatten(-1, (self.factor, self.factor, -1))
        return parts.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class Last(nn.Module):
    """The last 1x1 convolution, to one channel, in float32."""

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: Any, scale: float) -> None:
        super().__init__()
        self.register_buffer("weight", conv.weight.detach().float().flatten() / scale)
        self.register_buffer("bias", conv.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 1, H, W) for (B, C, H, W)."""
        x = x.permute(0, 2, 3, 1)
        if torch.compiler.is_compiling():  # then converted, multiplied and summed as it is read
            return ((x * self.weight).sum(-1, keepdim=True) + self.bias).permute(0, 3, 1, 2)
        return F.linear(x, self.weight[None], self.bias).permute(0, 3, 1, 2)


def make_head(head: DPTHead, dtype: torch.dtype) -> DPTHead:
    """Return a copy of the head that computes in a type, up to the last layer, which is float32."""
    scale = HEAD_SCALE if dtype is torch.float16 else 1.0
    head = copy.deepcopy(head)
    last = Last(head.output2[2], scale)
    with torch.no_grad():
        for module in head.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
                module.bias.mul_(scale)
        for name, parameter in head.projects.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(scale)
    head.to(dtype).to(memory_format=torch.channels_last)
    head.output2[2] = last
    for index, resize in enumerate(head.resizes):
        if isinstance(resize, nn.ConvTranspose2d):
            head.resizes[index] = Enlarge(resize)
    return head


class GpuNet(nn.Module):
    """A `DepthAnything` for inference on a GPU; ``net`` is copied and stays as it was.

    Args:
        net: one that `fits`.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``fp8``: linear layers of the blocks in 8 bits, all else as bf16.
        device: where the copy lies.
    """

    def __init__(self, net: DepthAnything, precision: str, device: torch.device | str = "cpu") -> None:
        super().__init__()
        dtype = {"fp32": torch.float32, "fp16": torch.float16}.get(precision, torch.bfloat16)
        fine = torch.float32 if precision == "fp32" else torch.float16
        self.dtype, self.fine, self.patch_px = dtype, fine, net.encoder.spec.patch_px
        self.taps, self.max_depth_m = net.spec.taps, net.spec.max_depth_m
        assert isinstance(net.encoder, ViTEncoder) and isinstance(net.head, DPTHead), "as `fits` tells"
        vit = net.encoder.vit
        self.stem: Any = copy.deepcopy(vit, {id(vit.blocks): nn.ModuleList()}).to(device)
        self.stem.patch_embed.to(fine).to(memory_format=torch.channels_last)
        linear = Fp8Linear if precision == "fp8" else Linear
        self.blocks = nn.ModuleList(Block(block, dtype, linear).to(device) for block in vit.blocks[: self.taps[-1] + 1])
        self.norm = Norm(vit.norm, fine).to(device)
        self.head = make_head(net.head, fine).to(device)
        self.eval().requires_grad_(False)
        self.positions: dict[tuple[int, int], Tensor] = {}
        self._compiled = False
        self._block: Any = _block
        self._tap: Any = _tap
        self._fuse: Any = _fuse

    def compile(self, backend: Any = "inductor", options: dict[str, Any] | None = None) -> None:
        """Compile one block, one tap and the head, once for all sizes; at the next call.

        All blocks share one compiled function, so that one is compiled instead of 12 to 40, and open sizes make a new
        aspect ratio cost nothing: at most two variants, since a batch of one is another.

        Args:
            backend, options: of `torch.compile`.
        """
        self._compiled = True
        self._block, self._tap, self._fuse = (
            torch.compile(function, fullgraph=True, dynamic=True, backend=backend, options=options)
            for function in (_block, _tap, _fuse)
        )

    def forward(self, image_b3hw: Tensor) -> Tensor:
        """Return (B, H, W) float32, as `DepthAnything.forward`."""
        if self._compiled:
            _allow_variants()
        patches = self.stem.patch_embed(image_b3hw.to(self.fine))
        grid = (int(patches.shape[1]), int(patches.shape[2]))
        num_prefix = self.stem.num_prefix_tokens
        stream = F.pad(patches.flatten(1, 2), (0, 0, num_prefix, 0)) + self._position(grid)
        delta = torch.zeros_like(stream, dtype=self.dtype)
        levels = []
        for index, block in enumerate(self.blocks):
            stream, delta = self._block(block, stream, delta)
            if index in self.taps:
                tokens = self._tap(self.norm, stream, delta, num_prefix)
                levels.append(tokens.unflatten(1, grid).permute(0, 3, 1, 2))
        values = self._fuse(self.head, levels, self.patch_px)
        return values if self.max_depth_m is None else values * self.max_depth_m

    def _position(self, grid: tuple[int, int]) -> Tensor:
        """Return what is added to the tokens of a grid, the class token being 0 before: (1, N, C) float32."""
        if grid not in self.positions:
            if len(self.positions) == MAX_POSITIONS:
                self.positions.pop(next(iter(self.positions)))
            nothing = self.stem.norm.weight.new_zeros(1, *grid, self.stem.embed_dim)
            self.positions[grid] = self.stem._pos_embed(nothing)
        return self.positions[grid]


def _allow_variants() -> None:
    """Allow this thread, which has a setting of its own, as many variants as several networks come to."""
    config: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before PyTorch 2.7
    if getattr(config, name) < MAX_VARIANTS:
        setattr(config, name, MAX_VARIANTS)


def fits(net: DepthAnything) -> bool:
    """Tell whether `GpuNet` knows this network's encoder: a ViT of pre-norm blocks with plain attention."""
    if not isinstance(net.encoder, ViTEncoder):
        return False
    vit = net.encoder.vit
    ends = isinstance(vit.norm_pre, nn.Identity) and isinstance(vit.norm, nn.LayerNorm)
    return ends and all(map(_is_plain, vit.blocks))


def takes_fp8(net: DepthAnything) -> bool:
    """Tell whether `GpuNet` can have this network's linear layers in 8 bits."""
    layers = [layer for layer in net.encoder.blocks.modules() if isinstance(layer, nn.Linear)]
    return fits(net) and all(layer.in_features % 16 == 0 == layer.out_features % 16 for layer in layers)


def _is_plain(block: Any) -> bool:
    return type(block).__name__ == "Block" and hasattr(block.mlp, "fc2") and is_plain_attention(block.attn)


def _gamma(layer_scale: Any) -> Tensor | None:
    return getattr(layer_scale, "gamma", None)


def _block(block: nn.Module, stream: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    return block(stream, delta)


def _tap(norm: nn.Module, stream: Tensor, delta: Tensor, num_prefix: int) -> Tensor:
    return norm(stream[:, num_prefix:] + delta[:, num_prefix:])


def _fuse(head: nn.Module, levels: list[Tensor], patch_px: int) -> Tensor:
    return head(levels, [patch_px * side for side in levels[0].shape[-2:]])
