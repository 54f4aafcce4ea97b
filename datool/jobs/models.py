"""Which models there are, and fetching one for a machine without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datool.models import hub
from datool.models.specs import MODELS, ModelSpec


@dataclass(frozen=True)
class ModelInfo:
    """One spec of `list_models`.

    Args:
        name: what ``--model`` takes.
        short: a shorter name for the same; the name itself where there is none.
        gives: what its maps hold: disparity (up to scale and shift), or metres.
        size_mb: of the weights, in 10^6 bytes; 0 where there is nothing to fetch.
        licence: of the weights.
        place: ``cached``, ``bundled``, ``to fetch``, or why it cannot be fetched.
    """

    name: str
    short: str
    gives: str
    size_mb: int
    licence: str
    place: str


def list_models() -> list[ModelInfo]:
    """Return every model that datool knows by name, in the table's order. Touches no network."""
    return [_info(name, spec) for name, spec in MODELS.items()]


def get_model(name: str, progress: Callable[[str], None]) -> Path:
    """Fetch the weights of a model into the hub's cache; return the file.

    Args:
        name: a name, a short name or a hub id of the table.
        progress: gets lines of text, the licence first.
    Raises:
        DatoolError: unknown or never published, or the download failed.
    """
    return hub.fetch(hub.resolve(name) or name, progress)


def _info(name: str, spec: ModelSpec) -> ModelInfo:
    gives = spec.quantity.value if spec.max_depth_m is None else f"metres, to {spec.max_depth_m:g}"
    short = hub.short_name(name)
    entry = hub.PUBLISHED.get(name)
    if entry is None:
        bundled = name not in hub.UNPUBLISHED
        licence = hub.APACHE if bundled else ""
        return ModelInfo(name, short, gives, 0, licence, "bundled" if bundled else hub.UNPUBLISHED[name])
    return ModelInfo(name, short, gives, entry.size_mb, entry.licence, "cached" if hub.cached(name) else "to fetch")
