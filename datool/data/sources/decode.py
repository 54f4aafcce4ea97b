"""The files that hold depth in training sets, as arrays: no unit, no mask, no meaning yet.

Every reader says on failure which file, what was got and what was expected. EXR and HDF5 need an extra.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, require
from datool.files.exr import read_exr
from datool.files.images import explained
from datool.files.stored_map import one_channel

# Two magic letters, width, height, scale (negative = little endian), each followed by white space.
PFM_HEADER = re.compile(rb"(P[Ff])\s+(\d+)\s+(\d+)\s+([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s")


def depth_map(
    values: np.ndarray, ambiguity: Ambiguity, valid: np.ndarray | None = None, sky: np.ndarray | None = None
) -> DepthMap:
    """Return depth with unknown pixels NaN and sky ``+inf``.

    Args:
        values: (H, W) depth, any type of number; not finite or <= 0 is unknown.
        ambiguity: of the values.
        valid: (H, W) bool, where the set's masks trust the value; None = everywhere.
        sky: (H, W) bool, where the sky is; it wins over the rest.
    """
    known = np.isfinite(values) & (values > 0)
    if valid is not None:
        known &= valid
    out = np.where(known, values, np.nan).astype(np.float32)
    if sky is not None:
        out[sky] = np.inf
    return DepthMap(out, Quantity.DEPTH, ambiguity)


def read_png16(path: Path, meaning: str) -> np.ndarray:
    """Return a 16-bit grey PNG as (H, W) uint16.

    Args:
        path: the file.
        meaning: what the values are, for messages: "centimetres (VKITTI 2)".
    Raises:
        DatoolError: missing, cut short, or not 16-bit grey.
    """
    return _read_png(path, np.dtype(np.uint16), f"a 16-bit grey PNG, {meaning}")


def read_png8(path: Path, meaning: str) -> np.ndarray:
    """Return an 8-bit grey PNG as (H, W) uint8; one with three or four channels counts as grey where they are equal.

    Args:
        path: the file.
        meaning: what the values are, for messages.
    Raises:
        DatoolError: missing, cut short, or not 8-bit grey.
    """
    return _read_png(path, np.dtype(np.uint8), f"an 8-bit grey PNG, {meaning}")


def _read_png(path: Path, dtype: np.dtype, expected: str) -> np.ndarray:
    with explained(f"depth {path}"):
        data = path.read_bytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None:
        raise unreadable(path, f"{len(data)} bytes that do not decode (cut short?)", expected)
    pixels = one_channel(pixels)
    if pixels.dtype != dtype or pixels.ndim != 2:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        raise unreadable(path, f"{pixels.dtype.itemsize * 8} bits x {channels} channels", expected)
    return pixels


def read_pfm(path: Path) -> np.ndarray:
    """Return a one-channel PFM as (H, W) float32, top row first; the size of its scale is not applied.

    Raises:
        DatoolError: missing, cut short, or not a PFM of one channel.

    Source: PFM as written by MVSNet and Middlebury: rows from bottom to top, negative scale = little endian.
    """
    with explained(f"depth {path}"):
        data = path.read_bytes()
    header = PFM_HEADER.match(data)
    if header is None or header[1] != b"Pf":
        raise unreadable(path, f"a file that starts with {data[:12]!r}", "a PFM of one channel ('Pf')")
    width, height = int(header[2]), int(header[3])
    body = len(data) - header.end()
    if body != width * height * 4 or body == 0:
        raise unreadable(path, f"{body} bytes of pixels", f"{width * height * 4} for {width}x{height} float32")
    order = "<" if float(header[4]) < 0 else ">"
    values = np.frombuffer(data, f"{order}f4", offset=header.end()).reshape(height, width)
    return np.ascontiguousarray(values[::-1], np.float32)


def read_hdf5(path: Path, key: str) -> np.ndarray:
    """Return array ``key`` of an HDF5 file as (H, W) float32.

    Raises:
        DatoolError: h5py is not installed, or the file is missing, cut short, without ``key`` or of another shape.
    """
    h5py = require("h5py", "data", f"reading depth {path}")
    expected = f"an HDF5 file with a 2-D array '{key}'"
    with explained(f"depth {path}"), _described(path, expected), h5py.File(path, "r") as file:
        if key not in file or not isinstance(file[key], h5py.Dataset):
            raise unreadable(path, f"only {', '.join(file) or 'nothing'}", expected)
        values = file[key][()]
    return _two_dimensional(path, values, expected)


def read_npy(path: Path) -> np.ndarray:
    """Return a .npy file of numbers of any type as (H, W) float32.

    Raises:
        DatoolError: missing, cut short, or of another shape.
    """
    expected = "a .npy file of a 2-D array"
    with explained(f"depth {path}"), _described(path, expected):
        values = np.load(path, allow_pickle=False)
    return _two_dimensional(path, values, expected)


def read_exr_channel(path: Path, preferred: str) -> np.ndarray:
    """Return the only channel of an EXR file, or ``preferred`` where it has several, as (H, W) float32.

    Raises:
        DatoolError: OpenEXR is not installed, or the file is missing, cut short or without that channel.
    """
    expected = f"an EXR file with one channel, or with '{preferred}'"
    with explained(f"depth {path}"), _described(path, expected):
        channels, _ = read_exr(path)
    if len(channels) != 1 and preferred not in channels:
        raise unreadable(path, f"channels {', '.join(sorted(channels)) or 'none'}", expected)
    values = channels[preferred] if preferred in channels else next(iter(channels.values()))
    return _two_dimensional(path, values, expected)


def unreadable(path: Path, got: str, expected: str) -> DatoolError:
    """Return the error of a depth file that is not what it should be."""
    return DatoolError(f"cannot read depth {path}: got {got}, expected {expected}.", "Fetch or unpack it again.")


@contextmanager
def _described(path: Path, expected: str) -> Iterator[None]:
    """Turn what a library raises on a broken file into an error that says what was expected."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise unreadable(path, _reason(path, error), expected) from error
    except (EOFError, KeyError, RuntimeError, ValueError) as error:
        raise unreadable(path, _reason(path, error), expected) from error


def _reason(path: Path, error: Exception) -> str:
    return f"{path.stat().st_size} bytes that do not decode ({' '.join(str(error).split()) or 'no reason given'})"


def _two_dimensional(path: Path, values: object, expected: str) -> np.ndarray:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiu":
        got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise unreadable(path, got, expected)
    return np.ascontiguousarray(values, np.float32)
