"""Write a DepthMap in any of the formats of ``MAP_FORMATS``, and read it back.

Every format but the pictures, npy and PFM carries one JSON text under the name ``datool``: quantity, ambiguity,
whatever decodes it (scale and offset of a 16-bit PNG), and the caller's fields (model, hash, size, version).
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from datool.colour import side_by_side, to_picture
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.files.atomic import write_bytes
from datool.files.exr import encode_exr, read_exr
from datool.files.images import explained, open_lazily

KEY = "datool"
FORMAT_VERSION = "1"
TIFF_DESCRIPTION = 270
# Codes of a 16-bit PNG; values take the rest, 1 to 65534.
PNG_UNKNOWN, PNG_SKY, PNG_FIRST, PNG_LAST = 0, 65535, 1, 65534

Encoder = Callable[[DepthMap, "np.ndarray | None", Mapping[str, str]], "tuple[bytes, dict[str, float]]"]


@dataclass(frozen=True)
class MapFormat:
    """One way to write a map.

    Args:
        suffix: what follows the input's name; it begins with a dot.
        encode: (map, (H, W, 3) uint8 RGB image or None, the caller's fields) -> the file's bytes, and the numbers that
            decode it (16-bit PNG: scale and offset).
        lossless: reading gives back every bit.
        picture: for the eye only; ``read_map`` refuses it.
    """

    suffix: str
    encode: Encoder
    lossless: bool = False
    picture: bool = False


def write_map(
    path: Path, depth: DepthMap, format: str, image: np.ndarray | None = None, meta: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Write ``depth`` to ``path``, whole or not at all.

    Args:
        path: the file; its name should end in the format's suffix, by which ``read_map`` knows it.
        depth: the map.
        format: a name of ``MAP_FORMATS``.
        image: (H, W, 3) uint8 RGB, the map's photo; only ``side-by-side`` needs it.
        meta: fields to keep in the file, such as model, hash, size, version.
    Returns:
        the numbers that decode the file: ``scale`` and ``offset`` for png16, nothing for the others.
    Raises:
        DatoolError: unknown format, a value that the format cannot hold, or a file that cannot be written.
    """
    data, numbers = lookup(MAP_FORMATS, format, "format").encode(depth, image, meta or {})
    write_bytes(path, data)
    return numbers


def read_map(path: str | Path, quantity: Quantity | None = None, ambiguity: Ambiguity | None = None) -> DepthMap:
    """Return the map in a file that ``write_map`` wrote (not a picture), or in another program's float file.

    Args:
        path: a .png, .npy, .npz, .exr, .tif(f) or .pfm file.
        quantity, ambiguity: what the values mean; needed where the file does not say so (npy, PFM and files of other
            programs), and checked against the file where it does.
    Raises:
        DatoolError: the file is missing or broken, is a picture, or what it means is unknown or contradicted.
    """
    path = Path(path)
    values, fields = _read(path)
    meant = _meaning(path, "quantity", fields.get("quantity"), quantity)
    known = _meaning(path, "ambiguity", fields.get("ambiguity"), ambiguity)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise DatoolError(f"cannot read map {path}: got {values.dtype} {values.shape}, expected (H, W) floats.")
    try:
        return DepthMap(np.ascontiguousarray(values, np.float32), Quantity(meant), Ambiguity(known))
    except DatoolError as error:
        raise error.reworded(f"cannot read map {path}: {error.problem}") from error


def read_meta(path: str | Path) -> dict[str, str]:
    """Return the text fields of a file that ``write_map`` wrote, pictures included; empty where it has none.

    Raises:
        DatoolError: the file is missing or broken.
    """
    path = Path(path)
    if path.suffix.lower() == ".png":
        with explained(f"map {path}"), open(path, "rb") as file:  # its beginning is enough
            return _png_fields(file)
    return _read(path)[1]


def _meaning(path: Path, name: str, found: str | None, given: Quantity | Ambiguity | None) -> str:
    """Return the quantity or the ambiguity: what the file says, or what the caller gave, which must not differ."""
    if given is None:
        if found is None:
            raise DatoolError(
                f"cannot read map {path}: the file does not say its {name}.",
                "Give it: read_map(path, quantity=Quantity..., ambiguity=Ambiguity...).",
            )
        return found
    if found not in (None, given.value):
        raise DatoolError(f"cannot read map {path}: its {name} is '{found}', expected '{given.value}'.")
    return given.value


def _read(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DatoolError(f"cannot read map {path}: got '{path.suffix}', expected {', '.join(READERS)}.", "Convert it.")
    with explained(f"map {path}"):
        return reader(path)


# Metadata


def _text(depth: DepthMap, meta: Mapping[str, str], **own: str | float) -> str:
    """Return the JSON kept in the file, in ASCII so that every format can hold it."""
    own = {
        "format_version": FORMAT_VERSION,
        "quantity": depth.quantity.value,
        "ambiguity": depth.ambiguity.value,
        **own,
    }
    clash = sorted(own.keys() & meta.keys())
    if clash:
        raise DatoolError(f"the names {', '.join(clash)} belong to the format and cannot be given as fields.")
    return json.dumps({**own, **meta})


def _fields(text: object) -> dict[str, str]:
    if text is None:
        return {}
    fields = json.loads(str(text))
    if not isinstance(fields, dict):
        raise ValueError(f"its '{KEY}' text is no JSON object")
    return {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}


# 16-bit PNG and pictures


def _encode_png16(depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]) -> tuple[bytes, dict[str, float]]:
    return encode_png16(depth, meta)


def encode_png16(
    depth: DepthMap, meta: Mapping[str, str], span: tuple[float, float] | None = None
) -> tuple[bytes, dict[str, float]]:
    """Return a 16-bit grey PNG: value = pixel * scale + offset, pixel 0 unknown, pixel 65535 sky.

    The finite values of this map fill 1 to 65534, so that small disparities keep their detail. ``minimum`` and
    ``maximum`` are kept too, so that the ends are exact (the nearest depth must not be rounded to 0). A map of one
    value has scale 0.

    Args:
        depth: the map.
        meta: fields to keep in the file.
        span: the values of pixels 1 and 65534, such as those of a whole film, for a map that lies between them; one
            that does not takes its own.
    Returns:
        the file, and its scale and offset.
    """
    values = depth.values
    finite = np.isfinite(values)
    low = float(np.min(values, where=finite, initial=np.inf))
    high = float(np.max(values, where=finite, initial=-np.inf))
    if not finite.any():
        low = high = 0.0
    if span is not None and span[0] <= low <= high <= span[1]:
        low, high = span
    scale = (high - low) / (PNG_LAST - PNG_FIRST)
    offset = low - scale * PNG_FIRST
    steps = np.zeros(values.shape)
    if scale > 0:
        np.subtract(values, low, out=steps, where=finite)
        steps /= scale
        np.rint(steps, out=steps)
    pixels = steps.astype(np.uint16)
    pixels += PNG_FIRST
    pixels[~finite] = PNG_UNKNOWN
    pixels[np.isposinf(values)] = PNG_SKY
    numbers = {"scale": scale, "offset": offset}
    return _png(pixels, _text(depth, meta, **numbers, minimum=low, maximum=high)), numbers


def _read_png16(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    data = path.read_bytes()
    fields = _png_fields(io.BytesIO(data))
    if "scale" not in fields:
        got = "a picture of a map" if "picture" in fields else "a PNG without datool's text"
        raise DatoolError(
            f"cannot read map {path}: got {got}, expected a 16-bit PNG of datool.", "Read the png16, exr or npz output."
        )
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("the PNG decoder gave up")
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise ValueError(f"{pixels.dtype} {pixels.shape}, expected 16-bit grey")
    decoded = np.arange(65536) * float(fields["scale"]) + float(fields["offset"])
    decoded = decoded.astype(np.float32)
    decoded[PNG_FIRST], decoded[PNG_LAST] = float(fields["minimum"]), float(fields["maximum"])
    decoded[PNG_UNKNOWN], decoded[PNG_SKY] = np.nan, np.inf
    return decoded[pixels], fields


def _picture(cmap: str) -> Encoder:
    def encode(depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]) -> tuple[bytes, dict[str, float]]:
        return _picture_png(to_picture(depth, cmap), depth, meta, cmap), {}

    return encode


def _encode_side_by_side(
    depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]
) -> tuple[bytes, dict[str, float]]:
    if image is None:
        raise DatoolError("side-by-side needs the photo, got none.", "Give write_map the image.")
    return _picture_png(side_by_side(image, to_picture(depth)), depth, meta, "side-by-side"), {}


