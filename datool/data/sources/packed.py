"""Shards that `datool data pack` and `datool data synth` write, with their labels, as a data set.

Rows are named by shard and number, samples by the id that they were packed with.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from datool.data.sample import Sample
from datool.data.shards import INDEX, ShardSet, open_shards
from datool.data.sources.base import Row, Source, expect
from datool.errors import lookup

SPLITS = ("all",)
LAYOUT = f"000000.tar, 000000.json, ..., {INDEX}   (one folder, as `datool data pack` wrote it)"


def index(root: Path, split: str) -> Iterator[Row]:
    """Yield a row for every sample, shard by shard.

    Args:
        root: the set's folder.
        split: ``all``.
    Raises:
        DatoolError: no finished set.
    """
    lookup(dict.fromkeys(SPLITS), split, "split of shards")
    expect(root, (root / INDEX).is_file(), INDEX, LAYOUT)
    shards = open_shards(root).shards
    return (
        Row(f"{shard.name}/{number:06d}", root / shard.name, member=number)
        for shard in shards
        for number in range(shard.num_samples)
    )


def read(row: Row) -> Sample:
    """Return the sample.

    Raises:
        DatoolError: the shard is not there, or broken.
    """
    assert isinstance(row.member, int), "index gives the number in the shard"
    folder = row.image.parent
    return _open(folder).read(_number(folder)[row.image.name], row.member)


@lru_cache(maxsize=16)
def _open(folder: Path) -> ShardSet:
    return open_shards(folder)


@lru_cache(maxsize=16)
def _number(folder: Path) -> dict[str, int]:
    return {shard.name: number for number, shard in enumerate(_open(folder).shards)}


PACKED = Source(index, read, SPLITS, LAYOUT, None, None, "shards packed by datool (they say what their depth is)")
