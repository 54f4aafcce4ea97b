"""Where the sky is in a photo, by any segmentation model of transformers."""

from __future__ import annotations

import numpy as np

from datool.errors import DatoolError, require


class SkySegmenter:
    """A segmentation model that knows a class named sky.

    Args:
        model: hub id or folder of a model that the image-segmentation pipeline of transformers takes (SegFormer,
            Mask2Former, OneFormer, ...).
        device: as torch names it.
    Raises:
        DatoolError: transformers is not installed, no such model, or it has no class of that name.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        transformers = require("transformers", "rivals", "finding the sky")
        try:
            self._pipe = transformers.pipeline("image-segmentation", model=model, device=device)
        except (OSError, ValueError) as error:
            raise DatoolError(
                f"cannot load '{model}' as a segmentation model: {error}",
                "Give a hub id or a folder, such as nvidia/segformer-b0-finetuned-ade-512-512.",
            ) from error
        names = list((self._pipe.model.config.id2label or {}).values())
        if not any(_is_sky(name) for name in names):
            raise DatoolError(
                f"'{model}' has no class named sky, only {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}.",
                "Take a model of outdoor scenes (ADE20K, Cityscapes, COCO-Stuff).",
            )

    def mask(self, image: np.ndarray) -> np.ndarray:
        """Return the sky, (H, W) bool.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        from PIL import Image

        mask = np.zeros(image.shape[:2], bool)
        for part in self._pipe(Image.fromarray(image)):
            if _is_sky(part["label"]):
                mask |= np.asarray(part["mask"]) > 0
        return mask


def _is_sky(name: str) -> bool:
    """Tell a class of sky, such as ``sky`` or COCO's ``sky-other-merged``, from ``skyscraper``."""
    return "sky" in name.lower().replace(",", " ").replace("-", " ").replace("_", " ").split()