def _picture_png(rgb: np.ndarray, depth: DepthMap, meta: Mapping[str, str], picture: str) -> bytes:
    # A grey picture is written with one channel: half the bytes, and what programs that take depth expect.
    pixels = rgb[:, :, 0] if picture == "grey" else cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _png(pixels, _text(depth, meta, picture=picture))


def _png(pixels: np.ndarray, text: str) -> bytes:
    """Return a PNG with one ``tEXt`` chunk after its header.

    cv2 writes the pixels since it is four times faster than Pillow, and its compression level is left alone since
    setting any makes it slower; it cannot write text, so the chunk is put in here. Source: PNG 1.2, 11.3.4.3.
    """
    written, encoded = cv2.imencode(".png", pixels)
    if not written:
        raise DatoolError(f"cannot encode {pixels.dtype} {pixels.shape} as PNG.")
    png = encoded.tobytes()
    body = b"tEXt" + KEY.encode() + b"\0" + text.encode("ascii")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    after_header = 8 + 25
    return png[:after_header] + chunk + png[after_header:]


def _png_fields(file: BinaryIO) -> dict[str, str]:
    header = open_lazily(file)
    if header is None:
        raise ValueError("not a PNG")
    return _fields(header.info.get(KEY))


# Float formats


def _encode_npy(depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]) -> tuple[bytes, dict[str, float]]:
    out = io.BytesIO()
    np.save(out, depth.values)
    return out.getvalue(), {}


