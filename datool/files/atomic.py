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


def write_bytes(path: Path, data: bytes | bytearray, temporary: Path | None = None) -> None:
    """Write ``data`` to ``path``, as `whole` does.

    Args:
        path: where the file goes.
        data: its whole content.
        temporary: as of `whole`.
    Raises:
        DatoolError: disk full, no permission, a name too long, or a folder in the way.
    """
    with whole(path, temporary) as unfinished, open(unfinished, "xb") as file:
        file.write(data)


@contextmanager
def whole(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Give a temporary name for a file or folder; it becomes ``path`` if the block ends well.

    What stood there is replaced whole or left as it was, and nothing half-written stays after a failure, Ctrl-C
    included. A file is synced to disk first. The block writes a file or makes a folder under the name.

    Args:
        path: where it goes.
        temporary: the name, in a folder beside it or above that is there; what has it is removed. None = a short one in
            the same folder (so that a 255-byte ``path`` works), which is made if it is missing.
    Raises:
        DatoolError: disk full, no permission, or a folder or file in the way; its cause is a FileNotFoundError with the
            temporary name if that was taken away.
    """
    path = Path(path)
    with writable(path):
        if temporary is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _short_name(path)
        else:
            remove(temporary)
        try:
            yield temporary
            take_place(temporary, path)
        except BaseException:
            with suppress(OSError):  # mostly not there yet; whatever hinders it, the first failure is the one to tell
                remove(temporary)
            raise


def append(path: Path, line: bytes) -> None:
    """Append to a file that is there, with one write: a killed process leaves it whole or cut off, the rest untouched.

    Raises:
        DatoolError: disk full, no permission, or no such file.
    """
    with writable(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)


def take_place(finished: Path, path: Path) -> None:
    """Give a finished file or folder its name, in place of what has it; a file is synced to disk first.

    Raises:
        OSError: it cannot; then ``path`` is as it was.
    """
    if finished.is_file():
        with open(finished, "rb") as file:
            os.fsync(file.fileno())
    if not (finished.is_dir() and path.is_dir()):
        os.replace(finished, path)
        return
    old = _short_name(path)  # a folder takes no other folder's name
    os.rename(path, old)
    try:
        os.replace(finished, path)
    except BaseException:
        os.rename(old, path)
        raise
    remove(old)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn what writing raises into a DatoolError that names the file."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def _short_name(path: Path) -> Path:
    return path.parent / f".datool-{secrets.token_hex(6)}.tmp"


def remove(path: Path) -> None:
    """Remove a file or folder of our own, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def disk_is_full(error: DatoolError) -> bool:
    """Tell whether a failure to write is one that every other file meets too."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)


def _cannot_write(path: Path, error: OSError) -> DatoolError:
    problem = f"cannot write {path}:"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DatoolError(f"{problem} disk full.", "Free some space, then run the same command.")
    if isinstance(error, PermissionError):
        return DatoolError(f"{problem} no permission.", "Give another --out, or make the folder writable.")
    if isinstance(error, IsADirectoryError):
        return DatoolError(f"{problem} a folder has that name.", "Move it, or give another --out.")
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return DatoolError(f"{problem} a file stands where a folder must go.", "Move it, or give another --out.")
    return DatoolError(f"{problem} {error.strerror or error}.")
