"""Tars read member by member, and what no tar that datool reads may hold."""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

from datool.errors import DatoolError
from datool.files.images import explained

COMPRESSED = (".gz", ".tgz")


@dataclass(frozen=True)
class Member:
    """One file in a tar.

    Args:
        name: with forward slashes, without ``./``.
        offset: of its header, in bytes of the (uncompressed) tar.
    """

    name: str
    offset: int


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


def refuse_unsafe(info: tarfile.TarInfo, path: Path) -> None:
    """Raise unless a member is a folder or a plain file that stays below the folder it would be unpacked into.

    Args:
        info: header of the member.
        path: of the tar, for the message.
    Raises:
        DatoolError: an absolute name, ``..`` in it, a link, a device or a sparse file.
    """
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts or PureWindowsPath(info.name).is_absolute():
        raise refused(path, info.name, "it would leave the folder")
    if not info.isdir() and (not info.isreg() or info.issparse()):
        raise refused(path, info.name, "it is a link, a device or sparse, not a plain file")


def refused(path: Path, name: str, reason: str) -> DatoolError:
    """Return the error of a member that datool will not read."""
    return DatoolError(f"refused {path}: member '{name}': {reason}.", "Do not trust it; fetch it from its authors.")


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
