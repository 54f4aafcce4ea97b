"""Sets of shards, and their tars, to read."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np

from datool.data.sample import Sample
from datool.data.shards.samples import DEPTH, IMAGE_ENDINGS, JSON, decode_sample
from datool.data.shards.tars import refuse_unsafe, refused
from datool.errors import DatoolError
from datool.files.images import explained

LAYOUT_VERSION = 1
INDEX = "index.json"
# No picture is larger; what claims to be would fill the memory.
MAX_MEMBER_BYTES = 1 << 30


@dataclass(frozen=True)
class Failed:
    """A row that gave no sample, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Shard:
    """One tar of a set.

    Args:
        name: of the tar, in the set's folder.
        num_samples: in it; rows that failed are not.
        num_failed: rows that gave no sample.
        num_bytes: its size.
        sha256: of its bytes.
    """

    name: str
    num_samples: int
    num_failed: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardSet:
    """A finished set; opening it reads its index and no tar.

    Args:
        folder: where it is.
        settings: all that decided its bytes but the rows.
        shards: in the order of the rows.
        roots: where pictures are that the tars do not hold; if they move, change ``roots`` in the index.
    """

    folder: Path
    settings: Mapping[str, Any]
    shards: tuple[Shard, ...]
    roots: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return [shard.num_samples for shard in self.shards]

    @property
    def failed(self) -> Iterator[Failed]:
        """The rows that gave no sample, shard by shard."""
        for shard in self.shards:
            if shard.num_failed:
                yield from (Failed(*pair) for pair in read_json(marker_of(self.folder / shard.name))["failed"])

    def read(self, shard: int, number: int) -> Sample:
        """Return sample ``number`` of shard ``shard``, both from 0; it costs one seek, wherever it is.

        Raises:
            IndexError: there is none.
            DatoolError: the shard is not there, broken or refused.
        """
        if not 0 <= shard < len(self.shards) or not 0 <= number < self.shards[shard].num_samples:
            raise IndexError(f"sample {number} of shard {shard} in {self.folder}")
        path = self.folder / self.shards[shard].name
        offset = int(_offsets(path, self.shards[shard].sha256)[number])
        for key, members in _groups(path, offset):
            return decode_sample(key, members, path, self.roots)
        raise DatoolError(f"{path} has no sample at byte {offset}.", "It changed since it was written; pack it anew.")


def open_shards(folder: Path) -> ShardSet:
    """Return the set in ``folder`` from its index.

    Raises:
        DatoolError: no index, or not one of this version.
    """
    if folder.is_dir() and not (folder / INDEX).exists():
        raise DatoolError(
            f"{folder} has no {INDEX}: no shards, or not finished.", "Run the command that writes them again."
        )
    index = read_json(folder / INDEX)
    if index.get("layout_version") != LAYOUT_VERSION:
        got = index.get("layout_version")
        raise DatoolError(f"{folder / INDEX}: layout {got}, expected {LAYOUT_VERSION}.", "Pack the set anew.")
    shards = tuple(Shard(**shard) for shard in index["shards"])
    return ShardSet(folder, index["settings"], shards, _roots(folder, index))


def read_shard(path: Path, start: int = 0) -> Iterator[Sample]:
    """Yield the samples of a tar in the order in which they are stored, holding one at a time.

    Args:
        path: a tar in WebDataset layout, not compressed.
        start: how many samples to pass over: a seek where the tar has its done marker beside it, else a scan.
    Raises:
        DatoolError: broken, cut short, or with a member that is refused.
    """
    index = path.parent / INDEX
    roots = _roots(path.parent, read_json(index)) if index.exists() else ()
    offset = 0
    if start and marker_of(path).exists():
        offsets = _read_offsets(path)[1]
        if start >= len(offsets):
            return
        offset, start = int(offsets[start]), 0
    for key, members in _groups(path, offset):
        if start:
            start -= 1
        else:
            yield decode_sample(key, members, path, roots)


def marker_of(path: Path) -> Path:
    """Return the done marker of a tar."""
    return path.with_suffix(".json")


def read_json(path: Path) -> dict[str, Any]:
    """Return an index or a marker.

    Raises:
        DatoolError: not there, or broken.
    """
    with explained(str(path)):
        return cast("dict[str, Any]", json.loads(path.read_bytes()))


def _roots(folder: Path, index: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return where pictures are that the tars of a set do not hold; relative ones begin at the set."""
    return tuple(folder / root for root in index.get("roots", ()))


# Tars


def _groups(path: Path, offset: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of each sample that has an image or a label, from the header at ``offset`` on."""
    last, members = "", dict[str, bytes]()
    for name, data in _members(path, offset):
        place = PurePosixPath(name)
        stem, _, ending = place.name.partition(".")
        if not stem:
            continue
        key, ending = (place.parent / stem).as_posix(), ending.lower()
        if key != last:
            if _is_sample(members):
                yield last, members
            last, members = key, {}
        if ending in members:
            raise refused(path, name, "the sample has two of that ending")
        if data is not None:
            members[ending] = data
    if _is_sample(members):
        yield last, members


def _is_sample(members: Mapping[str, bytes]) -> bool:
    return any(ending in IMAGE_ENDINGS or ending.startswith(f"{DEPTH}.") for ending in members)


def _members(path: Path, offset: int) -> Iterator[tuple[str, bytes | None]]:
    """Yield names and contents; the content of what is no part of a sample is left where it is, and given as None."""
    with _readable(path), open(path, "rb") as file:
        file.seek(offset)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                _check(info, path)
                if not info.isdir():
                    yield info.name, _content(tar, info)
            # The library takes a broken header for the end, and a file that ends between two members for a whole one.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError(f"no end mark at byte {tar.offset}")


def _check(info: tarfile.TarInfo, path: Path) -> None:
    refuse_unsafe(info, path)
    if info.size > MAX_MEMBER_BYTES:
        raise refused(path, info.name, f"it is {info.size} bytes, more than {MAX_MEMBER_BYTES}")


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes | None:
    ending = PurePosixPath(info.name).name.partition(".")[2].lower()
    if ending not in (*IMAGE_ENDINGS, JSON) and not ending.startswith(f"{DEPTH}."):
        return None
    return cast("IO[bytes]", tar.extractfile(info)).read()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    with explained(str(path)):
        try:
            yield
        except tarfile.TarError as error:
            raise DatoolError(
                f"cannot read {path}: no tar, or cut short ({error}).", "Fetch it again, or pack it anew."
            ) from error


@lru_cache(maxsize=64)
def _offsets(path: Path, sha256: str) -> np.ndarray:
    """Return where the samples of a tar begin, (N,) int64, from the marker of the tar that has this hash."""
    found, offsets = _read_offsets(path)
    if found != sha256:
        raise DatoolError(f"{marker_of(path)} is of another tar than {INDEX} says.", "Pack the set anew.")
    return offsets


def _read_offsets(path: Path) -> tuple[str, np.ndarray]:
    marker = read_json(marker_of(path))
    with explained(str(marker_of(path))):
        return marker["shard"]["sha256"], np.array(marker["offsets"], np.int64)
