"""Scores of a model or of saved maps: every image scored or named, every number beside its protocol."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datool import __version__
from datool.data.sources.base import Row
from datool.data.sources.da2k import Pair, read_pairs
from datool.data.sources.table import SOURCES, find_root
from datool.depth import Ambiguity, DepthMap, Quantity
from datool.errors import DatoolError, lookup
from datool.estimators.saved import SavedMap, SavedMaps, WrongValuesError
from datool.evaluation.benchmarks import BENCHMARKS, Benchmark, Published, protocol_for
from datool.evaluation.metrics import METRICS
from datool.evaluation.protocols import CROPS, PROTOCOLS, Protocol, Score, UnscoredError, override, score, score_pairs
from datool.files import write_bytes

# What needs torch (seconds to import) is imported where it is used.
if TYPE_CHECKING:
    from datool.data.sample import Sample
    from datool.estimators.predictor import Predictor

ALL = "all"
MANIFEST_BENCH = "manifest"
MANIFEST_ROW = Benchmark("manifest", {"lsq-disparity": {}})
DEFAULT_PROTOCOL = "lsq-disparity"
# Images in the pool per process: enough to keep it busy, few enough to hold no memory.
WAITING = 4
FIXED = (
    *("bench", "id", "status", "kind", "reason", "flags", "group", "weight", "scale", "shift", "protocol"),
    "predictor",
)
COLUMNS = (*FIXED, *METRICS)


@dataclass(frozen=True)
class EvalOptions:
    """What to score, against what, and how.

    Args:
        bench: names of `BENCHMARKS`, or ``all``: those whose files are found.
        manifest: own data, in place of ``bench``.
        model: name, file or folder, as of `datool.models.weights.load`; not ``auto``.
        predictions: in place of ``model``: a folder of saved maps, or a pattern, as of `SavedMaps`.
        quantity, ambiguity, divisor: of saved maps that do not say; None = they must.
        roots: folder of a data set by its name.
        protocol: a name of `PROTOCOLS`; empty = the benchmark's own.
        overrides: fields of the protocol as texts.
        csv: file of the rows, one an image; a run that was killed goes on from it. None = not written.
        size_px, precision, device, batch_size: as of `Predictor`.
        workers: processes for saved maps; 0 = one a CPU core.
    """

    bench: Sequence[str] = ()
    manifest: Path | None = None
    model: str = ""
    predictions: str | Path | None = None
    quantity: Quantity | None = None
    ambiguity: Ambiguity | None = None
    divisor: float | None = None
    roots: Mapping[str, Path] = field(default_factory=dict)
    protocol: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    csv: Path | None = None
    size_px: int | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int | str = "auto"
    workers: int = 0


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        todo: images of this benchmark, without those scored earlier.
        done, failed: of them.
        skipped: scored by an earlier run.
        message: something to tell apart from the counts; empty mostly.
    """

    todo: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    message: str = ""


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
    """

    results: tuple[BenchResult, ...]
    missing: Mapping[str, str]
    predictor: str
    version: str
    seconds: float

    def to_json(self) -> str:
        """Return the summary as one JSON object, without the rows of images that were scored."""
        return json.dumps(
            {
                "version": self.version,
                "predictor": self.predictor,
                "seconds": self.seconds,
                "missing": dict(self.missing),
                "results": [_plain(result) for result in self.results],
            },
            allow_nan=False,
        )


def evaluate(options: EvalOptions, progress: Callable[[Progress], None] = lambda _: None) -> EvalSummary:
    """Score every image of the benchmarks; name those that cannot be.

    Maps are held one at a time a process; only rows are kept. With ``csv`` a killed run goes on where it ended, and
    failed images are tried again.

    Args:
        options: what, against what, how.
        progress: called after each image, and with messages.
    Raises:
        DatoolError: nothing or too much to score; no such benchmark, model, protocol or field; files not there; or the
            csv holds rows of another predictor or protocol.
    """
    started = time.monotonic()
    _check(options)
    missing: dict[str, str] = {}
    benches = list(_benches(options, missing))
    # Options are checked before the model is loaded, which takes longest.
    jobs = [(bench, row, root, _protocol(bench, options)) for bench, row, root in benches]
    maps = None
    predictor: Predictor | None = None
    if options.predictions is not None:
        maps = SavedMaps(options.predictions, options.quantity, options.ambiguity, options.divisor)
        identity = str(options.predictions)
    else:
        predictor, identity = _load(options)
    earlier = _read_csv(options.csv) if options.csv is not None else {}
    _check_same(options.csv, earlier.values(), {bench: protocol for bench, _, _, protocol in jobs}, identity)
    results = []
    for bench, row, root, protocol in jobs:
        run = _Run(bench, row, root, protocol, identity, options, progress, earlier)
        run.process(maps, predictor)
        results.append(run.result())
    if options.csv is not None:
        rows = {(result.bench, found.id): found for result in results for found in result.rows}
        write_bytes(options.csv, _csv((earlier | rows).values(), header=True).encode())
    return EvalSummary(tuple(results), missing, identity, __version__, time.monotonic() - started)


def _check(options: EvalOptions) -> None:
    if bool(options.bench) == (options.manifest is not None):
        raise DatoolError("expected either benchmarks or a manifest to score against.", "Give --bench or --manifest.")
    if bool(options.model) == (options.predictions is not None):
        raise DatoolError("expected either a model or saved maps to score.", "Give --model or --predictions.")
    if options.model == "auto":
        raise DatoolError("a score needs a named model, got --model auto.", "Give a name, a file or a folder.")
    if options.workers < 0:
        raise DatoolError(f"{options.workers} workers cannot be.", "Give a number, or 0 for one a CPU core.")


def _benches(options: EvalOptions, missing: dict[str, str]) -> Iterator[tuple[str, Benchmark, Path]]:
    """Yield name, row and root; of ``all``, note those whose files are not there."""
    if options.manifest is not None:
        if not options.manifest.exists():
            raise DatoolError(f"no manifest {options.manifest}.", SOURCES["manifest"].layout)
        yield MANIFEST_BENCH, MANIFEST_ROW, options.manifest
        return
    if ALL not in options.bench:
        for bench in dict.fromkeys(options.bench):
            row = lookup(BENCHMARKS, bench, "benchmark")
            yield bench, row, find_root(row.source, options.roots)
        return
    for bench, row in BENCHMARKS.items():
        try:
            root = find_root(row.source, options.roots)
        except DatoolError as error:
            if row.source in options.roots:
                raise
            missing[bench] = error.problem
            continue
        yield bench, row, root
    if len(missing) == len(BENCHMARKS):
        raise DatoolError("the files of no benchmark are there.", f"Give --root NAME=DIR: {', '.join(missing)}.")


def _protocol(bench: str, options: EvalOptions) -> Protocol:
    row = BENCHMARKS.get(bench, MANIFEST_ROW)
    if bench == MANIFEST_BENCH:
        known = lookup(PROTOCOLS, options.protocol or DEFAULT_PROTOCOL, "protocol")
    else:
        # A protocol of maps says nothing about pairs of points, which have one rule.
        known = protocol_for(bench, "" if row.pairs else options.protocol)
    known = override(known, options.overrides)
    wrong = [name for name in known.metrics if (METRICS[name].on == "pairs") != row.pairs]
    if wrong:
        truth = "pairs of points" if row.pairs else "dense truth"
        raise DatoolError(f"metric '{wrong[0]}' cannot be had from the {truth} of {bench}.", "Leave it out.")
    return known if known.split else replace(known, split=SOURCES[row.source].splits[0])


def _load(options: EvalOptions) -> tuple[Predictor, str]:
    from datool.estimators.predictor import Predictor
    from datool.models.weights import load

    loaded = load(options.model)
    predictor = Predictor(loaded, options.device, options.precision, options.size_px, options.batch_size)
    return predictor, f"{loaded.name} {loaded.sha256[:12]} {predictor.size_px}px {predictor.precision}"


class _Run:
    """One benchmark on its way."""

    def __init__(
        self,
        bench: str,
        row: Benchmark,
        root: Path,
        protocol: Protocol,
        predictor: str,
        options: EvalOptions,
        progress: Callable[[Progress], None],
        earlier: Mapping[tuple[str, str], ImageRow],
    ) -> None:
        self.bench, self.row, self.root, self.protocol, self.predictor = bench, row, root, protocol, predictor
        self.options, self.progress = options, progress
        split = protocol.split or SOURCES[row.source].splits[0]
        self.samples = list(SOURCES[row.source].index(root, split))
        counts = Counter(sample.id for sample in self.samples)
        twice = [id for id, count in counts.items() if count > 1]
        if twice:
            raise DatoolError(f"{root} names {len(twice)} samples twice, such as '{twice[0]}'.", "Make ids unique.")
        if not self.samples:
            raise DatoolError(f"{root} holds no sample of split '{split}'.", SOURCES[row.source].layout)
        self.pairs = read_pairs(root) if row.pairs else {}
        self.rows = {
            sample.id: found
            for sample in self.samples
            if (found := earlier.get((bench, sample.id))) is not None and found.status == "scored"
        }
        self.num_skipped = len(self.rows)
        self.counts = Progress(len(self.samples) - self.num_skipped, skipped=self.num_skipped)

    def process(self, maps: SavedMaps | None, predictor: Predictor | None) -> None:
        todo = [sample for sample in self.samples if sample.id not in self.rows]
        self.progress(self.counts)
        if self.options.csv is not None and todo and not self.options.csv.exists():
            write_bytes(self.options.csv, _csv([], header=True).encode())
        if maps is not None:
            found = self._saved(todo, maps)
        else:
            assert predictor is not None, "either maps or a model"
            found = self._predicted(todo, predictor)
        for row in found:
            self.rows[row.id] = row
            if self.options.csv is not None:
                _append(self.options.csv, row)
            name = "done" if row.status == "scored" else "failed"
            self.counts = replace(self.counts, **{name: getattr(self.counts, name) + 1})
            self.progress(self.counts)

    def _task(self, sample: Row, saved: SavedMap | None = None) -> _Task:
        parts = sample.id.split("/")
        place = self.row.group
        group = parts[place] if place is not None and place < len(parts) else ""
        blank = ImageRow(self.bench, sample.id, group=group, protocol=self.protocol.sha256, predictor=self.predictor)
        return _Task(blank, self.row.source, sample, self.protocol, saved, self.pairs.get(sample.id, ()))

    def _saved(self, todo: Iterable[Row], maps: SavedMaps) -> Iterator[ImageRow]:
        """Yield rows in order; each process holds one image."""
        tasks = (self._task(sample, maps.find(sample.id, sample.image)) for sample in todo)
        workers = self.options.workers or _num_cores()
        if workers == 1:
            yield from map(_score_saved, tasks)
            return
        # Not forked: a torch that runs threads in the parent would hang the child.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, context)
        pending: deque[Future[ImageRow]] = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(_score_saved, task))
                if len(pending) > WAITING * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _predicted(self, todo: Iterable[Row], predictor: Predictor) -> Iterator[ImageRow]:
        """Yield rows as the network gives them; truth waits beside its photo, and never for long."""
        flips = (False, True) if self.protocol.flip else (False,)
        samples: dict[str, Sample] = {}
        halves: dict[str, DepthMap] = {}
        given_up: set[str] = set()

        def read(item: tuple[Row, bool]) -> np.ndarray:
            sample, mirrored = item
            found = _cut(SOURCES[self.row.source].read(sample), self.protocol)
            if not mirrored:
                samples[sample.id] = found
            return np.ascontiguousarray(found.image[:, ::-1]) if mirrored else found.image

        for prediction in predictor.stream(((sample, flip) for sample in todo for flip in flips), read):
            sample, mirrored = prediction.item
            task = self._task(sample)
            if sample.id in given_up:
                continue
            if isinstance(prediction.result, DatoolError):
                given_up.add(sample.id)
                samples.pop(sample.id, None)
                halves.pop(sample.id, None)
                yield _failed(task.blank, _kind(prediction.result, sample, prediction.image_size), prediction.result)
                continue
            found = prediction.result
            if self.protocol.flip:
                if mirrored:
                    found = DepthMap(np.ascontiguousarray(found.values[:, ::-1]), found.quantity, found.ambiguity)
                if sample.id not in halves:
                    halves[sample.id] = found
                    continue
                other = halves.pop(sample.id)
                found = DepthMap((found.values + other.values) / np.float32(2), found.quantity, found.ambiguity)
            yield _scored(task, lambda found=found: found, samples.pop(sample.id))  # type: ignore[misc]

    def result(self) -> BenchResult:
        rows = [self.rows[sample.id] for sample in self.samples]
        scored = [row for row in rows if row.status == "scored"]
        groups = sorted({row.group for row in scored if row.group})
        return BenchResult(
            bench=self.bench,
            title=SOURCES[self.row.source].title,
            root=str(self.root),
            protocol=self.protocol.name,
            protocol_sha256=self.protocol.sha256,
            fields=self.protocol.describe(),
            num_images=len(rows),
            num_scored=len(scored),
            num_skipped=self.num_skipped,
            values=_averaged(scored, self.protocol),
            groups={
                name: _averaged(members, self.protocol) | {"weight": float(sum(row.weight for row in members))}
                for name in groups
                if (members := [row for row in scored if row.group == name])
            },
            failures=dict(Counter(row.kind for row in rows if row.status == "failed")),
            failed=tuple((row.id, row.reason) for row in rows if row.status == "failed"),
            flags=dict(Counter(flag for row in scored for flag in row.flags)),
            published=self.row.published,
            rows=tuple(rows),
        )


@dataclass(frozen=True)
class _Task:
    """What scoring one image needs; small, since it goes to another process."""

    blank: ImageRow
    source: str
    sample: Row
    protocol: Protocol
    saved: SavedMap | None
    pairs: tuple[Pair, ...]


def _score_saved(task: _Task) -> ImageRow:
    if task.saved is None:
        return _failed(task.blank, "prediction-missing", DatoolError("no saved map of this image."))
    return _scored(task, task.saved.read)


def _scored(task: _Task, pred: Callable[[], DepthMap], sample: Sample | None = None) -> ImageRow:
    """Return the row of one image; whatever is expected to go wrong becomes the row's reason."""
    try:
        sample = _sample(task) if sample is None else sample
        found = _prediction(pred)
        if task.pairs:
            nearer, farther = (np.array([getattr(pair, name) for pair in task.pairs]) for name in ("nearer", "farther"))
            result: Score = score_pairs(found, nearer, farther, sample.image.shape[:2], task.protocol)
        elif sample.depth is None:
            raise UnscoredError("truth-missing", "this image has no truth.")
        else:
            result = score(found, sample.depth, task.protocol)
    except UnscoredError as error:
        return _failed(task.blank, error.kind, error)
    return replace(
        task.blank,
        flags=result.flags,
        weight=result.weight,
        scale=result.scale,
        shift=result.shift,
        values=result.values,
    )


