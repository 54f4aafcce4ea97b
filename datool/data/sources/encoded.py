"""Pictures that are not files of their own (in a tar, a database), and ones whose pixels must stay where they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from datool.files.images import MAX_PIXELS, _read_picture, explained


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Return encoded bytes as `datool.files.read_image` returns a file: (H, W, 3) uint8 RGB, upright.

    Args:
        data: a JPEG, PNG, WebP or what else Pillow reads.
        name: of the picture and its container, for messages.
    Raises:
        DatoolError: no image, cut short, broken or too large.
    """
    with explained(name):
        return _read_picture(Path(name), io.BytesIO(data), MAX_PIXELS)


def read_stored(path: Path) -> np.ndarray:
    """Return the pixels as they are stored, (H, W, 3) uint8 RGB, whatever the EXIF orientation says.

    For sets whose truth lies on the stored pixels.

    Raises:
        DatoolError: missing, no image, or cut short.
    """
    with explained(str(path)), Image.open(path) as image:
        return np.array(image.convert("RGB"))
