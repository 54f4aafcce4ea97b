"""A doctor for data sets: what the values are, which pairs are broken or do not fit, and a picture of both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from datool.colour import to_picture
from datool.data.sample import Sample
from datool.data.sources.base import Row, Source
from datool.data.sources.table import SOURCES, find_source
from datool.depth import same_aspect
from datool.errors import DatoolError, MissingLibraryError
from datool.files import read_image, write_bytes
from datool.files.stored_map import one_channel, read_stored
from datool.jobs.data.checkup import BINS, BROKEN, COUNTS, FACTS, FAULTS, LABELLED, examine, guess_unit, judge
from datool.parallel import batches, map_processes
from datool.progress import Progress

# Pairs that go to a worker at once.
BATCH = 16
# On the sheet: pairs with findings, and pairs without, evenly over the set.
SHOWN, SHOWN_CLEAN = 48, 16
TILE_PX, COLUMNS = 160, 4
# Findings whose evidence is the number of another pair.
# Facts of some pairs, their histograms, and kind and problem of those that are broken, by their number among them.
Examined = tuple[np.ndarray, np.ndarray, dict[int, tuple[str, str]]]
NAMES_ANOTHER = ("duplicate", "near-duplicate", "borrowed")


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What to look at.

    Args:
        sources: names of `SOURCES`, manifests, folders of shards, tars or images.
        roots: folder of a data set by its name.
        split: of each source; None = its first.
        num: pairs of each set, evenly over it; None = all.
        sheet: PNG with pairs and their maps; of several sets one a set, named after it. None = none.
        num_workers: processes; 0 = one a CPU core.
    """

    sources: Sequence[str]
    roots: Mapping[str, Path] = field(default_factory=dict)
    split: str | None = None
    num: int | None = None
    sheet: Path | None = None
    num_workers: int = 0


@dataclass(frozen=True)
class Finding:
    """One thing about one pair.

    Args:
        id: of the pair.
        kind: key of `FAULTS`.
        detail: the evidence.
    """

    id: str
    kind: str
    detail: str


