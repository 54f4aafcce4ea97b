"""Who works on what, among processes and hosts that share a folder.

Leases only save work. Whoever does a unit writes the same bytes and lets them appear at once, so that two who do the
same unit do no harm; and nothing here needs locks that hold between hosts. A lease is a file that its owner touches now
and then. One whose owner is dead (on this host) or silent (on another) is taken over.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from datool.files.atomic import writable

BEAT_S = 20.0
# Shared folders show a change late: NFS after a minute at most, as it comes.
SILENT_S = 180.0


class Leases:
    """The leases of this process in a folder, touched by a thread until the ``with`` block ends.

    Args:
        folder: where they are; it is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: set[Path] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="datool-leases", daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()

    def take(self, number: int, anyhow: bool = False) -> bool:
        """Lease a unit; tell whether it is ours now.

        Args:
            number: of the unit.
            anyhow: also from another that seems alive.
        Raises:
            DatoolError: the folder cannot be written to.
        """
        path = self._path(number)
        with writable(path):
            try:
                with open(path, "x") as file:
                    file.write(_me())
            except FileExistsError:
                if not anyhow and not _is_dead(path):
                    return False
                with open(path, "w") as file:  # in place: a lease is a word to others, and no lock
                    file.write(_me())
        self._held.add(path)
        return True

    def release(self, number: int) -> None:
        """Give a unit up, done or not."""
        path = self._path(number)
        self._held.discard(path)
        with suppress(OSError):
            path.unlink()

    def silent(self, numbers: Iterable[int]) -> list[int]:
        """Wait until each of these leases of others is touched, or has not been for long; return the latter.

        Also those of processes that run here: after a restart another may have the number of a dead one.
        """
        paths = {number: self._path(number) for number in numbers}
        first = {number: _touched(path) for number, path in paths.items() if path not in self._held}
        deadline = time.monotonic() + SILENT_S
        while first and time.monotonic() < deadline:
            time.sleep(min(1.0, SILENT_S / 10))
            first = {number: at for number, at in first.items() if _touched(paths[number]) == at}
        return list(first)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            for path in list(self._held):
                with suppress(OSError):
                    os.utime(path)

    def _path(self, number: int) -> Path:
        return self.folder / f".datool-{number:06d}.lease"


def temporary(folder: Path, what: str) -> Path:
    """Return the name of a file that is not whole yet; it says whose it is."""
    return folder / f"{UNFINISHED}{what}-{HOST}.{os.getpid()}.tmp"


def sweep(folder: Path, number: int | None = None) -> None:
    """Remove what others left unfinished.

    Args:
        folder: of the set.
        number: what is left of this unit, whoever wrote it; None = what any dead process of this host left, and all
            that is left of units, all of which must be done.
    """
    for path in folder.glob(".datool-*" if number is None else f".datool-{number:06d}-*.tmp"):
        owner = OWNED.search(path.name)
        of_unit = OF_UNIT.match(path.name)
        if of_unit or (owner and owner[1] == HOST and not _runs(int(owner[2]))):
            path.unlink(missing_ok=True)


def working(folder: Path) -> int:
    """Return how many units are leased, by the living as far as is known here."""
    return sum(not _is_dead(path) for path in folder.glob(".datool-*.lease"))


def _me() -> str:
    return json.dumps([HOST, os.getpid()])


def _is_dead(path: Path) -> bool:
    owner = _owner(path)
    return owner is not None and owner[0] == HOST and not _runs(owner[1])


def _owner(path: Path) -> tuple[str, int] | None:
    """Return host and process; None if it is gone, or being written."""
    try:
        host, process = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return host, process


def _touched(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _runs(process: int) -> bool:
    if sys.platform == "win32":  # there os.kill with 0 does not ask, it kills
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


UNFINISHED = ".datool-"
HOST = re.sub(r"[^A-Za-z0-9-]", "-", platform.node()) or "host"
OWNED = re.compile(r"-([A-Za-z0-9-]+)\.(\d+)\.tmp$")
OF_UNIT = re.compile(r"\.datool-\d{6,}[-.]")
