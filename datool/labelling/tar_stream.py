"""The pictures of a tar as they stream by: from a file, an address, or what a command prints.

Source: webdataset.github.io, for ``pipe:`` (a command whose output is the tar: ``pipe:aws s3 cp s3://b/0.tar -``).
"""

from __future__ import annotations

import http.client
import subprocess
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from datool.data.shards.reading import MAX_MEMBER_BYTES
from datool.data.shards.tars import refuse_unsafe, refused
from datool.errors import DatoolError
from datool.files.images import explained

Address = str | Path
PIPE = "pipe:"
WEB = ("http://", "https://")
TIMEOUT_S = 60.0
BROKEN = (tarfile.TarError, EOFError, zlib.error)


@dataclass(frozen=True)
class Streamed:
    """One picture of a tar, or why there are no more.

    Args:
        name: with forward slashes, without ``./``.
        offset: of its header, in bytes of the (uncompressed) tar.
        data: its content, or the error.
    """

    name: str
    offset: int
    data: bytes | DatoolError


def is_address(name: str) -> bool:
    """Tell whether this is no path."""
    return name.startswith((PIPE, *WEB))


def stream_tar(address: Address, wanted: Callable[[str], bool]) -> Iterator[Streamed]:
    """Yield the wanted members in the order in which they are stored, holding one; nothing is unpacked to disk.

    A local tar that is cut short, broken or refused ends in its error: what comes before was read, and no other try
    would give more. Of an address, whose stream may break off, it is raised.

    Args:
        address: a file, ``https://...`` or ``pipe:...``; compressed or not.
        wanted: of a member's name.
    Raises:
        DatoolError: it cannot be opened, or reading fails below the tar: disk, mount or network.
    """
    local = isinstance(address, Path)
    with _opened(address) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Whole) as tar:
                for info in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                    refuse_unsafe(info, Path(str(address)))
                    name = PurePosixPath(info.name).as_posix()
                    if info.isdir() or not wanted(name):
                        continue
                    if info.size > MAX_MEMBER_BYTES:
                        reason = f"it is {info.size} bytes, more than {MAX_MEMBER_BYTES}"
                        raise refused(Path(str(address)), name, reason)
                    data = cast("IO[bytes]", tar.extractfile(info)).read()
                    yield Streamed(name, info.offset, data)
        except DatoolError as error:
            yield Streamed("", 0, error)
        except BROKEN as error:
            problem = f"cannot read {address}: no tar, or cut short ({' '.join(str(error).split())})."
            broken = DatoolError(problem, "Fetch it again." if local else "Run the same command again.")
            if not local:
                raise broken from error
            yield Streamed("", 0, broken)


class _Whole(tarfile.TarInfo):
    """A header; the library takes a broken one, or none, for the end, and this does not."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Whole:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the end mark
                raise
            raise tarfile.ReadError(f"no end mark at byte {tar.offset}: {error}") from error


@contextmanager
def _opened(address: Address) -> Iterator[IO[bytes]]:
    if isinstance(address, Path):
        with explained(str(address)), open(address, "rb") as file:
            yield file
    elif address.startswith(PIPE):
        with subprocess.Popen(address.removeprefix(PIPE), shell=True, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                yield process.stdout
                process.stdout.read()  # what pads the tar, so that the command does not end by a broken pipe
            finally:
                process.stdout.close()
        if process.returncode:
            raise DatoolError(f"'{address}' ended with {process.returncode}.", "Run the command by itself.")
    else:
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as response:
                yield response
        except (OSError, http.client.HTTPException) as error:
            raise DatoolError(f"cannot fetch {address}: {error}.", "Run the same command again.") from error
