"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from datool.errors import DatoolError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``; the file appears whole, replaces an old one whole, or is left as it was.

    The bytes go to a temporary file in the same folder (a short name, so that a 255-byte ``path`` works), are synced to
    disk, and take the name at once. The temporary file is removed on every failure, Ctrl-C included. Missing parent
    folders are made.

    Args:
        path: where the file goes.
        data: its whole content.
    Raises:
        DatoolError: disk full, no permission, a name too long, or a folder in the way.
    """
    path = Path(path)
    temporary = path.parent / f".datool-{secrets.token_hex(6)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # mostly not there yet; whatever hinders it, the first failure is the one to tell
            temporary.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(path, len(data), error) from error
        raise


def _cannot_write(path: Path, size: int, error: OSError) -> DatoolError:
    problem = f"cannot write {path}:"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DatoolError(f"{problem} disk full ({size} bytes wanted).", "Free some space, then run the same command.")
    if isinstance(error, PermissionError):
        return DatoolError(f"{problem} no permission.", "Give another --out, or make the folder writable.")
    if isinstance(error, IsADirectoryError):
        return DatoolError(f"{problem} a folder has that name.", "Move it, or give another --out.")
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return DatoolError(f"{problem} a file stands where a folder must go.", "Move it, or give another --out.")
    return DatoolError(f"{problem} {error.strerror or error}.")
