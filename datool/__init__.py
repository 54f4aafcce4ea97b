"""Monocular depth: from photos to depth maps, models, scores and point clouds.

``datool.load("tiny").predict("photo.jpg")`` returns a `DepthMap`. Importing datool imports no torch; ``load`` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datool.depth import Camera, DepthMap
    from datool.estimators.load import load

__version__ = "0.1.0"
__all__ = ["Camera", "DepthMap", "__version__", "load"]

_MODULES = {"Camera": "datool.depth", "DepthMap": "datool.depth", "load": "datool.estimators.load"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'datool' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
