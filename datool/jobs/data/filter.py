"""The data engine: which of tens of millions of images are worth a label, and why the others are not."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from datool.data.sources.base import Row, Source
from datool.data.sources.manifest import read as read_manifest_row
from datool.data.sources.table import SOURCES, find_source
from datool.errors import DatoolError, MissingLibraryError
from datool.files import held, write_bytes
from datool.files.atomic import whole, writable
from datool.files.images import explained, read_image
from datool.jobs.data.duplicates import earlier_alike
from datool.jobs.data.quality import measure
from datool.parallel import batches, map_processes
from datool.progress import Progress

BATCH = 32
# Changes with what a record means.
VERSION = 1

# What is kept of an image between runs, 41 bytes.
RECORD = np.dtype(
    [
        ("row", "u8"),  # which row it is of
        ("broken", "?"),
        ("height", "i4"),
        ("width", "i4"),
        ("phash", "u8"),
        ("blur", "f4"),
        ("border", "f4"),
        ("text", "f4"),
        ("contrast", "f4"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an image must be; what each drops of 4,270 mixed photos of short side 200 to 336 stands beside it.

    Args:
        min_side_px: of the shorter side: 34 photos, which are smaller.
        max_aspect: longer side by shorter: none.
        max_blur: of `datool.jobs.data.quality`: 5 photos, of which 2 are sharp (night, aircraft in an even sky). A
            Gaussian of 3 px at short side 256 is above 0.5 in 19 of 20 photos.
        max_border: share of borders of one colour on facing sides: 53 photos, nearly all framed or cut out on one
            colour, as products are; a handful stand before a backdrop.
        max_text: of `datool.jobs.data.quality`: 1 photo, falsely. Rendered pages and screens are at 0.34 to 0.66.
        min_contrast: standard deviation of grey: none.
        alike_bits: of 64, in which two images may differ and count as one; -1 = keep them: none of 9.1 M pairs.
            Re-encoded, halved, doubled or grey copies all are within 4, brightened ones in 93 of 100, and ones with 3 %
            cut off all sides in 49.
    """

    min_side_px: int = 256
    max_aspect: float = 3.0
    max_blur: float = 0.5
    max_border: float = 0.04
    max_text: float = 0.3
    min_contrast: float = 10.0
    alike_bits: int = 4


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """What to look through, and where the lists go.

    Args:
        inputs: manifests, folders of images, tars or shards, names of `SOURCES`.
        out: the list of what is kept: a manifest where the images are files.
        rejected: the list of what is not, with the reason; None = beside ``out``, as ``<out>.rejected.jsonl``.
        roots: folder of a data set by its name.
        limits: what an image must be.
        num_workers: processes; 0 = one a CPU core.
    """

    inputs: Sequence[str]
    out: Path
    rejected: Path | None = None
    roots: dict[str, Path] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    num_workers: int = 0


@dataclass(frozen=True)
class FilterSummary:
    """What was kept.

    Args:
        out, rejected: the lists.
        num_images, num_kept: looked at, and kept.
        reasons: how many were dropped for each reason, in the order in which they are asked.
        num_measured: in this run; the others were measured by earlier ones.
        seconds: of this run.
        images_per_s: rate of measuring; 0 if there was nothing to do.
    """

    out: Path
    rejected: Path
    num_images: int
    num_kept: int
    reasons: dict[str, int]
    num_measured: int
    seconds: float
    images_per_s: float


def filter_images(options: FilterOptions, progress: Callable[[Progress], None] = lambda _: None) -> FilterSummary:
    """Measure every image once, then list those that are within the limits, and why the others are not.

    Measures go to ``<out>.measures/``, so that a killed run goes on, and other limits cost no second look at an image.
    Of images that look alike the first is kept. Memory does not grow with the set but for the fingerprints.

    Args:
        options: what, and where to.
        progress: called after every few images.
    Raises:
        DatoolError: an input that is not there, a list that changed since it was measured, or a full disk.
    """
    started = time.monotonic()
    sources = [(SOURCES[name], root) for name, root in map(partial(_find, options), options.inputs)]
    rejected = options.rejected or options.out.with_suffix(".rejected.jsonl")
    work = options.out.with_name(f"{options.out.name}.measures")

    def rows() -> Iterator[tuple[Source, Row]]:
        for source, root in sources:
            for row in source.index(root, source.splits[0]):
                yield source, row

    num_images = sum(1 for _ in rows())
    if not num_images:
        raise DatoolError(f"no images in {', '.join(options.inputs)}.", "Check the inputs.")
    with held(work):
        num_measured = _measure_all(work, rows, num_images, options.num_workers, progress)
        measured = time.monotonic()
        records = np.memmap(work / "records.bin", RECORD, "r", shape=(num_images,))
        reasons, alike = _decide(records, options.limits)
        _write_lists(options.out, rejected, work, rows(), records, reasons, alike)
    counted = Counter(reasons[reasons >= 0].tolist())
    return FilterSummary(
        out=options.out,
        rejected=rejected,
        num_images=num_images,
        num_kept=int(np.count_nonzero(reasons < 0)),
        reasons={name: counted[number] for number, name in enumerate(REASONS)},
        num_measured=num_measured,
        seconds=time.monotonic() - started,
        images_per_s=num_measured / (measured - started),
    )


