"""Read any picture people have as (H, W, 3) uint8 RGB, the right way up, or say why not."""

from __future__ import annotations

import errno
import io
import re
import struct
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar, overload

import cv2
import numpy as np
from PIL import Image

from datool.errors import DatoolError, require
from datool.files.exr import MAGIC as EXR_MAGIC
from datool.files.exr import read_exr

MAX_PIXELS = 200_000_000
EXIF_ORIENTATION = 0x0112
# By EXIF orientation: whether height and width are swapped, and the axes that are reversed then. Source: EXIF 2.32.
TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}
# A marker that ends a JPEG scan: 0xFF followed by anything but a stuffed zero, a restart marker or fill.
JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# What the decoders raise on broken files, found by cutting and flipping bytes of every format.
# fmt: off
BROKEN: tuple[type[Exception], ...] = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error, cv2.error,
)
# fmt: on
# The brands of HEIC and its relatives in the first box of the file; an .mp4 has others.
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"})

Picture = TypeVar("Picture")

_pillow_limit = threading.Lock()


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the picture as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey becomes three equal channels; transparency is dropped (the colour stored below it shows); 16-bit values are
    scaled to 8; CMYK is converted without a profile; of an animation the first frame is read; OpenEXR is taken as
    linear light, cut to [0, 1] and given the sRGB curve. Colour profiles are not applied. JPEG and PNG are
    decoded by cv2 (the faster for JPEG, and the one that checks the sums of PNG), the rest by Pillow.

    Args:
        path: the file; its content decides the format, not its suffix.
        max_pixels: the largest height x width, checked before anything is decoded.
    Raises:
        DatoolError: the file is missing, unreadable, no image, cut short or broken, empty, too large, or needs an
            extra that is not installed.
    """
    path = Path(path)
    with explained(str(path)):
        _check_regular(path)
        with open(path, "rb") as file:
            magic = file.read(4)
            file.seek(0)
            if not magic:
                raise DatoolError(f"cannot read {path}: the file is empty (0 bytes).", "Fetch it again.")
            if magic == EXR_MAGIC:
                return _read_exr(path, max_pixels)
            picture = _read_picture(path, file, max_pixels)
            assert isinstance(picture, np.ndarray), "no other decoder was given"
            return picture


@overload
def decode_image(data: bytes, name: str, decode_jpeg: None = None) -> np.ndarray: ...


@overload
def decode_image(
    data: bytes, name: str, decode_jpeg: Callable[[bytes, int], Picture] | None
) -> np.ndarray | Picture: ...


def decode_image(
    data: bytes, name: str, decode_jpeg: Callable[[bytes, int], Picture] | None = None
) -> np.ndarray | Picture:
    """Return encoded bytes as `read_image` returns a file: (H, W, 3) uint8 RGB, upright.

    Args:
        data: a JPEG, PNG, WebP or what else Pillow reads.
        name: of the picture and its container, for messages.
        decode_jpeg: decodes JPEGs in colour or grey, checked to be whole, in place of OpenCV: from bytes and EXIF
            orientation to the picture, upright, in whatever form it likes.
    Raises:
        DatoolError: no image, cut short, broken or too large.
    """
    with explained(name):
        return _read_picture(Path(name), io.BytesIO(data), MAX_PIXELS, decode_jpeg)


def _check_regular(path: Path) -> None:
    """Refuse what a plain open would wait on for ever, or never end."""
    if not (path.is_file() or path.is_dir()) and path.exists():
        raise DatoolError(
            f"cannot read {path}: it is a device or a pipe, not a file.", "Save the image to a file first."
        )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what opening and decoding raise into a DatoolError that names ``what`` and the next step."""
    try:
        yield
    except FileNotFoundError as error:
        raise DatoolError(f"cannot read {what}: it is not there (vanished, or misspelt).", "Check the name.") from error
    except IsADirectoryError as error:
        raise DatoolError(f"cannot read {what}: it is a folder, expected a file.", "Name a file in it.") from error
    except PermissionError as error:
        raise DatoolError(f"cannot read {what}: no permission.", "Make it readable (chmod +r).") from error
    except MemoryError as error:
        raise DatoolError(f"cannot read {what}: not enough memory for its size.", "Make it smaller.") from error
    except Image.DecompressionBombError as error:
        raise DatoolError(f"cannot read {what}: too large for Pillow ({error}).", "Convert it to PNG.") from error
    except OSError as error:
        if error.errno is not None:
            raise DatoolError(f"cannot read {what}: {error.strerror} ({errno.errorcode.get(error.errno)}).") from error
        raise _broken(what, str(error)) from error
    except BROKEN as error:
        raise _broken(what, str(error)) from error


def _broken(what: str | Path, reason: str) -> DatoolError:
    reason = " ".join(reason.split()) or "no reason given"
    return DatoolError(f"cannot read {what}: cut short or broken ({reason}).", "Fetch or write it again.")


