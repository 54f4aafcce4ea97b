"""The manifest of a folder of clouds: ``manifest.jsonl``, one row a picture, as `datool.data.manifest` is of maps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from datool.data.manifest import MANIFEST, STATUSES, read_rows


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


def read_clouds(folder: Path) -> dict[str, CloudRow]:
    """Return the rows of the manifest in ``folder`` by input, in order; empty if there is none.

    Raises:
        DatoolError: it cannot be read, or a line other than a cut-off last one is no row of clouds.
    """
    return read_rows(folder / MANIFEST, _row, "clouds")


def _row(line: bytes) -> CloudRow | None:
    known = {item.name for item in fields(CloudRow)}
    try:
        row = CloudRow(**{name: value for name, value in json.loads(line).items() if name in known})
    except (ValueError, TypeError, AttributeError):
        return None
    return row if row.status in STATUSES and isinstance(row.input, str) else None
