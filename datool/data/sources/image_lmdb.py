"""Unlabelled images in LMDB databases: LSUN, one database a category, key = the image's name, value = its JPEG or WebP
bytes.

A database is a folder with ``data.mdb``. A split is ``all`` or a folder below the root. Keys are read as UTF-8, bytes
that are none kept.

Source: Yu et al. 2015, arXiv:1506.03365; github.com/fyu/lsun README and data.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from datool.data.sample import Sample
from datool.data.sources.base import Row, expect, unlabelled
from datool.data.sources.image_folders import ALL, part
from datool.errors import DatoolError, require
from datool.files import decode_image

DATA = "data.mdb"
LAYOUT = """\
bedroom_train_lmdb/data.mdb, bedroom_train_lmdb/lock.mdb
kitchen_train_lmdb/data.mdb, ...   (each category is one zip)"""

# Threads that find a database not open yet must not all open it.
_opening = threading.Lock()


def index(root: Path, split: str, layout: str = LAYOUT) -> Iterator[Row]:
    """Return a row for every image in the databases below ``root``, sorted by database and key.

    Args:
        root: a folder of databases, or one.
        split: ``all``, or a folder below ``root``.
        layout: for messages.
    Raises:
        DatoolError: no such folder or no database in it, a broken one, or lmdb is not installed.
    """
    folder = part(root, split, layout)
    paths = sorted((path.parent for path in folder.rglob(DATA)), key=lambda path: f"{path.as_posix()}/")
    expect(root, bool(paths), f"folder with {DATA}", layout)
    return _rows(root, paths)


def read(row: Row) -> Sample:
    """Return the image.

    Raises:
        DatoolError: the database or the image is unreadable, or lmdb is not installed.
    """
    return Sample(row.id, decode_image(read_bytes(row), f"{row.member} in {row.image}"))


def read_bytes(row: Row) -> bytes:
    """Return the image's file as the database holds it.

    Raises:
        DatoolError: the database is unreadable or without the key, or lmdb is not installed.
    """
    assert isinstance(row.member, str), "index gives the key"
    key = row.member.encode("utf-8", "surrogateescape")
    with _readable(row.image), _database(row.image).begin(buffers=False) as reading:
        data = reading.get(key)
    if data is None:
        raise DatoolError(f"{row.image} has no key '{row.member}'.", "Has it changed since it was listed? Begin anew.")
    return bytes(data)


image_lmdb = unlabelled(index, read, LAYOUT, ALL)


def _rows(root: Path, paths: list[Path]) -> Iterator[Row]:
    for path in paths:
        place = path.relative_to(root).as_posix()
        prefix = "" if place == "." else f"{place}/"
        with _readable(path), _database(path).begin(buffers=False) as reading:
            for raw in reading.cursor().iternext(keys=True, values=False):
                key = raw.decode("utf-8", "surrogateescape")
                yield Row(prefix + key, path, member=key)


def _database(path: Path) -> Any:
    with _opening:
        return _open(path, os.getpid())


@lru_cache(maxsize=64)
def _open(path: Path, process: int) -> Any:
    """Return the database, opened once a process: LMDB forbids twice, and a fork must not inherit it."""
    return _lmdb(path).open(str(path), readonly=True, lock=False, readahead=False, max_readers=1024)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except _lmdb(path).Error as error:
        raise DatoolError(
            f"cannot read {path}: no LMDB, or cut short ({error}).", "Fetch or unpack it again."
        ) from error


def _lmdb(path: Path) -> ModuleType:
    return require("lmdb", "data", f"reading {path}")
