"""Sets of shards, to write."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

from datool.data.shards.reading import INDEX, LAYOUT_VERSION, Failed, Shard, ShardSet, marker_of, read_json
from datool.data.shards.samples import Members
from datool.errors import DatoolError
from datool.files import LOCK, held, write_bytes
from datool.files.atomic import whole, writable


class ShardWriter:
    """Writes a set, shard by shard; killed at any moment, a new one goes on and comes to the same bytes.

    A shard is a fixed run of rows, so that it depends neither on the others nor on which rows failed. It goes to a
    temporary name, is synced, takes its name, and gets its done marker; the index comes last. What is finished is
    never written again.

    Args:
        folder: of the set; made if it is not there. Held for this process alone until the ``with`` block ends.
        settings: all that decides the bytes but the rows, as JSON has it.
        rows_per_shard: rows of each shard but the last.
    Raises:
        DatoolError: another process writes there, or the folder holds tars that are not datool's.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], rows_per_shard: int) -> None:
        if rows_per_shard < 1:
            raise DatoolError(f"{rows_per_shard} rows per shard, expected at least 1.")
        self.folder, self.rows_per_shard = folder, rows_per_shard
        own = {"layout_version": LAYOUT_VERSION, "rows_per_shard": rows_per_shard}
        self.settings: dict[str, Any] = json.loads(json.dumps({**settings, **own}))
        self._finished: dict[int, Shard] = {}

    def __enter__(self) -> ShardWriter:
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            foreign = [*self.folder.glob("*.tar"), *self.folder.glob("*.json")]
            if foreign and not (self.folder / LOCK).exists():
                raise DatoolError(
                    f"{self.folder} holds {foreign[0].name}, which datool did not write.", "Give another --out."
                )
        with ExitStack() as stack:
            stack.enter_context(held(self.folder))
            for path in self.folder.glob(".datool-*.tmp"):  # what a killed run left
                path.unlink()
            self._lock = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._lock.close()

    def is_finished(self, number: int, rows_sha256: str) -> bool:
        """Tell whether shard ``number`` is written, of these rows and with these settings.

        Raises:
            DatoolError: it is written, but of other rows or with other settings.
        """
        path = self._path(number)
        if not marker_of(path).exists() or not path.exists():
            return False
        marker = read_json(marker_of(path))
        check_settings(self.folder, marker["settings"], self.settings)
        if marker["rows_sha256"] != rows_sha256:
            raise DatoolError(
                f"{path} was packed from other rows: the list changed since.", "Give another --out, to begin anew."
            )
        shard = Shard(**marker["shard"])
        if path.stat().st_size != shard.num_bytes:
            raise DatoolError(
                f"{path} is {path.stat().st_size} bytes, written with {shard.num_bytes}: something cut or changed it.",
                "Remove it and its .json, then run the same command.",
            )
        self._finished[number] = shard
        return True

    def write(self, number: int, rows_sha256: str, entries: Iterable[Members | Failed]) -> Shard:
        """Write shard ``number``, holding one sample at a time.

        Args:
            number: of the shard, from 0.
            rows_sha256: identity of its rows, for `is_finished`.
            entries: one a row, in order: the members of its sample, or why it has none.
        Raises:
            DatoolError: disk full or no permission.
        """
        first = number * self.rows_per_shard
        keyed = ((f"{row:09d}", entry) for row, entry in enumerate(entries, start=first))
        path = self._path(number)
        shard, offsets, failed = write_tar(path, self.folder / f".datool-{number:06d}.tmp", keyed)
        marker = {"settings": self.settings, "rows_sha256": rows_sha256, "shard": asdict(shard)}
        write_bytes(marker_of(path), to_json({**marker, "offsets": offsets, "failed": failed}))
        self._finished[number] = shard
        return shard

    def finish(self, num_shards: int) -> ShardSet:
        """Write the index and return the set.

        Args:
            num_shards: how many there are; all were written or found finished.
        Raises:
            DatoolError: the folder holds more shards than that: the list became shorter.
        """
        if self._path(num_shards).exists():
            raise DatoolError(
                f"{self.folder} holds {self._path(num_shards).name}, the rows end before it: the list changed since.",
                "Give another --out, to begin anew.",
            )
        shards = tuple(self._finished[number] for number in range(num_shards))
        index = {
            "layout_version": LAYOUT_VERSION,
            "settings": self.settings,
            "num_samples": sum(shard.num_samples for shard in shards),
            "num_failed": sum(shard.num_failed for shard in shards),
            "shards": [asdict(shard) for shard in shards],
        }
        write_bytes(self.folder / INDEX, to_json(index))
        return ShardSet(self.folder, self.settings, shards)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.tar"


def check_settings(folder: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a set that was begun otherwise.

    Args:
        folder: of the set.
        held, wanted: what decided its bytes then, and what does now.
    Raises:
        DatoolError: they differ; it names the first that does.
    """
    for name in sorted(held.keys() | wanted.keys()):
        if held.get(name) != wanted.get(name):
            raise DatoolError(
                f"{folder} holds shards of another run: {name} was {held.get(name)!r}, now {wanted.get(name)!r}.",
                "Give another --out.",
            )


def write_tar(
    path: Path, temporary: Path, keyed: Iterable[tuple[str, Members | Failed]]
) -> tuple[Shard, list[int], list[tuple[str, str]]]:
    """Write a tar, which appears whole or not at all, holding one sample at a time.

    Args:
        path: the tar.
        temporary: what it is called until it is whole, in the same folder.
        keyed: key, and the members of the sample or why it has none, in order.
    Returns:
        what it is, where its samples begin, and id and reason of the rows that failed.
    Raises:
        DatoolError: disk full or no permission; its cause is a FileNotFoundError if the temporary file was taken away.
    """
    offsets: list[int] = []
    failed: list[tuple[str, str]] = []
    with whole(path, temporary) as unfinished, open(unfinished, "wb") as file:
        out = _Hashing(file)
        tar = tarfile.open(fileobj=cast("IO[bytes]", out), mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        for key, entry in keyed:
            if isinstance(entry, Failed):
                failed.append((entry.id, entry.reason))
                continue
            offsets.append(out.tell())
            _add(tar, key, entry)
        tar.close()
    return Shard(path.name, len(offsets), len(failed), out.tell(), out.sha256.hexdigest()), offsets, failed


class _Hashing:
    """A file that is only written to, and hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self._length = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self._length += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self._length


def _add(tar: tarfile.TarFile, key: str, members: Members) -> None:
    for ending, data in members.items():
        info = tarfile.TarInfo(f"{key}.{ending}")  # owner, group and time are 0: the bytes depend on the content alone
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    tar.members = []  # type: ignore[attr-defined]  # it would keep every header


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return an index or a marker as text that depends on its content alone."""
    return json.dumps(value, sort_keys=True).encode("ascii") + b"\n"
