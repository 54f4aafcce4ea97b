"""Unlabelled images in tar files of any members: SA-1B, Google Landmarks, Open Images.

Every member with an image's suffix is a row; others (SA-1B's json) are passed over, and so are hidden ones ("._x.jpg").
Nothing is ever unpacked to disk. All the same a tar with a member that would leave its folder ("..", an absolute name),
a link or a device is refused whole: it is not what it says it is.

A row holds the place of its member in the tar, so that reading it costs one seek. A compressed tar (.tar.gz, .tgz) has
no places to seek to: it is read through once for the list, and again for the images, in the order in which they are
stored. Ask for its rows in that order, and in one go, or pack it first.

A split is ``all`` or a folder below the root.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from datool.data.sample import Sample
from datool.data.sources.base import Row, Source, expect
from datool.data.sources.image_folders import ALL, part
from datool.data.tars import refuse_unsafe
from datool.errors import DatoolError
from datool.files import decode_image
from datool.files.images import explained
from datool.files.listing import IMAGE_SUFFIXES

SUFFIXES = (".tar", ".tar.gz", ".tgz")
COMPRESSED = (".gz", ".tgz")
LAYOUT = "<any folders>/<name>.tar (or .tar.gz, .tgz), each with images below any folders"


@dataclass(frozen=True)
class Member:
    """One file in a tar.

    Args:
        name: with forward slashes, without ``./``.
        offset: of its header, in bytes of the (uncompressed) tar.
    """

    name: str
    offset: int


def index(root: Path, split: str, layout: str = LAYOUT) -> Iterator[Row]:
    """Return a row for every image in the tars below ``root``, tar by tar.

    Args:
        root: a folder.
        split: ``all``, or a folder below ``root``.
        layout: for messages.
    Raises:
        DatoolError: no such folder, no tar in it, or a tar that is broken or refused.
    """
    paths = tars(part(root, split, layout))
    expect(root, bool(paths), "file *.tar, *.tar.gz or *.tgz", layout)
    return _rows(root, paths)


def read(row: Row) -> Sample:
    """Return the image.

    Raises:
        DatoolError: the tar or the image is unreadable.
    """
    assert isinstance(row.member, int), "index gives the offset"
    name, data = read_member(row.image, row.member)
    return Sample(row.id, decode_image(data, f"{name} in {row.image}"))


def tars(folder: Path) -> list[Path]:
    """Return the tars below ``folder``, in the order of the ids of what they hold."""
    named = (path for path in folder.rglob("*") if path.name.endswith(SUFFIXES) and not path.name.startswith("."))
    found = [path for path in named if path.is_file()]
    return sorted(found, key=lambda path: f"{path.relative_to(folder).as_posix()}/")


def members(path: Path) -> Iterator[Member]:
    """Yield the files of a tar in the order in which they are stored.

    Raises:
        DatoolError: broken, cut short, or with a member that is refused.
    """
    with _readable(path), tarfile.open(path, "r:gz" if path.name.endswith(COMPRESSED) else "r:") as tar:
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            refuse_unsafe(info, path)
            if not info.isdir():
                yield Member(PurePosixPath(info.name).as_posix(), info.offset)


def read_member(path: Path, offset: int) -> tuple[str, bytes]:
    """Return the name and the content of the member whose header is at ``offset``.

    Raises:
        DatoolError: broken or cut short.
    """
    with _readable(path):
        if path.name.endswith(COMPRESSED):
            stream = _unzipped(path, os.getpid(), threading.get_ident())
            return _member(cast("IO[bytes]", stream), offset, path)
        with open(path, "rb") as file:
            return _member(file, offset, path)


def is_image(name: str) -> bool:
    """Tell whether a member is an image that is not hidden."""
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def image_tars(title: str, layout: str = LAYOUT, splits: tuple[str, ...] = (ALL,)) -> Source:
    """Return the source of an unlabelled set that is tars of images.

    Args:
        title: the set's name and where it is described.
        layout: for messages.
        splits: folders that the set is known to have, after ``all``.
    """
    return Source(partial(index, layout=layout), read, splits, layout, None, None, title)


def _rows(root: Path, paths: list[Path]) -> Iterator[Row]:
    for path in paths:
        place = path.relative_to(root).as_posix()
        found = [member for member in members(path) if is_image(member.name)]
        if not path.name.endswith(COMPRESSED):
            found.sort(key=lambda member: member.name)
        for member in found:
            yield Row(f"{place}/{member.name}", path, member=member.offset)


def _member(file: IO[bytes], offset: int, path: Path) -> tuple[str, bytes]:
    file.seek(offset)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        info = tar.next()
        content = tar.extractfile(info) if info is not None and info.isreg() else None
        if info is None or content is None:
            raise DatoolError(
                f"{path} has no file at byte {offset}.", "Has it changed since it was listed? Begin anew."
            )
        data = content.read()
        if len(data) != info.size:
            raise tarfile.ReadError(f"{len(data)} of {info.size} bytes of {info.name}")
        return info.name, data


@lru_cache(maxsize=4)
def _unzipped(path: Path, process: int, thread: int) -> gzip.GzipFile:
    """Return an open stream that nobody else moves: one a thread, and none that a fork inherited."""
    return gzip.open(path, "rb")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    with explained(str(path)):
        try:
            yield
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DatoolError(f"cannot read {path}: no tar, or cut short ({reason}).", "Fetch it again.") from error