def _sample(task: _Task) -> Sample:
    try:
        return SOURCES[task.source].read(task.sample)
    except DatoolError as error:
        raise UnscoredError(_kind(error, task.sample), error.problem, error.hint) from error


def _kind(error: DatoolError, sample: Row, read_size: tuple[int, int] | None = None) -> str:
    """Return what to count a failure as; ``read_size`` is the image's, where it could be read."""
    if isinstance(error, UnscoredError):
        return error.kind
    if read_size is not None:
        return "prediction-failed"
    return "sample-unreadable" if sample.image.is_file() else "image-missing"


def _prediction(pred: Callable[[], DepthMap]) -> DepthMap:
    try:
        return pred()
    except WrongValuesError as error:
        raise UnscoredError("prediction-sign", error.problem, error.hint) from error
    except DatoolError as error:
        raise UnscoredError("prediction-unreadable", error.problem, error.hint) from error


def _cut(sample: Sample, protocol: Protocol) -> Sample:
    """Return the sample with its image and truth cut to the protocol's frame, as the network is to see it."""
    crop = CROPS[protocol.crop]
    if crop.frame is None or sample.depth is None:
        return sample
    if sample.depth.shape != sample.image.shape[:2]:
        raise UnscoredError("truth-size", f"crop '{protocol.crop}' needs truth of the image's size.")
    frame = crop.cut(sample.depth.shape)
    depth = DepthMap(np.ascontiguousarray(sample.depth.values[frame]), sample.depth.quantity, sample.depth.ambiguity)
    return replace(sample, image=np.ascontiguousarray(sample.image[frame]), depth=depth, camera=None)


