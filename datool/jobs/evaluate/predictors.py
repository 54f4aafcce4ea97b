"""What can be scored, by one text: a model, another project's, or maps that somebody saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datool.depth import Ambiguity, Quantity
from datool.estimators.saved import SavedMaps
from datool.models.specs import RUN_FILES, WEIGHT_FILES

if TYPE_CHECKING:
    from datool.jobs.evaluate.speed import Streams

# What makes a folder a model.
MODEL_FILES = (*WEIGHT_FILES, *RUN_FILES, "config.json", "recipe.json")


@dataclass(frozen=True)
class NamedPredictor:
    """One of them, loaded.

    Args:
        name: as it was asked for.
        identity: what decides its maps: the model with its hash and size, or the place of the maps.
        maps, estimator: one of the two.
    """

    name: str
    identity: str
    maps: SavedMaps | None = None
    estimator: Streams | None = None


@dataclass(frozen=True)
class Settings:
    """How predictors are had.

    Args:
        quantity, ambiguity, divisor: of maps and rivals that do not say.
        size_px, precision, device, batch_size: of models, as of `Predictor`; rivals take device and precision alone.
    """

    quantity: Quantity | None = None
    ambiguity: Ambiguity | None = None
    divisor: float | None = None
    size_px: int | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int | str = "auto"


def are_maps(spec: str) -> bool:
    """Tell whether a text names saved maps: a pattern with ``{id}`` or ``{stem}``, or a folder without weights."""
    if "{id}" in spec or "{stem}" in spec:
        return True
    return Path(spec).is_dir() and not any((Path(spec) / name).is_file() for name in MODEL_FILES)


def saved(place: str | Path, settings: Settings) -> NamedPredictor:
    """Return saved maps.

    Raises:
        DatoolError: no such folder, or its manifest is broken.
    """
    maps = SavedMaps(place, settings.quantity, settings.ambiguity, settings.divisor)
    return NamedPredictor(str(place), str(place), maps=maps)


def named_predictor(spec: str, settings: Settings) -> NamedPredictor:
    """Return what ``spec`` names, loaded.

    Args:
        spec: a model as of `datool.models.weights.load`; ``hf:``, ``marigold:`` or ``python:`` and a place, as of
            `datool.estimators.rivals`; or saved maps, see `are_maps`.
        settings: how.
    Raises:
        DatoolError: it cannot be had.
    """
    if are_maps(spec):
        return saved(spec, settings)
    # torch takes seconds to import, and saved maps do without
    from datool.estimators.rivals import Asked, is_rival, load_rival

    if is_rival(spec):
        asked = Asked(settings.device, settings.precision, settings.quantity, settings.ambiguity)
        rival = load_rival(spec, asked)
        return NamedPredictor(spec, rival.identity, estimator=rival)
    from datool.estimators.load import choose, open_model
    from datool.estimators.predictor import Predictor

    loaded = open_model(spec)
    engine, _ = choose(loaded, None, settings.device, settings.precision)
    predictor = Predictor(engine, size_px=settings.size_px, batch_size=settings.batch_size)
    identity = f"{loaded.name} {loaded.sha256[:12]} {predictor.size_px}px {predictor.precision}"
    return NamedPredictor(spec, identity, estimator=predictor)
