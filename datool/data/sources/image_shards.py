"""Unlabelled images in WebDataset shards: tars in which ``<key>.jpg``, ``<key>.json``, ``<key>.txt`` stand together.

A sample is the members that share a key: folder and name up to the first dot of the name. Its image is the member whose
whole ending is jpg, jpeg, png or webp (so "0001.depth.png" is none); a sample without one is passed over. img2dataset
stores only what it could fetch, so ``status`` in the json is not asked. Its default ``resize_mode border`` pads images
to squares: bad for depth; fetch with keep_ratio or no.

A split is ``all``, or shards by a pattern with braces, ``{00000..00041}.tar`` or ``{train,val}/{0..9}.tar``, relative
to the root. The root may hold the braces instead: ``--root laion=/data/laion/{00000..00041}.tar``.

Source: webdataset.github.io; github.com/rom1504/img2dataset README.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from datool.data.sample import Sample
from datool.data.shards.tars import members, read_member
from datool.data.sources.base import Row, expect, unlabelled
from datool.data.sources.image_folders import ALL
from datool.data.sources.image_tars import tars
from datool.errors import DatoolError, require
from datool.files import decode_image

LAYOUT = """\
00000.tar, 00001.tar, ... with 000000000.jpg, 000000000.json, 000000000.txt, 000000001.jpg, ... in each"""
ENDINGS = frozenset({"jpg", "jpeg", "png", "webp"})


def index(root: Path, split: str, layout: str = LAYOUT) -> Iterator[Row]:
    """Return a row for every sample with an image, shard by shard, in the order in which they are stored.

    Args:
        root: a folder, or a pattern of shards with braces.
        split: ``all``, or a pattern of shards with braces, relative to ``root``.
        layout: for messages.
    Raises:
        DatoolError: no such folder or shard, or a shard that is broken or refused; braceexpand, which patterns need, is
            not installed.
    """
    if "{" in str(root):
        base, paths = Path(os.path.dirname(str(root).split("{")[0])), shards(str(root))
    else:
        expect(root, root.is_dir(), "folder", layout)
        base, paths = root, tars(root) if split == ALL else shards(str(root / split))
    expect(base, bool(paths), "file *.tar", layout)
    return _rows(base, paths)


def read(row: Row) -> Sample:
    """Return the image.

    Raises:
        DatoolError: the shard or the image is unreadable.
    """
    assert isinstance(row.member, int), "index gives the offset"
    name, data = read_member(row.image, row.member)
    return Sample(row.id, decode_image(data, f"{name} in {row.image}"))


def shards(pattern: str, noun: str = "shards") -> list[Path]:
    """Return the files that a pattern with braces names, in its order.

    Args:
        pattern: ``/data/{00000..00041}.tar``, or a plain path.
        noun: what they are called in messages.
    Raises:
        DatoolError: one of them is not there, or braceexpand is not installed.
    """
    paths = [Path(name) for name in expand(pattern)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatoolError(f"{len(missing)} of the {len(paths)} {noun} of {pattern} are not there, first {missing[0]}.")
    return paths


def expand(pattern: str) -> list[str]:
    """Return the paths or addresses that a pattern with braces names, in its order.

    Raises:
        DatoolError: unequal braces, or braceexpand is not installed.
    """
    if "{" not in pattern:
        return [pattern]
    braceexpand = require("braceexpand", "data", f"expanding {pattern}").braceexpand
    try:
        return list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise DatoolError(f"cannot expand {pattern}: {error}.", "Write {00000..00041}.tar.") from error


image_shards = unlabelled(index, read, LAYOUT, ALL)


def _rows(base: Path, paths: list[Path]) -> Iterator[Row]:
    for path in paths:
        place = path.relative_to(base).as_posix()
        last = None
        for member in members(path):
            name = PurePosixPath(member.name)
            stem, _, ending = name.name.partition(".")
            key = (name.parent / stem).as_posix() if stem else ""
            if ending.lower() in ENDINGS and key and key != last:
                last = key
                yield Row(f"{place}/{key}", path, member=member.offset)
