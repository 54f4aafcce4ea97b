"""The manifest of a folder of clouds: ``manifest.jsonl``, one row a picture, as `datool.data.manifest` is of maps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from datool.data.manifest import MANIFEST, STATUSES
from datool.errors import DatoolError
from datool.files import write_bytes


@dataclass(frozen=True)
class CloudRow:
    """One picture and what became of it.

    Args:
        input: absolute path of the photo or the map; of fused frames, that of the result without its ending.
        status: ``pending`` (planned, or being written), ``done`` or ``failed``.
        settings: all options that decide what is written.
        reason: why it failed.
        outputs: format -> path relative to the manifest's folder, if done; none for a frame that was fused.
        points: in the files.
        dropped: reason -> pixels left out for it.
        unit: ``m``, or empty.
        depth_from: where the depth is from, and how it was turned into what it is.
        model, model_spec, model_sha256: what predicted it, if something did; what `load` finds it by; its identity.
        camera: of the photo as read.
        camera_from: what told it.
        pose: (4, 4) camera to world, y down, of a frame that was fused.
    """

    input: str
    status: str
    settings: Mapping[str, Any]
    reason: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    points: int | None = None
    dropped: Mapping[str, int] | None = None
    unit: str | None = None
    depth_from: str = ""
    model: str = ""
    model_spec: str = ""
    model_sha256: str = ""
    camera: Mapping[str, float] | None = None
    camera_from: str = ""
    pose: list[list[float]] | None = None

    def to_line(self) -> bytes:
        """Return the row as one line of JSON in ASCII, its end included."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"

    def is_finished(self, folder: Path) -> bool:
        """Tell whether it is done and its files are there."""
        return self.status == "done" and all((folder / path).is_file() for path in self.outputs.values())


def read_clouds(folder: Path) -> dict[str, CloudRow]:
    """Return the rows of the manifest in ``folder`` by input, in order; empty if there is none.

    What a killed run cut off, a last line without its end, is passed over.

    Raises:
        DatoolError: it cannot be read, or holds something else.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DatoolError(f"cannot read {path}: {error.strerror}.", "Give another --out.") from error
    known, rows = {item.name for item in fields(CloudRow)}, {}
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            row = CloudRow(**{name: value for name, value in json.loads(line).items() if name in known})
        except (ValueError, TypeError, AttributeError):
            row = None
        if row is None or row.status not in STATUSES:
            raise DatoolError(f"{path}, line {number}: not a row of clouds: {line[:60]!r}.", "Give another --out.")
        rows[row.input] = row
    return rows


def write_clouds(folder: Path, rows: Iterable[CloudRow]) -> None:
    """Write the manifest anew, whole or not at all; it is left alone if nothing changes.

    Raises:
        DatoolError: it cannot be written.
    """
    path, data = folder / MANIFEST, b"".join(row.to_line() for row in rows)
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)


def sweep(folders: Iterable[Path]) -> None:
    """Remove what a killed run left half-written in folders of outputs."""
    for folder in set(folders):
        for path in folder.glob(".datool-*.tmp"):
            path.unlink(missing_ok=True)


def append_cloud(folder: Path, row: CloudRow) -> None:
    """Append a row with one write, so that a killed process leaves it whole or cut off, and others untouched.

    Raises:
        DatoolError: it cannot be written.
    """
    path, line = folder / MANIFEST, row.to_line()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            if os.write(handle, line) != len(line):
                raise DatoolError(f"cannot write {path}: disk full.", "Free some space, then run the same command.")
        finally:
            os.close(handle)
    except OSError as error:
        raise DatoolError(
            f"cannot write {path}: {error.strerror}.", "Free some space or give permission, then run the same command."
        ) from error
