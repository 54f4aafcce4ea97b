"""Endless pictures with exact planar depth, drawn from a seed: ``render(seed, indices, height_px, width_px)``."""

from datool.render.look import Look
from datool.render.photos import Photos
from datool.render.renderer import Rendered, render

__all__ = ["Look", "Photos", "Rendered", "render"]
