"""Hold a folder for one process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datool.errors import DatoolError

LOCK = ".datool.lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make the folder and hold it for this process alone; the lock ends with the process, however that ends.

    Windows has no such lock in Python's library: two runs at once on one folder are not noticed there.

    Raises:
        DatoolError: the folder cannot be written to, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "ab")  # noqa: SIM115
    except OSError as error:
        raise DatoolError(f"cannot write to --out {folder}: {error.strerror}.", "Give another --out.") from error
    with handle:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DatoolError(
                    f"another datool run is writing to {folder}.", "Wait for it, or give another --out."
                ) from error
        yield
