"""What can be scored, by one text: a model, another project's, or maps that somebody saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datool.estimators.saved import SavedMaps
from datool.files.stored_map import UNSAID, MapMeaning
from datool.models.specs import RUN_FILES, WEIGHT_FILES, find_exported

if TYPE_CHECKING:
    from datool.jobs.evaluate.speed import Streams

# The model that a command takes where none is named.
AUTO = "auto"
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
        meaning: of maps and rivals that do not say it themselves.
        size_px, precision, device, batch_size: of models, as of `Predictor`; rivals take device and precision alone.
    """

    meaning: MapMeaning = UNSAID
    size_px: int | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int | str = "auto"


def are_maps(spec: str) -> bool:
    """Tell whether a text names saved maps: a pattern with ``{id}`` or ``{stem}``, or a folder without a model."""
    if "{id}" in spec or "{stem}" in spec:
        return True
    if find_exported(spec) is not None:
        return False
    return Path(spec).is_dir() and not any((Path(spec) / name).is_file() for name in MODEL_FILES)


def saved(place: str | Path, settings: Settings) -> NamedPredictor:
    """Return saved maps.

    Raises:
        DatoolError: no such folder, or its manifest is broken.
    """
    maps = SavedMaps(place, settings.meaning)
    return NamedPredictor(str(place), str(place), maps=maps)


def named_predictor(spec: str, settings: Settings, progress: Callable[[str], None] = lambda _: None) -> NamedPredictor:
    """Return what ``spec`` names, loaded.

    Args:
        spec: a model as of `datool.models.weights.load`, or ``auto``, which is named by what it turns out to be;
            ``hf:``, ``marigold:`` or ``python:`` and a place, as of `datool.estimators.rivals`; ``prior:`` and a name,
            as of `datool.estimators.priors`; or saved maps, see `are_maps`.
        settings: how.
        progress: gets lines of text while a model is had.
    Raises:
        DatoolError: it cannot be had.
    """
    if are_maps(spec):
        return saved(spec, settings)
    # torch takes seconds to import, and saved maps do without
    from datool.estimators.priors import PREFIX, Prior
    from datool.estimators.rivals import Asked, is_rival, load_rival

    if spec.startswith(PREFIX):
        return NamedPredictor(spec, spec, estimator=Prior(spec.removeprefix(PREFIX)))
    if is_rival(spec):
        meaning = settings.meaning
        asked = Asked(settings.device, settings.precision, meaning.quantity, meaning.ambiguity)
        rival = load_rival(spec, asked)
        return NamedPredictor(spec, rival.identity, estimator=rival)
    from datool.estimators.load import ModelOptions, open_predictor

    options = ModelOptions(
        model=spec,
        device=settings.device,
        precision=settings.precision,
        size_px=settings.size_px,
        batch_size=settings.batch_size,
    )
    opened = open_predictor(options, progress)
    loaded, predictor = opened.model, opened.predictor
    identity = f"{loaded.name} {loaded.sha256[:12]} {predictor.size_px}px {predictor.precision}"
    return NamedPredictor(loaded.name if spec == AUTO else spec, identity, estimator=predictor)