def _find(options: FilterOptions, given: str) -> tuple[str, Path]:
    """Return what an input means; labels are not asked for, so that shards are images alone."""
    name, root = find_source(given, options.roots)
    return "shards" if name == "packed" else name, root


# Measuring


def _measure_all(
    work: Path,
    rows: Callable[[], Iterator[tuple[Source, Row]]],
    num_images: int,
    num_workers: int,
    progress: Callable[[Progress], None],
) -> int:
    """Append the records of rows that have none yet, in order; return how many."""
    _check_version(work)
    path, reasons = work / "records.bin", work / "broken.jsonl"
    done = path.stat().st_size // RECORD.itemsize if path.exists() else 0
    if done > num_images:
        raise _changed(work)
    left = rows()
    _check_rows(work, path, done, left)
    _drop_after(reasons, done)
    state = Progress(num_images - done)
    progress(state)
    with ExitStack() as stack, writable(work):
        log: IO[bytes] = stack.enter_context(open(reasons, "ab"))
        kept: IO[bytes] = stack.enter_context(open(path, "r+b" if path.exists() else "w+b"))
        kept.truncate(done * RECORD.itemsize)  # a record that was cut off
        kept.seek(0, os.SEEK_END)
        parts = map_processes(
            _measure,
            batches(left, BATCH),
            num_workers,
            name=lambda some: some[0][1].id,
            killed=_killed,
            parts=lambda some: [[row] for row in some],
        )
        for records, broken in parts:
            first = done + state.done + state.failed
            for number, reason in broken.items():
                log.write(json.dumps([first + number, reason]).encode("ascii") + b"\n")
            log.flush()
            kept.write(records.tobytes())
            kept.flush()
            state = replace(state, done=state.done + len(records) - len(broken), failed=state.failed + len(broken))
            progress(state)
    return num_images - done


def _killed(rows: Sequence[tuple[Source, Row]], error: DatoolError) -> tuple[np.ndarray, dict[int, str]]:
    """Return the records of rows whose reading was killed."""
    records = np.zeros(len(rows), RECORD)
    records["row"] = [_identity(row) for _, row in rows]
    records["broken"] = True
    return records, dict.fromkeys(range(len(rows)), error.problem)


def _measure(rows: Sequence[tuple[Source, Row]]) -> tuple[np.ndarray, dict[int, str]]:
    """Return the records of some rows, and what is wrong with those that cannot be read."""
    records = np.zeros(len(rows), RECORD)
    broken: dict[int, str] = {}
    for number, (source, row) in enumerate(rows):
        records[number]["row"] = _identity(row)
        try:
            found = measure(_image(source, row))
        except MissingLibraryError:
            raise  # the same for every row
        except DatoolError as error:
            records[number]["broken"] = True
            broken[number] = error.problem
            continue
        records[number]["height"], records[number]["width"] = found.height_px, found.width_px
        for name in ("phash", "blur", "border", "text", "contrast"):
            records[number][name] = getattr(found, name)
    return records, broken


def _image(source: Source, row: Row) -> np.ndarray:
    """Return the image of a row, without its depth where that is a file of its own."""
    return read_image(row.image) if source.read is read_manifest_row else source.read(row).image


def _identity(row: Row) -> int:
    """Return a hash of which row it is: id, file name and place in it, but not the folder."""
    meta = json.dumps([row.id, row.image.name, row.member]).encode("ascii")
    return int.from_bytes(hashlib.blake2b(meta, digest_size=8).digest(), "big")


def _check_version(work: Path) -> None:
    path, meta = work / "version.json", json.dumps({"version": VERSION, "record": RECORD.itemsize}).encode("ascii")
    if not path.exists():
        write_bytes(path, meta)
    elif path.read_bytes() != meta:
        raise DatoolError(f"{work} holds measures of another version of datool.", "Give another --out.")


def _check_rows(work: Path, path: Path, done: int, left: Iterator[tuple[Source, Row]]) -> None:
    """Take the rows that have records from ``left``, and raise if they are others."""
    if not done:
        return
    records = np.memmap(path, RECORD, "r", shape=(done,))
    for row, (_, found) in zip(records["row"], islice(left, done), strict=True):
        if int(row) != _identity(found):
            raise _changed(work)


def _changed(work: Path) -> DatoolError:
    return DatoolError(f"{work} holds measures of other images: the list changed since.", "Give another --out.")


