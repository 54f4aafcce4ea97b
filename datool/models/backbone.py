"""The trained encoder alone: as a DINOv2 backbone for timm and transformers, or a convolutional one for timm.

Source: huggingface/transformers ``models/dinov2`` (names as in the files on the hub); timm's ``local-dir:`` folders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from datool import __version__
from datool.errors import DatoolError
from datool.files import write_bytes
from datool.models.encoders import Encoder, EncoderSpec, PyramidEncoder, ViTEncoder

FILES = (
    "timm/model.safetensors",
    "timm/config.json",
    "transformers/model.safetensors",
    "transformers/config.json",
    "transformers/preprocessor_config.json",
)
LAYER_NORM_EPS = 1e-6
_RENAMES = (
    (r"cls_token", "embeddings.cls_token"),
    (r"pos_embed", "embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(.*)", r"embeddings.patch_embeddings.projection.\1"),
    (r"blocks\.(\d+)\.attn\.(query|key|value)\.(.*)", r"encoder.layer.\1.attention.attention.\2.\3"),
    (r"blocks\.(\d+)\.attn\.proj\.(.*)", r"encoder.layer.\1.attention.output.dense.\2"),
    (r"blocks\.(\d+)\.(norm[12]\..*)", r"encoder.layer.\1.\2"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"blocks\.(\d+)\.mlp\.(fc[12]\..*)", r"encoder.layer.\1.mlp.\2"),
    (r"norm\.(.*)", r"layernorm.\1"),
)
_SWIGLU = {"fc1": "weights_in", "fc2": "weights_out"}


def backbone_files(encoder: Encoder) -> tuple[str, ...]:
    """Return what `write_backbone` writes, as paths inside of its folder."""
    return FILES if isinstance(encoder, ViTEncoder) else FILES[:2]


def write_backbone(encoder: Encoder, folder: Path) -> None:
    """Write an encoder as ``folder/timm`` and, of a vision transformer, ``folder/transformers``.

    ``timm.create_model("local-dir:FOLDER/timm", pretrained=True)`` and
    ``Dinov2Model.from_pretrained("FOLDER/transformers")`` load them. At other sizes than the stored grid's, both resize
    positions by a rule of their own, which is not DINOv2's. A convolutional encoder has no classifier's layers behind
    its maps: timm loads it with ``features_only=True`` (and ``pretrained_strict=False`` where there is a norm among
    those layers, as of ConvNeXt).

    Args:
        encoder: on any device.
        folder: made if it is not there.
    Raises:
        DatoolError: the encoder is a vision transformer and no DINOv2, or a file cannot be written.
    """
    from safetensors.torch import save as to_bytes

    spec = encoder.spec
    if isinstance(encoder, PyramidEncoder):
        write_bytes(folder / FILES[0], to_bytes(_timm_names(encoder), metadata={"format": "pt"}))
        write_bytes(folder / FILES[1], _json(_pyramid_config(spec)))
        return
    state = _plain(encoder.vit)
    if spec.stem or not spec.dinov2_rule or "patch_embed.proj.weight" not in state:
        raise DatoolError(
            f"the encoder {spec.timm_name} is no DINOv2: it cannot be written as one.",
            "Take a model whose encoder is dinov2-small, -base, -large or -giant.",
        )
    contents = (
        to_bytes(state, metadata={"format": "pt"}),
        _json(_timm_config(spec)),
        to_bytes(to_transformers(state), metadata={"format": "pt"}),
        _json(_transformers_config(spec, state)),
        _json(_processor(spec)),
    )
    for name, content in zip(FILES, contents, strict=True):
        write_bytes(folder / name, content)


def _plain(net: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().float().cpu().contiguous() for key, tensor in net.state_dict().items()}


def _timm_names(encoder: PyramidEncoder) -> dict[str, Tensor]:
    """Return the tensors as timm's whole network names them: of some it takes maps out of a list of renamed modules."""
    with torch.device("meta"):
        whole = timm.create_model(encoder.spec.timm_name, num_classes=0).state_dict()
    dotted = {key.replace(".", "_"): key for key in whole}
    return {dotted[key.replace(".", "_")]: tensor for key, tensor in _plain(encoder.net).items()}


def _pyramid_config(spec: EncoderSpec) -> dict[str, Any]:
    config = timm.get_pretrained_cfg(spec.timm_name)
    assert config is not None, "timm built it"
    known = config.to_dict()
    kept = {key: known[key] for key in ("input_size", "interpolation", "crop_pct", "first_conv", "classifier")}
    return {
        "architecture": spec.timm_name,
        "num_classes": 0,
        "num_features": spec.width,
        "pretrained_cfg": {**kept, "mean": list(spec.mean), "std": list(spec.std), "num_classes": 0},
    }


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a timm ViT's tensors under the names that transformers' DINOv2 has on the hub.

    What timm joins is taken apart; a LayerScale that a model lacks is one, and the mask token, which nothing here
    trained, is zero.
    """
    width = state["cls_token"].shape[-1]
    swiglu = _is_swiglu(state)
    theirs = {"embeddings.mask_token": torch.zeros(1, width)}
    for key, tensor in _apart(state).items():
        for pattern, replacement in _RENAMES:
            if match := re.fullmatch(pattern, key):
                name = match.expand(replacement)
                if swiglu:
                    name = re.sub(r"mlp\.(fc[12])", lambda found: f"mlp.{_SWIGLU[found[1]]}", name)
                theirs[name] = tensor.clone()
                break
        else:
            raise AssertionError(key)
    for block in range(_num_blocks(state)):
        for number in (1, 2):
            theirs.setdefault(f"encoder.layer.{block}.layer_scale{number}.lambda1", torch.ones(width))
    return theirs


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with query, key and value each on its own."""
    apart: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if ".attn.qkv." in key:
            for name, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                apart[key.replace("qkv", name)] = part
        else:
            apart[key] = tensor
    return apart


def _num_blocks(state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))


def _is_swiglu(state: Mapping[str, Tensor]) -> bool:
    inner, outer = state["blocks.0.mlp.fc1.weight"].shape[0], state["blocks.0.mlp.fc2.weight"].shape[1]
    return inner == 2 * outer


def _timm_config(spec: EncoderSpec) -> dict[str, Any]:
    side = spec.grid * spec.patch_px
    return {
        "architecture": spec.timm_name,
        "num_classes": 0,
        "num_features": spec.width,
        "model_args": {"img_size": side, "dynamic_img_size": True, **spec.options},
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "mean": list(spec.mean),
            "std": list(spec.std),
            "interpolation": "bicubic",
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _transformers_config(spec: EncoderSpec, state: Mapping[str, Tensor]) -> dict[str, Any]:
    heads = spec.options.get("num_heads", spec.width // 64)
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": spec.width,
        "num_hidden_layers": spec.num_blocks,
        "num_attention_heads": heads,
        "mlp_ratio": 4 if _is_swiglu(state) else hidden // spec.width,
        "use_swiglu_ffn": _is_swiglu(state),
        "image_size": spec.grid * spec.patch_px,
        "patch_size": spec.patch_px,
        "layer_norm_eps": LAYER_NORM_EPS,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "datool": __version__,
    }


def _processor(spec: EncoderSpec) -> dict[str, Any]:
    side = spec.grid * spec.patch_px
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2).encode("ascii") + b"\n"
