"""What training begins from: a model's first weights, and the frozen encoder beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from datool.errors import DatoolError, lookup
from datool.models import hub
from datool.models.depth_anything import DepthAnything, build_model
from datool.models.encoders import Encoder, build_encoder, encoder_spec
from datool.models.specs import MODELS, RUN_FILES, WEIGHT_FILES
from datool.models.weights import load, load_encoder, packaged
from datool.training.recipe import Recipe

# Words of ``init``: DINOv2 of the encoder's size, and the relative model of a metric one.
DINOV2, RELATIVE = "dinov2", "relative"


def init_model(recipe: Recipe, progress: Callable[[str], None] | None = None) -> DepthAnything:
    """Return the recipe's model with the weights that it begins from, on the CPU: the same on every rank.

    Args:
        recipe: names row, seed, ``init``, ``init_head`` and ``head_bias``.
        progress: gets lines of text while weights are fetched.
    Raises:
        DatoolError: unknown row, or weights that cannot be had or belong to another encoder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_model(recipe.model)
        if recipe.align_weight:
            model.project = _projector(model, recipe)
    last = model.head.output2[2]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    if recipe.head_bias:
        nn.init.constant_(last.bias, recipe.head_bias)
    if recipe.init:
        spec = _relative(recipe.model) if recipe.init == RELATIVE else recipe.init
        load_encoder(_weights(spec, model.spec.encoder, progress), model.encoder)
        if recipe.init_head:
            _copy_head(spec, model, progress)
    elif recipe.init_head:
        raise DatoolError("init_head needs a model to take the head from.", "Give --init NAME|FILE.")
    return model


def frozen_encoder(recipe: Recipe, progress: Callable[[str], None] | None = None) -> Encoder | None:
    """Return the encoder that tokens are aligned with, on the CPU; None where the recipe aligns nothing.

    Raises:
        DatoolError: unknown encoder, or weights that cannot be had or belong to another one.
    """
    if not recipe.align_weight:
        return None
    name = recipe.align_encoder or lookup(MODELS, recipe.model, "model").encoder
    encoder = build_encoder(name)
    load_encoder(_weights(recipe.align_init, name, progress), encoder)
    return encoder


def _relative(model: str) -> str:
    """Return the relative model of a metric one's size: what V2's script begins from."""
    return re.sub("metric-(indoor|outdoor)-", "", model)


def _projector(model: DepthAnything, recipe: Recipe) -> nn.Module:
    """Return what brings the student's tokens to the frozen encoder's width; nothing where they have it.

    Source: LiheYoung/Depth-Anything issue 224: a linear projection on the student, only where widths differ.
    """
    ours, theirs = model.encoder.spec, encoder_spec(recipe.align_encoder or model.spec.encoder)
    if ours.patch_px != theirs.patch_px:
        raise DatoolError(
            f"cannot align tokens of {ours.patch_px} pixels with tokens of {theirs.patch_px}.",
            "Choose an align_encoder with the model's patch size.",
        )
    return nn.Identity() if ours.width == theirs.width else nn.Conv2d(ours.width, theirs.width, 1)


def _copy_head(spec: str, model: DepthAnything, progress: Callable[[str], None] | None) -> None:
    """Take the DPT head over, except for its last 1x1, which says what is predicted."""
    other = load(spec, progress)
    state = {key: tensor for key, tensor in other.model.head.state_dict().items() if not key.startswith("output2.2.")}
    mine = model.head.state_dict()
    wrong = [key for key, tensor in state.items() if key not in mine or mine[key].shape != tensor.shape]
    if wrong:
        raise DatoolError(f"the head of {other.source} does not fit {model.spec.encoder}: {', '.join(wrong[:4])}.")
    model.head.load_state_dict(mine | state)


def _weights(spec: str, encoder: str, progress: Callable[[str], None] | None) -> Path:
    """Return the file that ``init`` means: a path, a model's name, ``dinov2``, or a hub id."""
    path = Path(spec).expanduser()
    if path.is_file():
        return path
    for name in (*RUN_FILES, WEIGHT_FILES[0]):
        if (path / name).is_file():
            return path / name
    if inside := packaged(spec):
        return inside
    row = hub.resolve(spec)
    if row:
        return hub.fetch(row, progress)
    repo = f"facebook/{encoder}" if spec == DINOV2 and encoder.startswith("dinov2-") else spec
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        return hub.download(repo, WEIGHT_FILES[0], "main", progress)
    raise DatoolError(
        f"no weights '{spec}' for the encoder {encoder}.",
        "Give a file, a model's name, efficientnet-lite0 or -lite2, a hub id such as facebook/dinov2-small, or dinov2 "
        "for a DINOv2 encoder.",
    )
