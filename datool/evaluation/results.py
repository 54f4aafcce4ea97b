"""What scoring gives: a row an image, the values of a set, and the file of rows that a killed run goes on from."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datool.errors import DatoolError
from datool.evaluation.benchmarks import Benchmark, Published
from datool.evaluation.metrics import METRICS
from datool.evaluation.protocols import Protocol
from datool.files import write_bytes
from datool.files.atomic import append

FIXED = (
    *("bench", "id", "status", "kind", "reason", "flags", "group", "weight", "scale", "shift", "protocol"),
    "predictor",
)
COLUMNS = (*FIXED, *METRICS)


@dataclass(frozen=True)
class ImageRow:
    """One image.

    Args:
        bench, id: whose.
        status: ``scored`` or ``failed``.
        kind, reason: why it failed; the kind is for counting.
        flags: what was strange though it could be scored.
        group: of the benchmark, such as its kind of scene.
        weight: pixels or pairs that count.
        scale, shift: of the fit.
        protocol, predictor: hash of the protocol, and what predicted.
        values: metric -> value.
        by_depth: for reports, half octave of depth (see `half_octaves`) -> pixels, and their summed relative error.
    """

    bench: str
    id: str
    status: str = "scored"
    kind: str = ""
    reason: str = ""
    flags: tuple[str, ...] = ()
    group: str = ""
    weight: int = 0
    scale: float = 1.0
    shift: float = 0.0
    protocol: str = ""
    predictor: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    by_depth: Mapping[int, tuple[int, float]] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Speed:
    """How fast an estimator is, on photos that lie in memory already.

    Args:
        images_per_s: of many photos, in the estimator's own batches.
        latency_median_s, latency_p90_s: of one photo at a time.
        peak_bytes: the most memory held: of the GPU if there is one, else of the whole process.
        on: the device, and what the memory is of.
        num_images: photos measured.
    """

    images_per_s: float
    latency_median_s: float
    latency_p90_s: float
    peak_bytes: int
    on: str
    num_images: int


@dataclass(frozen=True)
class BenchResult:
    """One benchmark.

    Args:
        bench, title, root: which data, and where they lay.
        protocol, protocol_sha256, fields: name, hash, and all that was hashed.
        num_images, num_scored, num_skipped: in all, with a score, and of these by an earlier run.
        values: metric -> value of the set, over the scored images alone; empty if none was.
        groups: group -> metric -> value, with ``weight``.
        failures: kind -> images without a score; failed: id and reason of each.
        flags: flag -> images that have it (they are scored).
        published: what others printed.
        rows: one an image, in the data set's order.
    """

    bench: str
    title: str
    root: str
    protocol: str
    protocol_sha256: str
    fields: Mapping[str, Any]
    num_images: int
    num_scored: int
    num_skipped: int
    values: Mapping[str, float]
    groups: Mapping[str, Mapping[str, float]]
    failures: Mapping[str, int]
    failed: tuple[tuple[str, str], ...]
    flags: Mapping[str, int]
    published: tuple[Published, ...]
    rows: tuple[ImageRow, ...]


@dataclass(frozen=True)
class EvalSummary:
    """What a run found.

    Args:
        results: one a benchmark.
        missing: benchmark of ``all`` -> why it was passed over.
        predictor: the model with its hash and size, or the place of the maps.
        version: of datool.
        seconds: of this run.
        name: the predictor in short, as it was asked for.
        speed: of the predictor, if it was asked for.
    """

    results: tuple[BenchResult, ...]
    missing: Mapping[str, str]
    predictor: str
    version: str
    seconds: float
    name: str = ""
    speed: Speed | None = None

    def plain(self) -> dict[str, Any]:
        """Return the summary ready for JSON, without the rows of images that were scored."""
        return {
            "version": self.version,
            "name": self.name,
            "predictor": self.predictor,
            "seconds": self.seconds,
            "speed": None if self.speed is None else asdict(self.speed),
            "missing": dict(self.missing),
            "results": [_plain(result) for result in self.results],
        }

    def to_json(self) -> str:
        """Return `plain` as text."""
        return json.dumps(self.plain(), allow_nan=False)


def gather(
    bench: str,
    row: Benchmark,
    place: tuple[str, str],
    protocol: Protocol,
    rows: Sequence[ImageRow],
    num_skipped: int,
) -> BenchResult:
    """Return what the rows of one benchmark come to.

    Args:
        bench, row: its name, and itself.
        place: title and root of the data.
        protocol: of every row.
        rows: one an image.
        num_skipped: scored by an earlier run.
    """
    scored = [found for found in rows if found.status == "scored"]
    groups: dict[str, list[ImageRow]] = {}
    for found in scored:
        if found.group:
            groups.setdefault(found.group, []).append(found)
    return BenchResult(
        bench=bench,
        title=place[0],
        root=place[1],
        protocol=protocol.name,
        protocol_sha256=protocol.sha256,
        fields=protocol.describe(),
        num_images=len(rows),
        num_scored=len(scored),
        num_skipped=num_skipped,
        values=averaged(scored, protocol),
        groups={
            name: averaged(groups[name], protocol) | {"weight": float(sum(found.weight for found in groups[name]))}
            for name in sorted(groups)
        },
        failures=dict(Counter(found.kind for found in rows if found.status == "failed")),
        failed=tuple((found.id, found.reason) for found in rows if found.status == "failed"),
        flags=dict(Counter(flag for found in scored for flag in found.flags)),
        published=row.published,
        rows=tuple(rows),
    )


def half_octaves(truth: np.ndarray, relative: np.ndarray) -> dict[int, tuple[int, float]]:
    """Return how the error lies over depth: k -> pixels with truth from 2^(k/2) to 2^((k+1)/2), and their summed error.

    Args:
        truth: (N,) depth above 0. relative: (N,) |pred - truth| / truth.
    """
    place = np.floor(2 * np.log2(truth)).astype(int)
    first = int(place.min())
    counts = np.bincount(place - first)
    sums = np.bincount(place - first, weights=relative)
    return {first + int(at): (int(counts[at]), float(sums[at])) for at in np.flatnonzero(counts)}


def averaged(rows: Sequence[ImageRow], protocol: Protocol) -> dict[str, float]:
    """Return the set's value of each metric; empty without a row."""
    if not rows:
        return {}
    weights = [row.weight for row in rows] if protocol.average == "pooled" else None
    return {name: float(np.average([row.values[name] for row in rows], weights=weights)) for name in protocol.metrics}


