"""The manifest of an output folder: ``manifest.jsonl``, one row an image, and ``clips.jsonl``, one row a film.

`predict` writes it, and it is a data set for whatever reads maps. While a run goes on, finished images are appended,
and of two rows for one image the later holds; so a run that is killed leaves a manifest that says what is finished. A
last line that was cut off is dropped. At the end of a run the manifest is written anew with one row an image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from datool import __version__
from datool.errors import DatoolError
from datool.files import write_bytes
from datool.files.atomic import append

MANIFEST = "manifest.jsonl"
# Films are no rows of the data set that a manifest is, so they have a file of their own.
CLIPS = "clips.jsonl"
STATUSES = ("pending", "done", "failed")


@dataclass(frozen=True)
class ManifestRow:
    """One image and what became of it.

    Args:
        input: absolute path of the image.
        status: ``pending`` (planned, or being written), ``done`` or ``failed``.
        model, model_spec, model_sha256: the model's row, what `load` finds it by, and its identity.
        size_px: short side of the network's input.
        formats: what is written for the image.
        precision: what the network computed in.
        reason: why it failed.
        outputs: format -> path relative to the manifest's folder, if done.
        quantity, ambiguity: what the maps hold, if done.
        scale, offset: value = pixel * scale + offset in the 16-bit PNG, if there is one.
        image_size, network_size: (height, width).
        camera: of the image, once something knows it.
        tiling: how the image was cut, ``TILE+OVERLAP`` in pixels; None = not at all.
        steadying: how frames were brought to each other, of a film: its range, and ``flow``.
        num_frames: of a film, if done.
        calibration: sha256 of the file that made the maps metric; None = they are as the model gave them.
        runtime: what computed the network.
    """

    input: str
    status: str
    model: str
    model_spec: str
    model_sha256: str
    size_px: int
    formats: tuple[str, ...]
    precision: str
    reason: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    quantity: str | None = None
    ambiguity: str | None = None
    scale: float | None = None
    offset: float | None = None
    image_size: tuple[int, int] | None = None
    network_size: tuple[int, int] | None = None
    camera: dict[str, float] | None = None
    tiling: str | None = None
    steadying: str | None = None
    num_frames: int | None = None
    calibration: str | None = None
    runtime: str = "torch"

    def meta(self) -> dict[str, str]:
        """Return what every file of values says of its making."""
        ways = {"tiling": self.tiling, "steadying": self.steadying, "calibration": self.calibration}
        return {
            "model": self.model,
            "model_sha256": self.model_sha256,
            "size_px": str(self.size_px),
            "datool": __version__,
            **{name: value for name, value in ways.items() if value is not None},
        }

    def to_line(self) -> bytes:
        """Return the row as one line of JSON in ASCII, its end included."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"


class Line(Protocol):
    """A row of any manifest of ours."""

    @property
    def input(self) -> str: ...  # noqa: D102
    def to_line(self) -> bytes: ...  # noqa: D102


AnyRow = TypeVar("AnyRow", bound=Line)


def read_manifest(folder: Path, name: str = MANIFEST) -> dict[str, ManifestRow]:
    """Return the rows of the manifest in ``folder`` by input, in order; empty if there is none.

    Args:
        folder: the output folder.
        name: of the file: ``MANIFEST``, or ``CLIPS``.
    Raises:
        DatoolError: it cannot be read, or a line other than a cut-off last one is no row.
    """
    return read_rows(folder / name, _row)


def read_rows(path: Path, parse: Callable[[bytes], AnyRow | None], what: str = "maps") -> dict[str, AnyRow]:
    """Return the rows of a manifest by input, in order, the later of two; empty if there is none.

    Args:
        path: the file.
        parse: a line to its row, None where it is none.
        what: the rows are of, for messages.
    Raises:
        DatoolError: it cannot be read, or a line other than a cut-off last one is no row.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DatoolError(f"cannot read {path}: {error.strerror}.", "Give another --out.") from error
    rows: dict[str, AnyRow] = {}
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line end was cut off
        row = parse(line)
        if row is None:
            raise DatoolError(
                f"{path}, line {number}: not a row of {what} that datool wrote: {line[:60]!r}.",
                "Restore the file, or give another --out.",
            )
        rows[row.input] = row
    return rows


def write_manifest(folder: Path, rows: Iterable[Line], name: str = MANIFEST) -> None:
    """Write the manifest anew, one row an image, whole or not at all; it is left alone if nothing changes.

    Raises:
        DatoolError: it cannot be written.
    """
    path, data = folder / name, b"".join(row.to_line() for row in rows)
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)


def append_row(folder: Path, row: Line, name: str = MANIFEST) -> None:
    """Append a row to a list that is there.

    Raises:
        DatoolError: it cannot be written.
    """
    append(folder / name, row.to_line())


def _row(line: bytes) -> ManifestRow | None:
    try:
        values: Any = json.loads(line)
        known = {item.name for item in fields(ManifestRow)}
        for name in ("formats", "image_size", "network_size"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        row = ManifestRow(**{name: value for name, value in values.items() if name in known})
    except (ValueError, TypeError, AttributeError):
        return None
    return row if row.status in STATUSES and isinstance(row.input, str) else None
