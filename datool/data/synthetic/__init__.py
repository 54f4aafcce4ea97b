"""Endless pictures with exact planar depth, drawn from a seed: ``render(seed, indices, height_px, width_px)``."""

from datool.data.synthetic.look import Look
from datool.data.synthetic.photos import Photos
from datool.data.synthetic.renderer import Rendered, render

__all__ = ["Look", "Photos", "Rendered", "render"]
