"""Every training run as a value: named, typed, written beside the weights, and accepted back.

Learning rates, steps, batch sizes, loss weights and what the data are stand here and nowhere else.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from datool.errors import DatoolError, lookup


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Args:
        model: row of `datool.models.depth_anything.MODELS`, trained from random weights.
        seed: of the weights, of the scenes and of every draw.
        num_scenes: rendered scenes to train on, each rendered once and kept in memory; 0 = a new scene for each sample.
        scene_px: (height, width) that scenes are rendered at.
        sizes: (share of the run after which it holds, height, width) of the network's input: small pictures first.
        zoom: smallest window that is cut from a scene, as a share of its sides.
        colour: strength of the colour changes, 0 to 1.
        batch_size: samples a step.
        steps: optimiser steps.
        ssi: ``median`` (V1's mean absolute error) or ``least-squares`` (MiDaS's squared error).
        gradient_weight: weight of gradient matching beside the scale-and-shift-invariant loss.
        lr_encoder, lr_head: peak learning rates.
        warmup: steps over which they rise; afterwards they fall to 0 along a cosine.
        weight_decay: AdamW's, on matrices and kernels only.
        clip: largest gradient norm.
        ema: decay a step of the averaged weights, which are what is validated and kept.
        num_validation: held-out scenes.
        validate_every: steps between two validations, each followed by a checkpoint.
        log_every: steps between two lines of the log.
    """

    model: str
    seed: int = 0
    num_scenes: int = 0
    scene_px: tuple[int, int] = (224, 288)
    sizes: tuple[tuple[float, int, int], ...] = ((0.0, 224, 288),)
    zoom: float = 0.6
    colour: float = 0.7
    batch_size: int = 32
    steps: int = 1000
    ssi: str = "median"
    gradient_weight: float = 0.5
    lr_encoder: float = 1e-3
    lr_head: float = 1e-3
    warmup: int = 500
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.999
    num_validation: int = 256
    validate_every: int = 1000
    log_every: int = 50


def read_recipe(spec: str) -> Recipe:
    """Return a named recipe, or the one that a ``recipe.json`` holds.

    Raises:
        DatoolError: no such name, or a file that holds no recipe.
    """
    if not spec.endswith(".json"):
        return lookup(RECIPES, spec, "recipe")
    try:
        stored = json.loads(Path(spec).read_text())
    except (OSError, ValueError) as error:
        raise DatoolError(f"cannot read recipe {spec}: {error}.") from error
    if not isinstance(stored, dict) or "model" not in stored:
        raise DatoolError(f"cannot read recipe {spec}: expected an object with the fields of a recipe.")
    known = _types()
    return Recipe(**{key: _typed(value, lookup(known, key, "recipe field"), key) for key, value in stored.items()})


def override(recipe: Recipe, settings: list[str]) -> Recipe:
    """Return the recipe with ``key=value`` settings applied; values are JSON, or bare text for text fields.

    Raises:
        DatoolError: not ``key=value``, no such field, or a value of another type.
    """
    known = _types()
    changes: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign:
            raise DatoolError(f"cannot apply --set {setting}: expected key=value.")
        kind = lookup(known, key, "recipe field")
        try:
            value = text if kind is str else json.loads(text)
        except ValueError as error:
            raise DatoolError(f"cannot apply --set {setting}: {text!r} is not a value ({error}).") from error
        changes[key] = _typed(value, kind, key)
    return replace(recipe, **changes)


def write_recipe(recipe: Recipe) -> str:
    """Return the recipe as JSON text that `read_recipe` takes back."""
    return json.dumps(asdict(recipe), indent=2) + "\n"


def _types() -> dict[str, Any]:
    hints = typing.get_type_hints(Recipe)
    return {field.name: hints[field.name] for field in fields(Recipe)}


def _typed(value: Any, kind: Any, key: str) -> Any:
    """Return the JSON value as the field's type: lists become tuples, whole numbers may stand for floats."""
    origin = typing.get_origin(kind)
    if origin is tuple and isinstance(value, list):
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) == len(value):
            return tuple(_typed(item, item_kind, key) for item, item_kind in zip(value, kinds, strict=True))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and type(value) is kind:
        return value
    raise DatoolError(f"recipe field '{key}' is {kind}, got {value!r}.")


RECIPES: dict[str, Recipe] = {
    # The model that ships, trained on two CPU cores.
    "tiny": Recipe(
        model="tiny",
        num_scenes=12_000,
        scene_px=(112, 144),
        sizes=((0.0, 96, 128), (0.85, 112, 144)),
        colour=0.5,
        batch_size=16,
        steps=5600,
        gradient_weight=0.1,
        lr_encoder=5e-4,
        lr_head=5e-4,
        warmup=300,
        validate_every=700,
    ),
    # The whole path in seconds, for tests and for a first look.
    "nano": Recipe(
        model="nano",
        num_scenes=64,
        scene_px=(56, 70),
        sizes=((0.0, 56, 70),),
        batch_size=8,
        steps=60,
        warmup=10,
        ema=0.9,
        num_validation=16,
        validate_every=30,
        log_every=10,
    ),
}
