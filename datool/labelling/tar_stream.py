"""The pictures of a tar as they stream by: from a file, an address, or what a command prints.

Source: webdataset.github.io, for ``pipe:`` (a command whose output is the tar: ``pipe:aws s3 cp s3://b/0.tar -``).
"""

from __future__ import annotations

import http.client
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datool.data.shards.tars import BROKEN, cut_short, walk
from datool.errors import DatoolError
from datool.files.images import explained

Address = str | Path
PIPE = "pipe:"
WEB = ("http://", "https://")
TIMEOUT_S = 60.0


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
            for member in walk(stream, str(address), "r|*"):
                if wanted(member.name):
                    yield Streamed(member.name, member.offset, member.read())
        except DatoolError as error:
            yield Streamed("", 0, error)
        except BROKEN as error:
            broken = DatoolError(
                cut_short(address, error), "Fetch it again." if local else "Run the same command again."
            )
            if not local:
                raise broken from error
            yield Streamed("", 0, broken)


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