def _plain(result: BenchResult) -> dict[str, Any]:
    names = [name for name in result.__dataclass_fields__ if name not in ("rows", "published", "failed")]
    return {
        **{name: getattr(result, name) for name in names},
        "failed": [
            {"id": row.id, "kind": row.kind, "reason": row.reason} for row in result.rows if row.status == "failed"
        ],
        "published": [
            {name: getattr(table, name) for name in table.__dataclass_fields__} for table in result.published
        ],
    }


# Rows on disk


def to_csv(rows: Iterable[ImageRow], header: bool = False) -> str:
    """Return rows as CSV, after the names of the columns if ``header``; a metric that was not measured is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    for row in rows:
        cells = {name: getattr(row, name) for name in FIXED}
        cells["flags"] = " ".join(row.flags)
        cells["reason"] = " ".join(row.reason.split())
        writer.writerow([*cells.values(), *(row.values.get(name, "") for name in METRICS)])
    return out.getvalue()


def append_row(path: Path, row: ImageRow) -> None:
    """Append a row to the file.

    Raises:
        DatoolError: it cannot be written.
    """
    append(path, to_csv([row]).encode())


Key = tuple[str, str, str]


def key_of(row: ImageRow) -> Key:
    """Return predictor, benchmark and id, which tell rows apart."""
    return row.predictor, row.bench, row.id


def read_rows(path: Path) -> dict[Key, ImageRow]:
    """Return the rows of an earlier run; the later of two for one image holds, a cut-off last line is dropped.

    Raises:
        DatoolError: the file is none of datool's.
    """
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DatoolError(f"cannot read {path}: {error.strerror}.", "Give another --csv.") from error
    whole = text[: text.rfind("\n") + 1]
    if len(whole) < len(text):
        write_bytes(path, whole.encode())  # so that the next row begins on a line of its own
    reader = csv.DictReader(io.StringIO(whole))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise DatoolError(f"{path} is no table of scores of datool.", "Give another --csv.")
    rows = {}
    for number, cells in enumerate(reader, start=2):
        try:
            row = ImageRow(
                bench=cells["bench"],
                id=cells["id"],
                status=cells["status"],
                kind=cells["kind"],
                reason=cells["reason"],
                group=cells["group"],
                flags=tuple(cells["flags"].split()),
                weight=int(cells["weight"]),
                scale=float(cells["scale"]),
                shift=float(cells["shift"]),
                protocol=cells["protocol"],
                predictor=cells["predictor"],
                values={name: float(cells[name]) for name in METRICS if cells[name]},
            )
        except (TypeError, ValueError) as error:
            raise DatoolError(f"{path}, line {number}: not a row of scores.", "Give another --csv.") from error
        rows[key_of(row)] = row
    return rows
