"""OpenEXR, which cv2 and imageio do not read here: the one place that calls its library."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from datool.errors import require

MAGIC = b"\x76\x2f\x31\x01"

_stdout = threading.Lock()


def read_exr(
    path: Path, check_size: Callable[[int, int], None] = lambda width, height: None
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Return the channels and the header of the file's first part.

    Args:
        path: the file.
        check_size: called with (width, height) before any pixel is read; raises where they are too large.
    Returns:
        channels by name, (H, W) float32 each, and the header's attributes.
    Raises:
        DatoolError: the library is not installed.
        OSError, ValueError, RuntimeError: the library's own, for a broken file.
    """
    openexr = require("OpenEXR", "exr", f"reading {path}")
    # The library prints its warnings to stdout, which is for results.
    with open(path, "rb") as stream, _stdout, redirect_stdout(sys.stderr):
        with openexr.File(stream, header_only=True) as file:
            (left, top), (right, bottom) = file.header()["dataWindow"]
        check_size(int(right) - int(left) + 1, int(bottom) - int(top) + 1)
        stream.seek(0)
        with openexr.File(stream, separate_channels=True) as file:
            channels = {name: np.array(channel.pixels, np.float32) for name, channel in file.channels().items()}
            return channels, dict(file.header())


def encode_exr(channels: Mapping[str, np.ndarray], attributes: Mapping[str, str]) -> bytes:
    """Return a ZIP-compressed scan-line file.

    Args:
        channels: (H, W) float16 or float32 by name.
        attributes: texts for the header.
    Raises:
        DatoolError: the library is not installed.
    """
    openexr = require("OpenEXR", "exr", "writing .exr files")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage, **attributes}
    out = io.BytesIO()
    # The library reads the memory of a view as if it were whole, and writes nonsense.
    whole = {name: np.ascontiguousarray(values) for name, values in channels.items()}
    with openexr.File(header, whole) as file:
        file.write(out)
    return out.getvalue()
