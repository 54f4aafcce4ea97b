"""Sets of shards, and their tars, to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from datool.data.sample import Sample
from datool.data.shards import tars
from datool.data.shards.samples import DEPTH, IMAGE_ENDINGS, JSON, decode_sample
from datool.errors import DatoolError
from datool.files.images import explained

LAYOUT_VERSION = 1
INDEX = "index.json"


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
    for member in tars.members(path, offset):
        place = PurePosixPath(member.name)
        stem, _, ending = place.name.partition(".")
        if not stem:
            continue
        key, ending = (place.parent / stem).as_posix(), ending.lower()
        if key != last:
            if _is_sample(members):
                yield last, members
            last, members = key, {}
        if ending in members:
            raise tars.refused(path, member.name, "the sample has two of that ending")
        if _is_part(ending):
            members[ending] = member.read()
    if _is_sample(members):
        yield last, members


def _is_sample(members: Mapping[str, bytes]) -> bool:
    return any(ending != JSON for ending in members)


def _is_part(ending: str) -> bool:
    return ending in (*IMAGE_ENDINGS, JSON) or ending.startswith(f"{DEPTH}.")


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