def _read_picture(
    path: Path, file: BinaryIO, max_pixels: int, decode_jpeg: Callable[[bytes, int], Picture] | None = None
) -> np.ndarray | Picture:
    header = _open_header(path, file)
    _check_size(path, header.width, header.height, max_pixels)
    jpeg = header.format in ("JPEG", "MPO")
    if not jpeg and header.format != "PNG":
        return _turned(_decode_with_pillow(path, header), _orientation(header))
    file.seek(0)
    data = file.read()
    if jpeg and not _jpeg_is_whole(data):
        raise _broken(path, "its end is missing")
    # Asking Pillow for the EXIF of a PNG decodes the whole of it, so ask only where there is some.
    orientation = _orientation(header) if jpeg or b"eXIf" in data else 1
    if header.mode == "CMYK":
        return _turned(_decode_with_pillow(path, header), orientation)
    if jpeg and decode_jpeg is not None:
        return decode_jpeg(data, orientation)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise _broken(path, f"the {header.format} decoder gave up")
    return _turned(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), orientation)


def _open_header(path: Path, file: BinaryIO) -> Image.Image:
    """Return Pillow's view of the file, not decoded yet."""
    known = open_lazily(file)
    if known is None and _is_heif(file):
        require("pillow_heif", "heif", f"reading {path}").register_heif_opener()
        known = open_lazily(file)
    if known is None:
        file.seek(0)
        start = file.read(8)
        raise DatoolError(
            f"cannot read {path}: not an image that datool knows (it starts with {start!r}).",
            "Convert it to JPEG or PNG.",
        )
    return known


def open_lazily(file: BinaryIO) -> Image.Image | None:
    """Open with Pillow without decoding; None if no reader of its fits.

    Pillow's own size limit is off meanwhile: it warns and raises below ours.
    """
    file.seek(0)
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        except Image.UnidentifiedImageError:
            return None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _is_heif(file: BinaryIO) -> bool:
    file.seek(4)
    box = file.read(8)
    return box[:4] == b"ftyp" and box[4:] in HEIF_BRANDS


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DatoolError(f"cannot read {path}: zero-sized ({width}x{height} pixels).", "Export it again.")
    if width * height > max_pixels:
        raise DatoolError(
            f"cannot read {path}: {width}x{height} = {width * height / 1e6:.1f} M pixels, more than the "
            f"{max_pixels / 1e6:g} M of --max-pixels.",
            "Raise --max-pixels, or make the image smaller.",
        )


def _orientation(header: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where EXIF is missing or cannot be read, as viewers do."""
    try:
        return header.getexif().get(EXIF_ORIENTATION, 1)
    except BROKEN:
        return 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the (H, W, 3) pixels upright."""
    swapped, reversed_axes = TURNS.get(orientation, (False, ()))
    return np.ascontiguousarray(np.flip(pixels.swapaxes(0, 1) if swapped else pixels, reversed_axes))


def _jpeg_is_whole(data: bytes) -> bool:
    """Tell whether the first picture in ``data`` reaches its end marker.

    Decoders fill a missing rest with grey and do not all say so. Searching for the end marker alone is not enough: a
    thumbnail inside has one too, and data may follow the picture. So the marker segments are walked.
    """
    position = 2
    while position + 4 <= len(data) or data[position : position + 2] == b"\xff\xd9":
        marker = data[position + 1]
        if data[position] != 0xFF:
            return False
        if marker == 0xD9:
            return True
        if marker == 0xFF:
            position += 1
            continue
        if marker != 0x01 and not 0xD0 <= marker <= 0xD7:
            position += int.from_bytes(data[position + 2 : position + 4], "big")
        position += 2
        if marker == 0xDA:
            end = JPEG_SCAN_END.search(data, position)
            if end is None:
                return False
            position = end.start()
    return False


def _decode_with_pillow(path: Path, header: Image.Image) -> np.ndarray:
    """Decode with Pillow to (H, W, 3) uint8."""
    if header.mode == "F":
        raise DatoolError(
            f"cannot read {path}: a picture of floats has no agreed brightness.", "Convert it to 8 or 16 bits, or EXR."
        )
    if header.mode.startswith("I"):
        values = np.asarray(header)
        if values.min() < 0 or values.max() > 65535:
            raise DatoolError(
                f"cannot read {path}: 32-bit values {values.min()}..{values.max()}, expected 8 or 16 bits.",
                "Convert it to 8 or 16 bits.",
            )
        grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(header.convert("RGB"))


def _read_exr(path: Path, max_pixels: int) -> np.ndarray:
    channels, _ = read_exr(path, lambda width, height: _check_size(path, width, height, max_pixels))
    names = ("R", "G", "B") if {"R", "G", "B"} <= channels.keys() else ("Y", "Y", "Y")
    if names[0] not in channels:
        raise DatoolError(
            f"cannot read {path}: EXR channels {', '.join(sorted(channels))}, expected R, G, B or Y.",
            "Export the colour pass.",
        )
    linear = np.clip(np.nan_to_num(np.stack([channels[name] for name in names], axis=2), nan=0.0), 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(curved * 255).astype(np.uint8)
