"""What a teacher labels: photos of folders, manifests and tars, cut into units that do not depend on who labels them.

A tar is one unit; a folder and a manifest are cut into runs of a fixed number of photos. A unit is one line of JSON:

    {"input": 0, "tar": "00000.tar", "bytes": 31457280}
    {"input": 1, "manifest": "<sha256>", "first": 2000, "rows": 1000}
    {"input": 2, "files": ["a/0.jpg", "a/1.jpg", ...]}

Names are relative to the input, so that the same photos give the same lines wherever they lie.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from datool.data.sample import Sample
from datool.data.shards import image_ending
from datool.data.shards.samples import encode_image
from datool.data.shards.tars import COMPRESSED
from datool.data.sources import image_folders, image_shards, image_tars, manifest
from datool.data.sources.base import Row
from datool.data.sources.manifest import Manifest
from datool.data.sources.table import SOURCES, find_source
from datool.errors import DatoolError
from datool.files import decode_image, read_image, walk_images
from datool.files.images import explained
from datool.labelling.tar_stream import Address, is_address, stream_tar

Picture = TypeVar("Picture")

HASHED_BYTES = 1 << 24
EXR_SUFFIX = ".exr"


@dataclass(frozen=True)
class Input:
    """One thing that was named to be labelled.

    Args:
        given: as it was named.
        kind: key of `KINDS`.
        root: what the names of its units are relative to; empty for addresses.
        tars: names of its tars, if it is some.
    """

    given: str
    kind: str
    root: str
    tars: tuple[str, ...] = ()


@dataclass
class Photo:
    """One photo of a unit.

    Args:
        id: name within all inputs.
        place: where it is, for readers of the labels: ``input``, ``path``, ``offset`` of a tar's member.
        path: its file; None for a tar's member.
        data: its bytes, for a tar's member.
        error: why there is none.
        kept: a JPEG, PNG or WebP of it, once it was read, if it is to be kept.
    """

    id: str
    place: Mapping[str, Any]
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    error: DatoolError | None = None
    kept: bytes | None = field(default=None, repr=False)

    def read(
        self, keep: bool = False, decode_jpeg: Callable[[bytes, int], Picture] | None = None
    ) -> np.ndarray | Picture:
        """Return (H, W, 3) uint8 RGB; with ``keep`` fill ``kept``, by the file's own bytes where they are such.

        Args:
            keep: whether to.
            decode_jpeg: as for `datool.files.decode_image`.
        Raises:
            DatoolError: unreadable.
        """
        if self.error is not None:
            raise self.error
        data, name = self.data, self.id
        if data is None:
            assert self.path is not None, "a photo is a file or a member"
            name = str(self.path)
            if self.path.suffix.lower() != EXR_SUFFIX and (keep or decode_jpeg):
                with explained(name):
                    data = self.path.read_bytes()
        if data is None:
            assert self.path is not None
            pixels: np.ndarray | Picture = read_image(self.path)
        else:
            pixels = decode_image(data, name, decode_jpeg)
        if keep:
            self.kept = data if data is not None and image_ending(data) else _as_png(pixels)
        return pixels


def _as_png(pixels: object) -> bytes:
    assert isinstance(pixels, np.ndarray), "a JPEG is kept as it is"
    return encode_image(pixels, "png")


def find_inputs(given: Sequence[str], roots: Mapping[str, Path], out: Path) -> tuple[Input, ...]:
    """Return what names, paths, patterns and addresses mean.

    Args:
        given: folders, manifests, tars, patterns of tars with braces, ``https://`` and ``pipe:`` addresses of tars
            (with braces too), or names of unlabelled data sets.
        roots: folder of a data set by its name.
        out: folder of the labels, left out where it lies in an input.
    Raises:
        DatoolError: nothing there, nothing given, or a data set that is neither images nor tars.
    """
    if not given:
        raise DatoolError("nothing to label.", "Name a folder, a manifest or shards.")
    return tuple(_find_input(name, roots, out) for name in given)


def list_units(inputs: Sequence[Input], rows_per_unit: int, out: Path) -> Iterator[bytes]:
    """Yield all units, a line each.

    Raises:
        DatoolError: an input without photos.
    """
    for number, found in enumerate(inputs):
        count = 0
        for unit in KINDS[found.kind](found, rows_per_unit, out):
            yield json.dumps({"input": number, **unit}, sort_keys=True).encode("ascii") + b"\n"
            count += 1
        if not count:
            raise DatoolError(f"nothing to label: no image in {found.given}.", "Name a folder, a manifest or shards.")


def read_unit(unit: Mapping[str, Any], inputs: Sequence[Input]) -> Iterator[Photo]:
    """Yield the photos of a unit, in its order; those of a tar as they stream by.

    A tar that is broken or refused ends in a photo that tells why.

    Args:
        unit: one line of `list_units`, decoded.
        inputs: as `find_inputs` gave them.
    Raises:
        DatoolError: the input changed since it was listed, or cannot be reached.
    """
    number = unit["input"]
    found = inputs[number]
    if "tar" in unit:
        return _photos_of_tar(unit, found)
    if "manifest" in unit:
        return _photos_of_manifest(unit, found)
    root = Path(found.root)
    return (Photo(name, {"input": number, "path": name}, root / name) for name in unit["files"])


def has_own_files(found: Input) -> bool:
    """Tell whether each photo is a file of its own, not a part of a tar."""
    return found.kind in ("folder", "manifest")


def can_refer(found: Input) -> bool:
    """Tell whether labels may name a photo's place in place of its bytes: a file, or a seek into a plain local tar."""
    return not any(is_address(name) or name.endswith(COMPRESSED) for name in found.tars)


