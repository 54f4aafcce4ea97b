"""The sets that training mixes, opened so that any sample is read by its number: data sets, manifests, shards."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from datool.data.batches.crops import nearest
from datool.data.sample import Sample
from datool.data.shards import open_shards
from datool.data.sources.base import Row, Source
from datool.data.sources.decode import read_png8
from datool.data.sources.manifest import Manifest, read_entry
from datool.data.sources.table import SOURCES, find_root
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.files import IMAGE_SUFFIXES


@dataclass(frozen=True)
class SetSpec:
    """One set to train on.

    Args:
        source: key of `SOURCES`; ``manifest``, a .jsonl or its folder; or ``shards``, what ``datool data pack`` wrote,
            with labels (a source of that name reads images alone).
        root: where it is; None = as `find_root` finds it.
        split: of the source; None = its first.
        weight: how often its samples are taken, where 1 is once a pass of its group: as the papers do, which do not
            re-balance.
        sky: folder with a mask for each image, named as it (``<id>.png``, the id without its ending); above 0 is sky,
            and counts where the label says nothing (V1's sky). None = none.
    """

    source: str
    root: Path | None = None
    split: str | None = None
    weight: float = 1.0
    sky: Path | None = None


class OpenSet(Protocol):
    """A set whose samples are read by number; `datool.data.shards.ShardSet` is one."""

    @property
    def counts(self) -> list[int]:
        """Samples of each shard; a set without shards is one."""

    def read(self, shard: int, number: int) -> Sample:
        """Return a sample.

        Raises:
            DatoolError: it cannot be read.
        """


def open_set(spec: SetSpec) -> OpenSet:
    """Return the set, ready to be read by several processes.

    A manifest costs 8 bytes for 256 rows, shards a few numbers each; a source keeps every row, in about as many bytes
    as its paths have letters, and lists its files each time: from some million images on, pack it or write a manifest.

    Raises:
        DatoolError: unknown, not there, or empty.
    """
    root = spec.root
    if spec.source == "shards":
        if root is None:
            raise DatoolError("no folder of packed shards was given.", "Name one: what `datool data pack` wrote.")
        found: OpenSet = open_shards(root)
    else:
        source = lookup(SOURCES, spec.source, "data set")
        root = find_root(spec.source, {} if root is None else {spec.source: root})
        if spec.source == "manifest":
            found = ManifestSet(Manifest(root))
        else:
            found = RowSet(source, source.index(root, spec.split or source.splits[0]))
    if not sum(found.counts):
        raise DatoolError(f"no samples in '{spec.source}' at {root}.", "Check the folder and the split.")
    return found if spec.sky is None else SkySet(found, spec.sky)


@dataclass(frozen=True)
class ManifestSet:
    """The rows of a manifest."""

    manifest: Manifest

    @property
    def counts(self) -> list[int]:
        """All rows are one shard."""
        return [len(self.manifest)]

    def read(self, shard: int, number: int) -> Sample:
        """Return the sample of a row."""
        return read_entry(self.manifest[number])


class RowSet:
    """The rows of a source, packed: a few bytes a row, and none of them an object that a fork would copy.

    Args:
        source: reads them.
        rows: in their order.
    """

    def __init__(self, source: Source, rows: Iterable[Row]) -> None:
        self.source = source
        packed, ends = bytearray(), array("q", [0])
        for row in rows:
            packed += json.dumps(_pack(row)).encode("ascii")
            ends.append(len(packed))
        self._packed, self._ends = np.frombuffer(packed, np.uint8), np.frombuffer(ends, np.int64)

    @property
    def counts(self) -> list[int]:
        """All rows are one shard."""
        return [len(self._ends) - 1]

    def read(self, shard: int, number: int) -> Sample:
        """Return the sample of a row."""
        packed = self._packed[self._ends[number] : self._ends[number + 1]].tobytes()
        return self.source.read(_unpack(json.loads(packed)))


@dataclass(frozen=True)
class SkySet:
    """A set whose unknown pixels are sky where a mask says so.

    Args:
        inner: the set.
        folder: of the masks.

    Source: Yang et al. 2024 (Depth Anything V1), arXiv:2401.10891, section 3.1: disparity 0; its first author, issue
    206: only where there is no label.
    """

    inner: OpenSet
    folder: Path

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return self.inner.counts

    def read(self, shard: int, number: int) -> Sample:
        """Return the sample with its sky.

        Raises:
            DatoolError: no mask, or one that cannot be read.
        """
        sample = self.inner.read(shard, number)
        if sample.depth is None:
            return sample
        return replace(sample, depth=_with_sky(sample.depth, self.folder / sky_mask_name(sample.id)))


def _with_sky(depth: DepthMap, path: Path) -> DepthMap:
    mask = read_png8(path, "a sky mask")
    rows, columns = (nearest(0, side, side, stored) for side, stored in zip(depth.shape, mask.shape, strict=True))
    sky = (mask[rows[:, None], columns] > 0) & ~depth.valid
    return DepthMap(np.where(sky, _sky_value(depth), depth.values), depth.quantity, depth.ambiguity)


def _sky_value(depth: DepthMap) -> np.float32:
    """Return what sky is in a map: infinitely far, which is disparity 0.

    Where the shift is unknown no value is that; it is the map's farthest then, what becomes V1's 0 once each map's
    disparity is brought to [0, 1]: V1 sets the sky of its labels to 0 after that. A map without a known pixel has none.
    """
    if depth.ambiguity is not Ambiguity.SCALE_AND_SHIFT:
        return np.float32(np.inf if depth.quantity is Quantity.DEPTH else 0)
    if not depth.valid.any():
        return np.float32(np.nan)
    farthest = np.nanmax if depth.quantity is Quantity.DEPTH else np.nanmin
    return np.float32(farthest(depth.values))


def sky_mask_name(id: str) -> PurePosixPath:
    """Return where an image's sky mask is: as the image is, below the folder; an absolute name gives its last part."""
    name = PurePosixPath(id)
    if name.is_absolute():
        name = PurePosixPath(name.name)
    return name.with_name(f"{name.stem if name.suffix.lower() in IMAGE_SUFFIXES else name.name}.png")


def _pack(row: Row) -> dict[str, str | int]:
    """Return what is not None; files by their paths."""
    found = {name: getattr(row, name) for name in ("id", "member", *FILES)}
    return {name: str(value) if name in FILES else value for name, value in found.items() if value is not None}


def _unpack(packed: dict[str, Any]) -> Row:
    fields: dict[str, Any] = {name: Path(value) if name in FILES else value for name, value in packed.items()}
    return Row(**fields)


FILES = ("image", "depth", "mask", "confidence", "camera")