@dataclass(frozen=True)
class SetReport:
    """What was found in a set.

    Args:
        name, root: of the set.
        num_rows: it has; num_seen: were looked at, of which num_labelled have depth.
        unit, evidence: what the values seem to be in, and why.
        valid, sky: mean shares of the maps.
        low, middle, high: medians over the maps of their 1, 50 and 99 % depth.
        bins: edges of the histograms' bins, of depth and of disparity; of the metric maps if there are any.
        depth_counts, disparity_counts: pixels in each bin.
        sizes: the commonest sizes of the images (height x width) and how many have them.
        findings: all of them, in the set's order.
        seconds: it took.
    """

    name: str
    root: Path
    num_rows: int
    num_seen: int
    num_labelled: int
    unit: str
    evidence: str
    valid: float
    sky: float
    low: float
    middle: float
    high: float
    bins: tuple[float, ...]
    depth_counts: tuple[int, ...]
    disparity_counts: tuple[int, ...]
    sizes: Mapping[str, int]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def kinds(self) -> dict[str, int]:
        """How many findings there are of each kind that was found."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in FAULTS if found[kind]}

    @property
    def is_broken(self) -> bool:
        """Whether training on the set would do harm."""
        return any(FAULTS[kind].broken for kind in self.kinds)


def check(options: CheckOptions, progress: Callable[[Progress], None] = lambda _: None) -> list[SetReport]:
    """Look at each pair of each set, compare it with its set, and return what was found.

    Of a pair 200 bytes are kept, whatever its size.

    Args:
        options: which sets, and how much of them.
        progress: called after every few pairs.
    Raises:
        DatoolError: a set that is not there, or empty; or imagehash is not installed.
    """
    reports = []
    for given in options.sources:
        name, root = find_source(given, options.roots)
        reports.append(_check_set(options, name, root, progress))
    return reports


def _check_set(options: CheckOptions, name: str, root: Path, progress: Callable[[Progress], None]) -> SetReport:
    started = time.monotonic()
    source = SOURCES[name]
    split = options.split or source.splits[0]

    def rows() -> Iterator[Row]:
        return source.index(root, split)

    num_rows = sum(1 for _ in rows())
    chosen = _evenly(num_rows, options.num)
    if not len(chosen):
        raise DatoolError(f"{root} has no rows to check.", f"Expected layout:\n{source.layout}")
    facts, counts = np.zeros(len(chosen), FACTS), np.zeros(COUNTS)
    errors: dict[int, tuple[str, str]] = {}
    state = Progress(len(chosen))
    progress(state)
    parts = map_processes(
        partial(_examine, source),
        batches(_at(rows(), chosen), BATCH),
        options.num_workers,
        name=lambda some: some[0].id,
        killed=_killed,
        parts=lambda some: [[row] for row in some],
    )
    for some, counted, failed in parts:
        facts[state.done + state.failed :][: len(some)] = some
        counts += counted
        errors |= {state.done + state.failed + number: error for number, error in failed.items()}
        state = replace(state, done=state.done + len(some) - len(failed), failed=state.failed + len(failed))
        progress(state)
    broken = [(number, kind, problem) for number, (kind, problem) in errors.items()]
    found = _named(sorted(broken + judge(facts)), _at(rows(), chosen))
    if options.sheet is not None:
        several = len(options.sources) > 1
        path = options.sheet.with_stem(f"{options.sheet.stem}-{name}") if several else options.sheet
        _write_sheet(path, source, found, len(chosen), lambda: _at(rows(), chosen))
    unit, evidence = guess_unit(facts)
    depth_counts, disparity_counts = counts[1 if counts[1].any() else 0].astype(int).tolist()
    known = facts[(facts["status"] == LABELLED) & (facts["valid"] > facts["sky"])]
    middle = {key: float(np.median(known[key])) if len(known) else float("nan") for key in ("low", "middle", "high")}
    labelled = facts[facts["status"] == LABELLED]
    sizes = Counter(f"{height}x{width}" for height, width in facts["image_px"][facts["status"] != BROKEN].tolist())
    return SetReport(
        name=name,
        root=root,
        num_rows=num_rows,
        num_seen=len(chosen),
        num_labelled=len(labelled),
        unit=unit,
        evidence=evidence,
        valid=float(labelled["valid"].mean()) if len(labelled) else 0.0,
        sky=float(labelled["sky"].mean()) if len(labelled) else 0.0,
        **middle,
        bins=tuple(BINS.tolist()),
        depth_counts=tuple(depth_counts),
        disparity_counts=tuple(disparity_counts),
        sizes=dict(sizes.most_common(3)),
        findings=tuple(Finding(id, kind, detail) for _, id, kind, detail in found),
        seconds=time.monotonic() - started,
    )


def _evenly(num_rows: int, num: int | None) -> np.ndarray:
    """Return which rows are looked at: sorted numbers."""
    if num is None or num >= num_rows:
        return np.arange(num_rows)
    return np.arange(num, dtype=np.int64) * num_rows // num


def _at(rows: Iterable[Row], numbers: np.ndarray) -> Iterator[Row]:
    """Yield the rows that ``numbers`` (sorted) name."""
    wanted = iter(numbers.tolist())
    next_one = next(wanted, None)
    for number, row in enumerate(rows):
        if number == next_one:
            yield row
            next_one = next(wanted, None)
            if next_one is None:
                return


def _named(found: Sequence[tuple[int, str, str]], rows: Iterable[Row]) -> list[tuple[int, str, str, str]]:
    """Return the findings with the ids of their pairs, and those of the pairs that they name."""
    others = {int(detail) for _, kind, detail in found if kind in NAMES_ANOTHER}
    wanted = np.array(sorted(others | {number for number, _, _ in found}), np.int64)
    ids = dict(zip(wanted.tolist(), (row.id for row in _at(rows, wanted)), strict=True))
    return [
        (number, ids[number], kind, f"as {ids[int(detail)]}" if kind in NAMES_ANOTHER else detail)
        for number, kind, detail in found
    ]


def _killed(rows: Sequence[Row], error: DatoolError) -> Examined:
    """Return what is told of a pair whose reading was killed."""
    facts = np.zeros(len(rows), FACTS)
    facts["status"] = BROKEN
    return facts, np.zeros(COUNTS), {number: ("unreadable", error.problem) for number in range(len(rows))}


def _examine(source: Source, rows: Sequence[Row]) -> Examined:
    """Return the facts of some pairs, their histograms added up, and what is wrong with those that cannot be read."""
    facts, counts = np.zeros(len(rows), FACTS), np.zeros(COUNTS)
    failed: dict[int, tuple[str, str]] = {}
    for number, row in enumerate(rows):
        try:
            sample = source.read(row)
        except MissingLibraryError:
            raise  # the same for every row
        except DatoolError as error:
            facts[number]["status"] = BROKEN
            failed[number] = _diagnose(row), error.problem
        else:
            facts[number], counted = examine(sample)
            counts += counted
    return facts, counts, failed


def _diagnose(row: Row) -> str:
    """Return what is wrong with a pair that cannot be read, from its files: a key of `FAULTS`."""
    if any(path is not None and not path.exists() for path in (row.image, row.depth)):
        return "missing"
    if row.depth is None:
        return "unreadable"
    try:
        size = read_image(row.image).shape[:2]
        stored, _ = read_stored(row.depth, pictures=True)
    except DatoolError:
        return "unreadable"
    if stored.ndim not in (2, 3):
        return "unreadable"
    for kind, found in (
        ("colour-map", one_channel(stored).ndim == 3),
        ("8-bit", stored.dtype == np.uint8),
        ("size", not same_aspect(stored.shape[:2], size)),
        ("negative", bool((stored < 0).any())),
        ("zero", bool((stored == 0).any())),
    ):
        if found:
            return kind
    return "unreadable"


def _write_sheet(
    path: Path,
    source: Source,
    found: Sequence[tuple[int, str, str, str]],
    num_seen: int,
    rows: Callable[[], Iterator[Row]],
) -> None:
    """Write pairs with findings, then some without: image, map, id, and what was found."""
    kinds: dict[int, list[str]] = {}
    for number, _, kind, _ in found:
        kinds.setdefault(number, []).append(kind)
    flagged = sorted(kinds)[:SHOWN]
    clean = [number for number in _evenly(num_seen, 4 * SHOWN_CLEAN).tolist() if number not in kinds][:SHOWN_CLEAN]
    wanted = np.array(sorted({*flagged, *clean}), np.int64)
    shown = dict(zip(wanted.tolist(), _at(rows(), wanted), strict=True))
    tiles = [_tile(source, shown[number], kinds.get(number, [])) for number in [*flagged, *clean]]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % COLUMNS)
    lines = [np.hstack(tiles[at : at + COLUMNS]) for at in range(0, len(tiles), COLUMNS)]
    encoded = cv2.imencode(".png", cv2.cvtColor(np.vstack(lines), cv2.COLOR_RGB2BGR))[1]
    write_bytes(path, encoded.tobytes())


def _tile(source: Source, row: Row, kinds: Sequence[str]) -> np.ndarray:
    """Return a pair as (TILE_PX + 32, 2 TILE_PX + 8, 3) uint8."""
    image, depth = np.zeros((TILE_PX, TILE_PX, 3), np.uint8), np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
    try:
        sample: Sample | None = source.read(row)
    except DatoolError:
        sample = None
        with suppress(DatoolError):  # then neither can be shown
            image = _fitted(read_image(row.image))
    if sample is not None:
        image = _fitted(sample.image)
        if sample.depth is not None:
            depth = _fitted(to_picture(sample.depth))
    tile = np.full((TILE_PX + 32, 2 * TILE_PX + 8, 3), 255, np.uint8)
    tile[:TILE_PX, :TILE_PX], tile[:TILE_PX, TILE_PX : 2 * TILE_PX] = image, depth
    words = ", ".join(kinds) or ("ok" if sample is not None else "unreadable")
    for text, y, colour in ((row.id[-40:], 12, (0, 0, 0)), (words, 26, (200, 0, 0) if kinds else (0, 120, 0))):
        printable = text.encode("ascii", "replace").decode()
        cv2.putText(tile, printable, (2, TILE_PX + y), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)
    return tile


def _fitted(picture: np.ndarray) -> np.ndarray:
    """Return a picture at most TILE_PX on a side, centred on grey."""
    scale = TILE_PX / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    tile = np.full((TILE_PX, TILE_PX, 3), 200, np.uint8)
    top, left = (TILE_PX - size[1]) // 2, (TILE_PX - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    return tile