# From what was named to inputs


def _find_input(given: str, roots: Mapping[str, Path], out: Path) -> Input:
    if is_address(given):
        return Input(given, "shards", "", tuple(image_shards.expand(given)))
    if given.endswith(image_tars.SUFFIXES) and ("{" in given or not Path(given).is_dir()):
        return _tars(given, "shards", given)
    name, root = find_source(given, roots)
    kind = READERS.get(SOURCES[name].read, "shards" if name == "packed" else "")
    if not kind:
        raise DatoolError(
            f"'{name}' is neither images in folders nor in tars.",
            f"Pack it first: datool data pack {name} --out shards; then label shards.",
        )
    if kind == "manifest":
        return Input(given, kind, os.path.abspath(root))
    if kind == "folder":
        if os.path.realpath(root) == os.path.realpath(out):
            raise DatoolError(f"--out {out} is itself an input.", "Give a folder that holds no photos.")
        return Input(given, kind, os.path.abspath(root))
    if "{" in str(root):
        return _tars(given, kind, str(root))
    inside = os.path.realpath(out)
    paths = [path for path in image_tars.tars(root) if Path(inside) not in Path(os.path.realpath(path)).parents]
    return Input(given, kind, os.path.abspath(root), tuple(path.relative_to(root).as_posix() for path in paths))


def _tars(given: str, kind: str, pattern: str) -> Input:
    paths = image_shards.shards(pattern, "tars")
    root = os.path.dirname(os.path.abspath(pattern.split("{")[0] + "x"))
    return Input(given, kind, root, tuple(Path(os.path.abspath(path)).relative_to(root).as_posix() for path in paths))


# From inputs to units


def _units_of_tars(found: Input, rows: int, out: Path) -> Iterator[dict[str, Any]]:
    for name in found.tars:
        yield {"tar": name, "bytes": None if is_address(name) else _num_bytes(Path(found.root) / name)}


def _units_of_manifest(found: Input, rows: int, out: Path) -> Iterator[dict[str, Any]]:
    opened = _manifest(found.root)
    sha256 = hashlib.sha256()
    with explained(str(opened.path)), open(opened.path, "rb") as file:
        while block := file.read(HASHED_BYTES):
            sha256.update(block)
    for first in range(0, len(opened), rows):
        yield {"manifest": sha256.hexdigest(), "first": first, "rows": min(rows, len(opened) - first)}


def _units_of_folder(found: Input, rows: int, out: Path) -> Iterator[dict[str, Any]]:
    names = (file.relative.as_posix() for file in walk_images(Path(found.root), out))
    while files := list(islice(names, rows)):
        yield {"files": files}


def _num_bytes(path: Path) -> int:
    with explained(str(path)):
        return path.stat().st_size


@lru_cache(maxsize=4)
def _manifest(root: str) -> Manifest:
    return Manifest(Path(root))


# From units to photos


def _photos_of_tar(unit: Mapping[str, Any], found: Input) -> Iterator[Photo]:
    name = unit["tar"]
    address: Address = name if is_address(name) else Path(found.root) / name
    if isinstance(address, Path) and (now := _num_bytes(address)) != unit["bytes"]:
        raise DatoolError(
            f"{address} is {now} bytes, {unit['bytes']} when it was listed: the inputs changed since.",
            "Give another --out, to begin anew.",
        )
    number, last = unit["input"], None
    for member in stream_tar(address, _is_wanted if found.kind == "shards" else image_tars.is_image):
        key = _key(member.name) if found.kind == "shards" else member.name
        if isinstance(member.data, DatoolError):
            yield Photo(name, {"input": number, "path": name}, error=member.data)
        elif key != last:  # a sample's further pictures are not its photo
            yield Photo(f"{name}/{key}", {"input": number, "path": name, "offset": member.offset}, data=member.data)
        last = key
    if last is None:
        error = DatoolError(f"cannot read {address}: no picture in it.", "Are its photos elsewhere?")
        yield Photo(name, {"input": number, "path": name}, error=error)


def _is_wanted(name: str) -> bool:
    stem, _, ending = name.rpartition("/")[2].partition(".")
    return bool(stem) and ending.lower() in image_shards.ENDINGS


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _photos_of_manifest(unit: Mapping[str, Any], found: Input) -> Iterator[Photo]:
    opened = _manifest(found.root)
    folder = opened.path.parent
    for row in range(unit["first"], unit["first"] + unit["rows"]):
        entry = opened[row]
        image = entry.image
        name = image.relative_to(folder).as_posix() if image.is_relative_to(folder) else str(image)
        yield Photo(entry.id, {"input": unit["input"], "path": name}, image)


READERS: dict[Callable[[Row], Sample], str] = {
    image_folders.read: "folder",
    image_tars.read: "tars",
    image_shards.read: "shards",
    manifest.read: "manifest",
}
# "tars" takes every picture of a tar, "shards" one of each sample.
KINDS = {
    "folder": _units_of_folder,
    "manifest": _units_of_manifest,
    "tars": _units_of_tars,
    "shards": _units_of_tars,
}
