"""Names: how each kind of weight file calls a tensor, and what a file's name or config says about the model in it.

Everything here is text and tables; reading files is `datool.models.weights`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datool.errors import DatoolError
from datool.models.specs import MODELS


@dataclass(frozen=True)
class Layout:
    """One way of naming the tensors of a Depth Anything model.

    Args:
        label: what to call it in messages.
        marker: a key that every complete file of this layout has.
        encoder_prefix: what the encoder's keys start with; absent from files that hold an encoder only.
        renames: (pattern, replacement); the first that matches a whole key gives our key.
        ignored: pattern of keys that are known and not used.
    """

    label: str
    marker: str
    encoder_prefix: str
    renames: tuple[tuple[str, str], ...]
    ignored: str = r"(?!)"


OURS = Layout("datool", "encoder.vit.cls_token", "encoder.", ((r"((?:encoder|head)\..*)", r"\1"),))

# Of a convolutional encoder every row has another first key, so the head's is the mark; `project` belongs to training.
OURS_PYRAMID = Layout("datool", "head.adapts.0.weight", "encoder.", OURS.renames)

# facebookresearch/dinov2 and DepthAnything/Depth-Anything-V2 ``depth_anything_v2/dpt.py``; V1 has the same names.
OFFICIAL = Layout(
    "published .pth",
    "pretrained.cls_token",
    "pretrained.",
    (
        (r"pretrained\.(blocks\.\d+\.mlp)\.w12\.(.*)", r"encoder.vit.\1.fc1.\2"),
        (r"pretrained\.(blocks\.\d+\.mlp)\.w3\.(.*)", r"encoder.vit.\1.fc2.\2"),
        (r"pretrained\.((?:cls_token|pos_embed)|(?:patch_embed\.proj|blocks|norm)\..*)", r"encoder.vit.\1"),
        (r"depth_head\.projects\.(.*)", r"head.projects.\1"),
        (r"depth_head\.resize_layers\.(.*)", r"head.resizes.\1"),
        *((rf"depth_head\.scratch\.layer{n + 1}_rn\.(.*)", rf"head.adapts.{n}.\1") for n in range(4)),
        *(
            (rf"depth_head\.scratch\.refinenet{n + 1}\.{theirs}(.*)", rf"head.fusions.{n}.{ours}\1")
            for n in range(4)
            for theirs, ours in ((r"out_conv\.", "project."), (r"resConfUnit(?=[12]\.)", "unit"))
        ),
        (r"depth_head\.scratch\.output_conv([12])\.(.*)", r"head.output\1.\2"),
    ),
    r"pretrained\.mask_token|depth_head\.scratch\.refinenet4\.resConfUnit1\..*",
)

# huggingface/transformers ``models/depth_anything`` and ``models/dinov2``. Release 5 renamed the parts of a block, and
# files of both kinds exist.
_BLOCK = r"backbone\.encoder\.layer\.(\d+)\."
TRANSFORMERS = Layout(
    "transformers (-hf)",
    "backbone.embeddings.cls_token",
    "backbone.",
    (
        (r"backbone\.embeddings\.cls_token", "encoder.vit.cls_token"),
        (r"backbone\.embeddings\.position_embeddings", "encoder.vit.pos_embed"),
        (r"backbone\.embeddings\.patch_embeddings\.projection\.(.*)", r"encoder.vit.patch_embed.proj.\1"),
        *(
            (_BLOCK + rf"attention\.(?:attention\.{old}|{new})\.(.*)", rf"encoder.vit.blocks.\1.attn.{ours}.\2")
            for old, new, ours in (("query", "q_proj", "q"), ("key", "k_proj", "k"), ("value", "v_proj", "v"))
        ),
        (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.(.*)", r"encoder.vit.blocks.\1.attn.proj.\2"),
        (_BLOCK + r"(norm[12]\..*)", r"encoder.vit.blocks.\1.\2"),
        (_BLOCK + r"layer_scale([12])\.lambda1", r"encoder.vit.blocks.\1.ls\2.gamma"),
        (_BLOCK + r"mlp\.(?:fc1|weights_in)\.(.*)", r"encoder.vit.blocks.\1.mlp.fc1.\2"),
        (_BLOCK + r"mlp\.(gate|up)_proj\.(.*)", r"encoder.vit.blocks.\1.mlp.\2.\3"),
        (_BLOCK + r"mlp\.(?:fc2|weights_out|down_proj)\.(.*)", r"encoder.vit.blocks.\1.mlp.fc2.\2"),
        (r"backbone\.layernorm\.(.*)", r"encoder.vit.norm.\1"),
        (r"neck\.reassemble_stage\.layers\.(\d)\.projection\.(.*)", r"head.projects.\1.\2"),
        (r"neck\.reassemble_stage\.layers\.(\d)\.resize\.(.*)", r"head.resizes.\1.\2"),
        (r"neck\.convs\.(\d)\.(.*)", r"head.adapts.\1.\2"),
        *(
            (rf"neck\.fusion_stage\.layers\.{3 - n}\.{theirs}(.*)", rf"head.fusions.{n}.{ours}\1")
            for n in range(4)
            for theirs, ours in (
                (r"projection\.", "project."),
                (r"residual_layer1\.convolution(?=[12]\.)", "unit1.conv"),
                (r"residual_layer2\.convolution(?=[12]\.)", "unit2.conv"),
            )
        ),
        (r"head\.conv1\.(.*)", r"head.output1.\1"),
        (r"head\.conv2\.(.*)", r"head.output2.0.\1"),
        (r"head\.conv3\.(.*)", r"head.output2.2.\1"),
    ),
    r"backbone\.embeddings\.mask_token|neck\.fusion_stage\.layers\.0\.residual_layer1\..*",
)


_JOINED = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.fc1": ("mlp.gate", "mlp.up")}


def recognise(state: Mapping[str, Tensor], source: str) -> tuple[Layout, dict[str, Tensor]]:
    """Return the layout of a state dict, and the state dict with the layout's full names.

    A bare encoder (``cls_token``, ``embeddings.cls_token``) gets its layout's prefix.

    Raises:
        DatoolError: a ZoeDepth metric model of V1, or no layout that datool knows.
    """
    if any(key.startswith("core.core.") or "conditional_log_binomial" in key for key in state):
        raise DatoolError(
            f"cannot load {source}: this is a metric model of Depth Anything V1, which is ZoeDepth: another network "
            "(metric bins), which datool does not contain.",
            "Take a V2 metric model, for example --model v2-metric-indoor-large.",
        )
    for layout in (OURS, OURS_PYRAMID, OFFICIAL, TRANSFORMERS):
        if layout.marker in state:
            return layout, dict(state)
        if layout.marker.removeprefix(layout.encoder_prefix) in state:
            return layout, {layout.encoder_prefix + key: tensor for key, tensor in state.items()}
    some = ", ".join(list(state)[:3])
    raise DatoolError(
        f"cannot load {source}: its tensors are not those of a Depth Anything model (first of {len(state)}: {some}).",
        "Expected a published .pth, a -hf model, a DINOv2 encoder or a checkpoint of datool.",
    )


# What a classifier has behind its maps; no depth model needs it.
_CLASSIFIER = r"(?:conv_head|bn2|classifier|fc|head|norm|head_norm)\..*|.*\.num_batches_tracked"


def pyramid_names(state: Mapping[str, Tensor], stages: Sequence[int]) -> dict[str, Tensor]:
    """Return the tensors of a convolutional encoder under timm's names, without those of a classifier.

    Args:
        state: of a datool checkpoint, of timm, or of the EfficientNets of ``efficientnet_pytorch``, whose blocks are
            counted through: a block with an expansion has three convolutions and norms, one without has two.
        stages: blocks of each of the encoder's stages; needed for the last of these alone.
    """
    own = {key.removeprefix("encoder.net."): value for key, value in state.items() if key.startswith("encoder.net.")}
    named = own or (_of_efficientnet_pytorch(state, stages) if "_conv_stem.weight" in state else state)
    return {key: tensor for key, tensor in named.items() if own or not re.fullmatch(_CLASSIFIER, key)}


def _of_efficientnet_pytorch(state: Mapping[str, Tensor], stages: Sequence[int]) -> dict[str, Tensor]:
    places = [f"blocks.{stage}.{block}" for stage, count in enumerate(stages) for block in range(count)]
    whole = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    bare = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    expanded = {
        **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
        **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
    }
    found = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            number, part, leaf = int(match[1]), match[2], match[3]
            parts = expanded if f"_blocks.{number}._expand_conv.weight" in state else bare
            place = places[number] if number < len(places) else f"blocks.{number}"
            found[f"{place}.{parts.get(part, part)}.{leaf}"] = tensor
        else:
            part, _, leaf = key.partition(".")
            found[f"{whole.get(part, part)}.{leaf}"] = tensor
    return found


def translate(state: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under our names, and the keys that the layout does not know.

    Tensors that a layout keeps apart (query, key and value; a SwiGLU's gate and value) are joined as timm has them.
    """
    ours: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        if re.fullmatch(layout.ignored, key):
            continue
        for pattern, replacement in layout.renames:
            if match := re.fullmatch(pattern, key):
                ours[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(key)
    for whole, parts in _JOINED.items():
        for first in [key for key in ours if f".{parts[0]}." in key]:
            keys = [first.replace(parts[0], part) for part in parts]
            if all(key in ours for key in keys):
                ours[first.replace(parts[0], whole)] = torch.cat([ours.pop(key) for key in keys])
    return ours, unknown


_SIZES = {"small": "small", "base": "base", "large": "large", "giant": "giant"} | {
    f"vit{letter}{patch}": size
    for letter, size in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant"))
    for patch in ("", "14")
}
_SCENES = {"indoor": "indoor", "hypersim": "indoor", "outdoor": "outdoor", "vkitti": "outdoor"}
# Words that browsers, converters and the hub add to a name without changing what it means.
_NEUTRAL = {"hf", "fp16", "fp32", "copy"}


def models_named(name: str) -> list[str]:
    """Return the model rows that a file or hub name stands for: several if it leaves the size open, none if unclear.

    ``depth_anything_v2_metric_hypersim_vits``, ``Depth-Anything-V2-Small-hf`` and ``depth_anything_vitl14`` are clear.
    A name without a version is V1 only in V1's own published forms; a word that is not understood makes a name
    unclear, since a fine-tuned file may be metric, and V1, V2 and metric files have the same tensors.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if words[:2] != ["depth", "anything"]:
        return []
    said = [word for word in words[2:] if word not in _NEUTRAL and not word.isdigit()]
    sizes = {_SIZES[word] for word in said if word in _SIZES}
    scenes = {_SCENES[word] for word in said if word in _SCENES}
    if any(word not in {"v1", "v2", "metric", *_SIZES, *_SCENES} for word in said) or max(len(sizes), len(scenes)) > 1:
        return []
    own_form = re.fullmatch(r"vit[sbl]14", said[0]) or "hf" in words if len(said) == 1 and sizes else False
    version = next((word for word in said if word in ("v1", "v2")), "v1" if own_form else "")
    if not version or ("metric" in said) != bool(scenes):
        return []
    middle = f"{version}-metric-{scenes.pop()}" if scenes else version
    named = [f"depth-anything-{middle}-{size}" for size in sorted(sizes or set(_SIZES.values()))]
    return [name for name in named if name in MODELS]


def model_of_config(config: Mapping[str, Any], source: str) -> str:
    """Return the model row that a transformers ``config.json`` describes.

    Raises:
        DatoolError: another architecture, or one that no row has.
    """
    if config.get("model_type") != "depth_anything":
        got = config.get("model_type")
        raise DatoolError(f"cannot load {source}: config.json says model_type {got!r}, expected 'depth_anything'.")
    backbone = config.get("backbone_config") or {}
    metric = config.get("depth_estimation_type", "relative") == "metric"
    ceiling = float(config.get("max_depth") or 1) if metric else None
    stages = [str(stage) for stage in backbone.get("out_features") or []]
    indices = backbone.get("out_indices") or [stage.removeprefix("stage") for stage in stages]
    try:
        taps = tuple(int(index) - 1 for index in indices)
    except (TypeError, ValueError) as error:
        raise DatoolError(f"cannot load {source}: config.json has out_indices {indices!r}, not numbers.") from error
    features = config.get("fusion_hidden_size", 64)
    for name, spec in MODELS.items():
        same = (spec.taps, spec.max_depth_m, spec.features) == (taps, ceiling, features)
        if same and spec.encoder.startswith("dinov2"):
            return name
    raise DatoolError(
        f"cannot load {source}: no model row has taps {taps}, fusion width {features} and maximum depth {ceiling} m, "
        "as its config.json says.",
        "Known rows: the published V1, V2 and V2 metric (20 and 80 m) models.",
    )