def _drop_after(path: Path, done: int) -> None:
    """Keep the reasons of rows that have records; a killed run wrote some before its records."""
    if path.exists():
        lines = [line for line in path.read_bytes().split(b"\n") if line.endswith(b"]")]
        kept = [line for line in lines if json.loads(line)[0] < done]
        write_bytes(path, b"".join(line + b"\n" for line in kept))


# Deciding


def _decide(records: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each image's reason (-1 = kept), and which earlier one it looks like (-1 = none)."""
    reasons = np.full(len(records), -1, np.int8)
    for number, (breaks, _) in enumerate(REASONS.values()):
        if breaks is not None:
            reasons[(reasons < 0) & breaks(records, limits)] = number
    alike = np.full(len(records), -1, np.int64)
    if limits.alike_bits >= 0:
        left = np.flatnonzero(reasons < 0)
        found = earlier_alike(records["phash"][left], limits.alike_bits)
        some = found >= 0
        alike[left[some]] = left[found[some]]
        reasons[left[some]] = list(REASONS).index("alike")
    return reasons, alike


def _short(records: np.ndarray) -> np.ndarray:
    return np.minimum(records["height"], records["width"])


def _long(records: np.ndarray) -> np.ndarray:
    return np.maximum(records["height"], records["width"])


Breaks = Callable[[np.ndarray, Limits], np.ndarray]

# In the order in which they are asked; the value is what the list of rejected rows tells.
REASONS: dict[str, tuple[Breaks | None, Callable[[np.void], object] | None]] = {
    "broken": (lambda r, limits: r["broken"], None),
    "small": (
        lambda r, limits: _short(r) < limits.min_side_px,
        lambda r: f"{r['height']}x{r['width']}",
    ),
    "elongated": (
        lambda r, limits: _long(r) > limits.max_aspect * _short(r),
        lambda r: f"{r['height']}x{r['width']}",
    ),
    "flat": (lambda r, limits: r["contrast"] < limits.min_contrast, lambda r: round(float(r["contrast"]), 2)),
    "text": (lambda r, limits: r["text"] > limits.max_text, lambda r: round(float(r["text"]), 3)),
    "padded": (lambda r, limits: r["border"] > limits.max_border, lambda r: round(float(r["border"]), 3)),
    "blurred": (lambda r, limits: r["blur"] > limits.max_blur, lambda r: round(float(r["blur"]), 3)),
    "alike": (None, None),
}


# Lists


def _write_lists(
    out: Path,
    rejected: Path,
    work: Path,
    rows: Iterator[tuple[Source, Row]],
    records: np.ndarray,
    reasons: np.ndarray,
    alike: np.ndarray,
) -> None:
    """Write both lists, whole or not at all, in the order of the inputs."""
    names = list(REASONS)
    log = dict(_told(work))
    wanted = set(np.unique(alike[alike >= 0]).tolist())
    ids: dict[int, str] = {}
    with ExitStack() as stack:
        # What is entered last takes its place first.
        rejected_file, kept_file = (
            stack.enter_context(open(stack.enter_context(whole(path)), "wb")) for path in (rejected, out)
        )
        for number, (source, row) in enumerate(rows):
            if number in wanted:
                ids[number] = row.id
            if reasons[number] < 0:
                kept_file.write(_line(_kept(source, row, out)))
                continue
            name = names[reasons[number]]
            value = REASONS[name][1]
            why: object = ids[int(alike[number])] if name == "alike" else log.get(number, "")
            meta = value(records[number]) if value else why
            rejected_file.write(_line({"id": row.id, "image": str(row.image), "reason": name, "value": meta}))


def _told(work: Path) -> Iterator[tuple[int, str]]:
    with open(work / "broken.jsonl", "rb") as file:
        for line in file:
            number, reason = json.loads(line)
            yield number, reason


def _kept(source: Source, row: Row, out: Path) -> dict[str, object]:
    """Return a row of a manifest in the folder of ``out``; of a manifest's row all fields stay."""
    meta: dict[str, object] = {"id": row.id, "image": str(row.image)}
    if source.read is read_manifest_row:
        assert row.camera is not None and isinstance(row.member, int), "its index gives the manifest and the offset"
        with explained(str(row.camera)), open(row.camera, "rb") as file:
            file.seek(row.member)
            meta = json.loads(file.readline())
        base = row.camera.parent
        for name in ("image", "input", "depth", "truth", "mask"):
            if isinstance(meta.get(name), str):
                meta[name] = _seen_from(base / str(meta[name]), out)
        outputs = meta.get("outputs")
        if isinstance(outputs, dict):
            meta["outputs"] = {name: _seen_from(base / place, out) for name, place in outputs.items()}
        return meta
    meta["image"] = _seen_from(row.image, out)
    if row.member is not None:
        meta["member"] = row.member
    return meta


def _seen_from(path: Path, out: Path) -> str:
    """Return a path relative to the folder of ``out`` where it lies below it, else absolute."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(out)).parent
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _line(row: dict[str, object]) -> bytes:
    return json.dumps(row).encode("ascii") + b"\n"