def _read_npy(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    return np.load(path, allow_pickle=False), {}


def _encode_npz(depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]) -> tuple[bytes, dict[str, float]]:
    out = io.BytesIO()
    np.savez_compressed(out, values=depth.values, datool=np.array(_text(depth, meta)))
    return out.getvalue(), {}


def _read_npz(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    with np.load(path, allow_pickle=False) as arrays:
        names = [name for name in arrays.files if name != KEY]
        if "values" not in names and len(names) != 1:
            raise DatoolError(f"cannot read map {path}: arrays {', '.join(names) or 'none'}, expected 'values' or one.")
        fields = _fields(str(arrays[KEY]) if KEY in arrays.files else None)
        return arrays["values" if "values" in names else names[0]], fields


def _encode_tiff(depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]) -> tuple[bytes, dict[str, float]]:
    out = io.BytesIO()
    Image.fromarray(depth.values).save(out, "TIFF", description=_text(depth, meta))
    return out.getvalue(), {}


def _read_tiff(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    with open(path, "rb") as file:
        image = open_lazily(file)
        if not isinstance(image, TiffImageFile):
            raise ValueError("not a TIFF")
        description = str(image.tag_v2.get(TIFF_DESCRIPTION, ""))
        own = description.startswith("{") and '"quantity"' in description
        return np.asarray(image), _fields(description if own else None)


def _encode_pfm(depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]) -> tuple[bytes, dict[str, float]]:
    written, encoded = cv2.imencode(".pfm", depth.values)
    assert written, "cv2 writes every float32 map as PFM"
    return encoded.tobytes(), {}


def _read_pfm(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    values = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("the PFM decoder gave up")
    return values, {}


def _encode_exr(depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]) -> tuple[bytes, dict[str, float]]:
    return _exr(depth, depth.values, meta), {}


def _encode_exr_half(
    depth: DepthMap, image: np.ndarray | None, meta: Mapping[str, str]
) -> tuple[bytes, dict[str, float]]:
    with np.errstate(over="ignore", under="ignore"):
        half = depth.values.astype(np.float16)
    lost = np.isinf(half) & np.isfinite(depth.values)
    if depth.quantity is Quantity.DEPTH and depth.ambiguity is not Ambiguity.SCALE_AND_SHIFT:
        lost |= half == 0
    if lost.any():
        raise DatoolError(
            f"half floats cannot hold {depth.values[lost][0]:g}: they reach from 6e-8 to 65504.",
            "Choose exr, tiff or npz.",
        )
    return _exr(depth, half, meta), {}


def _exr(depth: DepthMap, values: np.ndarray, meta: Mapping[str, str]) -> bytes:
    return encode_exr({EXR_CHANNELS[depth.quantity]: values}, {KEY: _text(depth, meta)})


def _read_exr(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    channels, header = read_exr(path)
    named = [name for name in channels if name.split(".")[-1] in EXR_CHANNELS.values()]
    # One channel is the map whatever its name: Record3D writes R, Blender's File Output V and Depth.V.
    found = list(channels) if len(channels) == 1 else named
    if len(found) != 1 and {"R", "G", "B"} <= channels.keys():
        red, *others = (channels[name] for name in "RGB")
        found = ["R"] if all(np.array_equal(red, other, equal_nan=True) for other in others) else found
    if len(found) != 1:
        raise DatoolError(
            f"cannot read map {path}: EXR channels {', '.join(channels)}, expected one, one Z or Y among them, or "
            "equal R, G and B."
        )
    return channels[found[0]], _fields(header.get(KEY))


# "Z" is OpenEXR's name for depth; disparity is not depth, so it takes the name of a single grey channel.
EXR_CHANNELS = {Quantity.DEPTH: "Z", Quantity.DISPARITY: "Y"}

READERS: dict[str, Callable[[Path], tuple[np.ndarray, dict[str, str]]]] = {
    ".png": _read_png16,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".exr": _read_exr,
    ".tiff": _read_tiff,
    ".tif": _read_tiff,
    ".pfm": _read_pfm,
}

# Formats that hold values, the most exact first.
EXACT_FIRST = ("exr", "npz", "npy", "tiff", "pfm", "png16", "exr-half")
# A suffix is a file type, or one word and a file type: names.py relies on it.
MAP_FORMATS: dict[str, MapFormat] = {
    "png16": MapFormat(".png", _encode_png16),
    "npy": MapFormat(".npy", _encode_npy, lossless=True),
    "npz": MapFormat(".npz", _encode_npz, lossless=True),
    "exr": MapFormat(".exr", _encode_exr, lossless=True),
    "exr-half": MapFormat(".half.exr", _encode_exr_half),
    "tiff": MapFormat(".tiff", _encode_tiff, lossless=True),
    "pfm": MapFormat(".pfm", _encode_pfm, lossless=True),
    "color": MapFormat(".color.png", _picture("Spectral_r"), picture=True),
    "color-inferno": MapFormat(".inferno.png", _picture("inferno"), picture=True),
    "color-turbo": MapFormat(".turbo.png", _picture("turbo"), picture=True),
    "grey": MapFormat(".grey.png", _picture("grey"), picture=True),
    "side-by-side": MapFormat(".side.png", _encode_side_by_side, picture=True),
}
