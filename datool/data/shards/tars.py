"""Tars read member by member, and what no tar that datool reads may hold."""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, cast

from datool.errors import DatoolError
from datool.files.images import explained

COMPRESSED = (".gz", ".tgz")
# No picture is larger; what claims to be would fill the memory.
MAX_MEMBER_BYTES = 1 << 30
# What reading a tar raises that is none, or cut short.
BROKEN = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Member:
    """One file in a tar.

    Args:
        name: with forward slashes, without ``./``.
        offset: of its header, in bytes of the (uncompressed) tar.
        read: returns its content, until the next member is asked for.
    """

    name: str
    offset: int
    read: Callable[[], bytes]


def walk(stream: IO[bytes], place: Path | str, mode: str = "r:") -> Generator[Member]:
    """Yield the files of a tar in the order in which they are stored, holding one header; nothing is unpacked to disk.

    Args:
        stream: where it is read from, at a header.
        place: of the tar, for messages.
        mode: as of `tarfile.open`.
    Raises:
        DatoolError: a member is refused.
        `BROKEN`: no tar, or cut short, also where it ends between two members.
    """
    with tarfile.open(fileobj=stream, mode=mode, tarinfo=_Header) as tar:  # type: ignore[call-overload]
        for info in tar:
            tar.members = []  # it would keep every header
            refuse_unsafe(info, place)
            if not info.isdir():
                yield Member(PurePosixPath(info.name).as_posix(), info.offset, partial(_content, tar, info, place))


def members(path: Path, offset: int = 0) -> Iterator[Member]:
    """Yield the files of a tar in the order in which they are stored.

    Args:
        path: of the tar, which gzip may have compressed if its name says so.
        offset: of the header to begin at; 0 if it is compressed.
    Raises:
        DatoolError: broken, cut short, or with a member that is refused.
    """
    with _readable(path), open(path, "rb") as file:
        file.seek(offset)
        yield from walk(file, path, "r:gz" if path.name.endswith(COMPRESSED) else "r:")


def read_member(path: Path, offset: int) -> tuple[str, bytes]:
    """Return the name and the content of the member whose header is at ``offset``.

    Raises:
        DatoolError: broken, cut short or refused.
    """
    with _readable(path):
        if path.name.endswith(COMPRESSED):
            stream = _unzipped(path, os.getpid(), threading.get_ident())
            return _member(cast("IO[bytes]", stream), offset, path)
        with open(path, "rb") as file:
            return _member(file, offset, path)


def cut_short(place: Path | str, error: Exception) -> str:
    """Return in words what `BROKEN` says."""
    return f"cannot read {place}: no tar, or cut short ({' '.join(str(error).split()) or type(error).__name__})."


def refuse_unsafe(info: tarfile.TarInfo, place: Path | str) -> None:
    """Raise unless a member is a folder or a plain file that stays below the folder it would be unpacked into.

    Args:
        info: header of the member.
        place: of the tar, for the message.
    Raises:
        DatoolError: an absolute name, ``..`` in it, a link, a device or a sparse file.
    """
    name = PurePosixPath(info.name)
    if name.is_absolute() or ".." in name.parts or PureWindowsPath(info.name).is_absolute():
        raise refused(place, info.name, "it would leave the folder")
    if not info.isdir() and (not info.isreg() or info.issparse()):
        raise refused(place, info.name, "it is a link, a device or sparse, not a plain file")


def refused(place: Path | str, name: str, reason: str) -> DatoolError:
    """Return the error of a member that datool will not read."""
    return DatoolError(f"refused {place}: member '{name}': {reason}.", "Do not trust it; fetch it from its authors.")


class _Header(tarfile.TarInfo):
    """A header; the library takes a broken one, or none, for the end, and this does not."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the end mark
                raise
            raise tarfile.ReadError(f"no end mark at byte {tar.offset}: {error}") from error


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo, place: Path | str) -> bytes:
    if info.size > MAX_MEMBER_BYTES:
        raise refused(place, info.name, f"it is {info.size} bytes, more than {MAX_MEMBER_BYTES}")
    data = cast("IO[bytes]", tar.extractfile(info)).read()
    if len(data) != info.size:
        raise tarfile.ReadError(f"{len(data)} of {info.size} bytes of {info.name}")
    return data


def _member(file: IO[bytes], offset: int, path: Path) -> tuple[str, bytes]:
    file.seek(offset)
    with closing(walk(file, path)) as found:
        member = next(found, None)
        if member is None or member.offset != offset:
            raise DatoolError(
                f"{path} has no file at byte {offset}.", "Has it changed since it was listed? Begin anew."
            )
        return member.name, member.read()


@lru_cache(maxsize=4)
def _unzipped(path: Path, process: int, thread: int) -> gzip.GzipFile:
    """Return an open stream that nobody else moves: one a thread, and none that a fork inherited."""
    return gzip.open(path, "rb")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    with explained(str(path)):
        try:
            yield
        except BROKEN as error:
            raise DatoolError(cut_short(path, error), "Fetch it again, or pack it anew.") from error
