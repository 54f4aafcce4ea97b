"""Every vision transformer that datool can use as an encoder: rows of a table or ``timm:<name>``, one class over timm.

There is no copy of DINOv2 here. timm's ViT equals the DINOv2 of Depth Anything once position embeddings are resized by
DINOv2's own rule (`dinov2_position`), which timm does differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import HybridEmbed, LayerNorm2d
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from datool.errors import DatoolError, lookup

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderSpec:
    """How to build one encoder.

    Args:
        timm_name: model name for ``timm.create_model``.
        patch_px: height and width of the image area behind one token.
        width: channels of a token.
        num_blocks: transformer blocks.
        grid: tokens a side of the stored position embedding.
        stem: channels of stride-2 3x3 convolutions in place of the one patch convolution; the last is ``width``.
            From-scratch training on few images needs it (Xiao et al. 2021, arXiv:2106.14881).
        options: further arguments of ``timm.create_model``.
        mean, std: what the image (RGB in [0, 1]) is normalised with.
        dinov2_rule: whether position embeddings are resized by DINOv2's rule, else by timm's own.
        any_size: whether images other than grid * patch_px square are possible (not with BEiT's table of distances).
    """

    timm_name: str
    patch_px: int
    width: int
    num_blocks: int
    grid: int
    stem: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    dinov2_rule: bool = True
    any_size: bool = True


def is_plain_attention(module: Any) -> bool:
    """Tell whether a module is timm's ``Attention`` without norms, gates or rotations inside."""
    inside = [getattr(module, name, None) for name in ("q_norm", "k_norm", "norm", "gate")]  # some timms lack two
    return type(module).__name__ == "Attention" and all(
        part is None or isinstance(part, nn.Identity) for part in inside
    )


def dinov2_position(position_1nc: Tensor, height: int, width: int, num_prefix: int) -> Tensor:
    """Resize a square position embedding to a token grid of (height, width) the way DINOv2 does.

    Bicubic without antialias, by the scale factor (n + 0.1) / side, which is not what resizing to n gives; in float32;
    left alone where the grid is the stored one.

    Args:
        position_1nc: (1, num_prefix + side * side, C).
        height, width: tokens.
        num_prefix: class and register positions in front, never resized.
    Returns:
        (1, num_prefix + height * width, C), of the same type.

    Source: facebookresearch/dinov2 ``interpolate_pos_encoding`` with ``interpolate_offset=0.1``.
    """
    prefix, patches = position_1nc[:, :num_prefix], position_1nc[:, num_prefix:]
    side = round(patches.shape[1] ** 0.5)
    if (height, width) == (side, side):
        return position_1nc
    grid = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((height + 0.1) / side, (width + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=factors, mode="bicubic", antialias=False)
    return torch.cat([prefix, grid.permute(0, 2, 3, 1).flatten(1, 2).to(patches.dtype)], dim=1)


def _embed_positions(vit: Any, patches_bhwc: Tensor) -> Tensor:
    """Take the place of timm's ``_pos_embed``: prefix tokens in front, positions by DINOv2's rule."""
    batch, height, width, _ = patches_bhwc.shape
    tokens = patches_bhwc.flatten(1, 2)
    if vit.cls_token is not None:
        tokens = torch.cat([vit.cls_token.expand(batch, -1, -1), tokens], dim=1)
    return vit.pos_drop(tokens + dinov2_position(vit.pos_embed, height, width, vit.num_prefix_tokens))


class ViTEncoder(nn.Module):
    """A ViT that returns the normalised token maps of chosen blocks.

    Args:
        spec: what to build. Weights are random; `datool.models.weights` fills them.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        options = dict(spec.options)
        if spec.any_size:
            options["dynamic_img_size"] = True
        if spec.stem:
            depth = len(spec.stem)
            stem = ConvStem(
                depth=depth, channels=spec.stem, stride=(2,) * depth, norm_layer=LayerNorm2d, act_layer=nn.GELU
            )
            options |= {"embed_layer": partial(HybridEmbed, backbone=stem, proj=False), "patch_size": 1}
        self.vit: Any = timm.create_model(spec.timm_name, num_classes=0, img_size=spec.grid * spec.patch_px, **options)
        if spec.dinov2_rule:
            self.vit._pos_embed = MethodType(_embed_positions, self.vit)  # type: ignore[assignment]

    def forward(self, image_b3hw: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Return one map of tokens a tap, each through the shared final norm.

        Args:
            image_b3hw: normalised image; H and W are multiples of ``spec.patch_px``.
            taps: 0-based block numbers, ascending.
        Returns:
            For each tap (B, C, H / patch, W / patch).
        Raises:
            DatoolError: an image size that this encoder cannot take.
        """
        side = self.spec.grid * self.spec.patch_px
        if not self.spec.any_size and image_b3hw.shape[-2:] != (side, side):
            got = "x".join(str(int(n)) for n in image_b3hw.shape[-2:])
            raise DatoolError(f"{self.spec.timm_name} takes images of {side}x{side} only, got {got}.")
        return self.vit.forward_intermediates(image_b3hw, indices=list(taps), norm=True, intermediates_only=True)


def encoder_spec(name: str) -> EncoderSpec:
    """Return the spec of an encoder: of the table, or made for ``timm:<name>``.

    Raises:
        DatoolError: no such encoder, or timm has no such model, or it is not a plain ViT.
    """
    if not name.startswith("timm:"):
        return lookup(ENCODERS, name, "encoder")
    timm_name = name.removeprefix("timm:")
    lookup(dict.fromkeys(timm.list_models()), timm_name.split(".")[0], "timm model")
    with torch.device("meta"):
        vit: Any = timm.create_model(timm_name, num_classes=0)
    if not (hasattr(vit, "blocks") and hasattr(vit, "forward_intermediates") and hasattr(vit, "patch_embed")):
        raise DatoolError(f"{name} is no plain ViT (a {type(vit).__name__}).", "Take a ViT, BEiT, DeiT, EVA or DINO.")
    (patch_px, _), (grid, _) = vit.patch_embed.patch_size, vit.patch_embed.grid_size
    relative = any("relative_position" in key for key, _ in (*vit.named_buffers(), *vit.named_parameters()))
    # timm drops the last norm where a classifier pools first; token maps need it.
    options = {"global_pool": "token"} if isinstance(vit.norm, nn.Identity) and vit.num_prefix_tokens else {}
    mean, std = vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"]
    width, blocks = vit.embed_dim, len(vit.blocks)
    return EncoderSpec(
        timm_name, patch_px, width, blocks, grid, (), options, mean, std, dinov2_rule=False, any_size=not relative
    )


def build_encoder(name: str) -> ViTEncoder:
    """Return the encoder of that name (`encoder_spec`), with random weights.

    Raises:
        DatoolError: no such encoder.
    """
    return ViTEncoder(encoder_spec(name))


def _small(width: int, blocks: int, heads: int) -> dict[str, Any]:
    return {"embed_dim": width, "depth": blocks, "num_heads": heads}


ENCODERS: dict[str, EncoderSpec] = {
    "dinov2-small": EncoderSpec("vit_small_patch14_dinov2", 14, 384, 12, 37),
    "dinov2-base": EncoderSpec("vit_base_patch14_dinov2", 14, 768, 12, 37),
    "dinov2-large": EncoderSpec("vit_large_patch14_dinov2", 14, 1024, 24, 37),
    "dinov2-giant": EncoderSpec("vit_giant_patch14_dinov2", 14, 1536, 40, 37),
    "nano": EncoderSpec("vit_tiny_patch16_224", 14, 64, 4, 8, options=_small(64, 4, 2) | {"patch_size": 14}),
    "tiny": EncoderSpec("vit_tiny_patch16_224", 16, 256, 8, 14, stem=(32, 64, 128, 256), options=_small(256, 8, 4)),
}
