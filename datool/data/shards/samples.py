"""One sample as the files that a tar holds of it, and back."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from datool.data.sample import Sample
from datool.data.shards.tars import read_member
from datool.depth import Ambiguity, Camera, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.files import MAP_FORMATS, decode_image, read_image, read_map
from datool.files.images import explained

# Pictures that webdataset decodes. An image's ending is one of these and nothing more: "0001.depth.png" is none.
MAGIC = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png", b"RIFF": "webp"}
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
DEPTH = "depth"
JSON = "json"
JPEG_QUALITY = 95
# Where half floats have all their bits; a label beyond is stored times a power of two.
HALF_RANGE = (2.0**-4, 2.0**15)

# The files of one sample: their endings, and their content.
Members = Mapping[str, bytes]


def encode_sample(sample: Sample, image: str = "png", depth: str = "exr", stored: bytes | None = None) -> Members:
    """Return the members of a sample by their endings: image, depth if it has one, json.

    Args:
        sample: what to store.
        image: ``png`` (exact) or ``jpeg``.
        depth: a name of `datool.files.MAP_FORMATS` that can be read back.
        stored: bytes of a JPEG, PNG or WebP that decodes to the sample's image, kept as they are in place of ``image``.
    Raises:
        DatoolError: a value that the format cannot hold, or a library is missing.
    """
    meta: dict[str, Any] = {"id": sample.id, "pseudo": sample.pseudo}
    members: dict[str, bytes] = {}
    if stored is not None:
        ending = image_ending(stored)
        assert ending is not None, "only pictures that webdataset knows are kept"
        members[ending] = stored
    else:
        ending = lookup({"png": "png", "jpeg": "jpg"}, image, "image format")
        members[ending] = encode_image(sample.image, ending)
    if sample.depth is not None:
        members |= encode_map(sample.depth, depth)
        meta |= {"quantity": sample.depth.quantity.value, "ambiguity": sample.depth.ambiguity.value}
    if sample.camera is not None:
        meta["camera"] = asdict(sample.camera)
    members[JSON] = _json(meta)
    return members


def encode_label(
    id: str, depth: DepthMap, format: str, meta: Mapping[str, Any], picture: Mapping[str, Any] | bytes
) -> Members:
    """Return the members of a pseudo label: its picture if it is kept, the map, json.

    Args:
        id: of the picture.
        depth: the label; in ``exr-half`` times the power of two that `fit_format` finds.
        format: a name of `datool.files.MAP_FORMATS` that can be read back.
        meta: what the json says besides.
        picture: bytes of a JPEG, PNG or WebP, or where the picture is: ``input`` (number of the root), ``path`` below
            it, and ``offset`` of a tar's member.
    Raises:
        DatoolError: a value that the format cannot hold, or a library is missing.
    """
    members: dict[str, bytes] = {}
    own: dict[str, Any] = {
        "id": id,
        "pseudo": True,
        "quantity": depth.quantity.value,
        "ambiguity": depth.ambiguity.value,
    }
    if isinstance(picture, bytes):
        ending = image_ending(picture)
        assert ending is not None, "only pictures that webdataset knows are kept"
        members[ending] = picture
    else:
        own["image"] = dict(picture)
    scaled, scale = fit_format(depth, format)
    if scale != 1:
        own["scale"] = scale
    members |= encode_map(scaled, format)
    members[JSON] = _json({**meta, **own})
    return members


def fit_format(depth: DepthMap, format: str) -> tuple[DepthMap, float]:
    """Return the map as a format holds it without loss of range, and the power of two that it is to be multiplied by.

    A teacher's disparity has any scale (the bundled ``tiny`` gives up to 50,000), and half floats end at 65,504 and
    lose bits below 6e-5; a power of two loses none. All other formats hold every map as it is.
    """
    top = float(np.max(np.abs(depth.values), initial=0.0, where=np.isfinite(depth.values)))
    if format != "exr-half" or top == 0 or HALF_RANGE[0] <= top < HALF_RANGE[1]:
        return depth, 1.0
    scale = 2.0 ** (math.frexp(top)[1] - 1)
    return DepthMap(depth.values / np.float32(scale), depth.quantity, depth.ambiguity), scale


def encode_map(depth: DepthMap, format: str) -> Members:
    """Return a map as the one member that holds it.

    Raises:
        DatoolError: a picture's format, a value that the format cannot hold, or a library is missing.
    """
    form = lookup(MAP_FORMATS, format, "format")
    if form.picture:
        raise DatoolError(f"'{format}' is a picture, which holds no values.", "Choose exr, npz or png16.")
    return {DEPTH + form.suffix: form.encode(depth, None, {})[0]}


def encode_image(pixels: np.ndarray, ending: str) -> bytes:
    """Return (H, W, 3) uint8 RGB as a file of this ending, jpg or png.

    Raises:
        DatoolError: it is too large for the format.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if ending == "jpg" else []
    written, encoded = cv2.imencode(f".{ending}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)
    if not written:
        raise DatoolError(f"cannot encode {pixels.shape} as {ending}.", "Choose another image format.")
    return encoded.tobytes()


def decode_sample(key: str, members: Members, path: Path, roots: Sequence[Path] = ()) -> Sample:
    """Return the sample in ``members``.

    Args:
        key: what their names begin with.
        members: content by ending.
        path: the tar, for messages.
        roots: where pictures are that the tar does not hold.
    Raises:
        DatoolError: one of them is broken, or the picture is not where it was.
    """
    where = f"{path}, sample {key}"
    with explained(f"{key}.{JSON} in {path}"):
        meta = json.loads(members.get(JSON, b"{}"))
        if not isinstance(meta, dict):
            raise ValueError(f"{type(meta).__name__}, expected an object")
        camera = Camera(**meta["camera"]) if isinstance(meta.get("camera"), dict) else None
        depth = next((ending for ending in members if ending.startswith(f"{DEPTH}.")), None)
        quantity = Quantity(meta["quantity"]) if depth and "quantity" in meta else None
        ambiguity = Ambiguity(meta["ambiguity"]) if depth and "ambiguity" in meta else None
        scale = float(meta.get("scale", 1)) if depth else 1.0
    image = next((ending for ending in IMAGE_ENDINGS if ending in members), None)
    if image:
        pixels = decode_image(members[image], f"{key}.{image} in {path}")
    else:
        pixels = _read_referred(meta.get("image"), roots, where)
    id = meta.get("id")
    try:
        return Sample(
            id if isinstance(id, str) else key,
            pixels,
            None if depth is None else _decode_map(members[depth], f"{key}.{depth}", path, quantity, ambiguity, scale),
            camera,
            meta.get("pseudo") is True,
        )
    except DatoolError as error:
        raise error.reworded(f"{where}: {error.problem}") from error


def image_ending(data: bytes) -> str | None:
    """Return jpg, png or webp by how a file begins; None for all that webdataset does not decode."""
    ending = next((ending for magic, ending in MAGIC.items() if data.startswith(magic)), None)
    return None if ending == "webp" and data[8:12] != b"WEBP" else ending


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode("ascii")


def _read_referred(place: object, roots: Sequence[Path], where: str) -> np.ndarray:
    """Return the picture that stayed where it was: below a root, in a file or in a tar."""
    if not isinstance(place, dict):
        raise DatoolError(f"{where}: neither a picture nor a word on where it is.", "Make the labels anew.")
    with explained(f"the place of the picture of {where}"):
        number, name, offset = place["input"], place["path"], place.get("offset")
        path = roots[number] / name
    if offset is None:
        return read_image(path)
    member, data = read_member(path, offset)
    return decode_image(data, f"{member} in {path}")


def _decode_map(
    data: bytes, name: str, path: Path, quantity: Quantity | None, ambiguity: Ambiguity | None, scale: float
) -> DepthMap:
    # The readers of maps take files, since one of their libraries does.
    with tempfile.TemporaryDirectory(prefix="datool-") as folder:
        file = Path(folder) / f"map{PurePosixPath(name).suffix}"
        file.write_bytes(data)
        try:
            depth = read_map(file, quantity, ambiguity)
        except DatoolError as error:
            raise error.reworded(error.problem.replace(str(file), f"{name} in {path}")) from error
    return depth if scale == 1 else DepthMap(depth.values * np.float32(scale), depth.quantity, depth.ambiguity)
