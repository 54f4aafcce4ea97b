"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from datool.errors import DatoolError


def write_bytes(path: Path, data: bytes | bytearray) -> None:
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


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name for a file or folder too large to hold; it becomes ``path`` if the block ends well.

    As `write_bytes`: what stood there is replaced whole or left as it was, and nothing half-written stays after a
    failure. The block writes a file or makes a folder under the name.

    Args:
        path: where it goes.
    Raises:
        DatoolError: disk full, no permission, or a folder or file in the way.
    """
    path = Path(path)
    temporary, old = (path.parent / f".datool-{secrets.token_hex(6)}.tmp" for _ in range(2))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        if path.is_dir() and temporary.is_dir():  # a folder takes no other folder's name
            os.rename(path, old)
        os.replace(temporary, path)
        remove(old)
    except BaseException as error:
        if old.exists() and not path.exists():
            os.rename(old, path)
        remove(temporary)
        if isinstance(error, OSError):
            raise _cannot_write(path, None, error) from error
        raise


def remove(path: Path) -> None:
    """Remove a file or folder of our own, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def disk_is_full(error: DatoolError) -> bool:
    """Tell whether a failure to write is one that every other file meets too."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)


def _cannot_write(path: Path, size: int | None, error: OSError) -> DatoolError:
    problem = f"cannot write {path}:"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        wanted = "" if size is None else f" ({size} bytes wanted)"
        return DatoolError(f"{problem} disk full{wanted}.", "Free some space, then run the same command.")
    if isinstance(error, PermissionError):
        return DatoolError(f"{problem} no permission.", "Give another --out, or make the folder writable.")
    if isinstance(error, IsADirectoryError):
        return DatoolError(f"{problem} a folder has that name.", "Move it, or give another --out.")
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return DatoolError(f"{problem} a file stands where a folder must go.", "Move it, or give another --out.")
    return DatoolError(f"{problem} {error.strerror or error}.")