def _failed(row: ImageRow, kind: str, error: DatoolError) -> ImageRow:
    return replace(row, status="failed", kind=kind, reason=str(error))


def _averaged(rows: Sequence[ImageRow], protocol: Protocol) -> dict[str, float]:
    """Return the set's value of each metric; empty without a row."""
    if not rows:
        return {}
    weights = [row.weight for row in rows] if protocol.average == "pooled" else None
    return {name: float(np.average([row.values[name] for row in rows], weights=weights)) for name in protocol.metrics}


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _csv(rows: Iterable[ImageRow], header: bool = False) -> str:
    """Return rows as CSV; a metric that was not measured is empty."""
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


def _append(path: Path, row: ImageRow) -> None:
    try:
        with open(path, "ab") as file:
            file.write(_csv([row]).encode())
    except OSError as error:
        raise DatoolError(f"cannot write {path}: {error.strerror}.", "Free some space, run the same again.") from error


def _read_csv(path: Path) -> dict[tuple[str, str], ImageRow]:
    """Return the rows of an earlier run by benchmark and id; the later of two holds, a cut-off last line is dropped.

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
                **{name: cells[name] for name in ("bench", "id", "status", "kind", "reason", "group")},
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
        rows[row.bench, row.id] = row
    return rows


def _check_same(path: Path | None, rows: Iterable[ImageRow], protocols: Mapping[str, Protocol], predictor: str) -> None:
    """Refuse to put scores beside those of another predictor or protocol."""
    for row in rows:
        asked = protocols[row.bench].sha256 if row.bench in protocols else row.protocol
        for what, held, wanted in (("predictor", row.predictor, predictor), ("protocol", row.protocol, asked)):
            if held != wanted:
                raise DatoolError(
                    f"{path} holds scores of {what} '{held}', asked for was '{wanted}'.", "Give another --csv."
                )
