"""Scores of models or of saved maps: every image scored or named, every number beside its protocol."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from datool import __version__
from datool.data.sample import Sample
from datool.data.sources.base import Row
from datool.data.sources.da2k import read_pairs
from datool.data.sources.table import FETCHED, SOURCES, find_root
from datool.depth import DepthMap
from datool.errors import DatoolError, lookup
from datool.evaluation.benchmarks import BENCHMARKS, Benchmark, protocol_for
from datool.evaluation.compare import Comparison
from datool.evaluation.compare import compare as compare_results
from datool.evaluation.gallery import Picture, dense_picture, pairs_picture
from datool.evaluation.metrics import METRICS
from datool.evaluation.protocols import PROTOCOLS, Protocol, override, score_pairs
from datool.evaluation.results import (
    EvalSummary,
    ImageRow,
    Key,
    Speed,
    append_row,
    gather,
    key_of,
    read_rows,
    to_csv,
)
from datool.files import write_bytes
from datool.files.stored_map import UNSAID, MapMeaning
from datool.jobs.evaluate import scoring
from datool.jobs.evaluate.predictors import AUTO, NamedPredictor, Settings, named_predictor, saved
from datool.jobs.evaluate.scoring import Task
from datool.parallel import map_processes
from datool.progress import Progress
from datool.settings import check_part

ALL = "all"
MANIFEST_BENCH = "manifest"
MANIFEST_ROW = Benchmark("manifest", {"lsq-disparity": {}}, group=-2)
DEFAULT_PROTOCOL = "lsq-disparity"
# Worst and best images of a report, each, and photos that the speed is measured on.
NUM_PICTURES, NUM_SPEED = 6, 32
# (name of a data set, what gets lines of text) -> its folder.
Fetch = Callable[[str, Callable[[str], None]], Path]
Galleries = dict[tuple[str, str], tuple[list[Picture], list[Picture]]]


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to score, against what, and how.

    Args:
        bench: names of `BENCHMARKS`, or ``all``: those whose files are found.
        manifest: own data, in place of ``bench``.
        model: as of `datool.jobs.evaluate.predictors.named_predictor`; empty = ``auto``, if there are no predictions.
        predictions: in place of ``model``: a folder of saved maps, or a pattern, as of `SavedMaps`.
        compare: in place of both, for `compare`: several models or folders of maps.
        meaning: of maps and rivals that do not say it themselves.
        roots: folder of a data set by its name.
        protocol: a name of `PROTOCOLS`; empty = the benchmark's own.
        overrides: fields of the protocol as texts.
        csv: file of the rows, one an image; a run that was killed goes on from it. None = not written.
        rows: further such files, of shards, whose images are not scored again.
        shard: (i, n) = of every n images the i-th alone, from 0.
        html: file of the report. None = not written.
        speed: whether images a second, latency and memory of models are measured.
        resample: what `compare` draws, a name of `datool.evaluation.compare.RESAMPLES`.
        size_px, precision, device, batch_size: as of `Predictor`.
        workers: processes for saved maps; 0 = one a CPU core.
    """

    bench: Sequence[str] = ()
    manifest: Path | None = None
    model: str = ""
    predictions: str | Path | None = None
    compare: Sequence[str] = ()
    meaning: MapMeaning = UNSAID
    roots: Mapping[str, Path] = field(default_factory=dict)
    protocol: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    csv: Path | None = None
    rows: Sequence[Path] = ()
    shard: tuple[int, int] = (0, 1)
    html: Path | None = None
    speed: bool = False
    resample: str = "image"
    size_px: int | None = None
    precision: str = "auto"
    device: str = "auto"
    batch_size: int | str = "auto"
    workers: int = 0

    def settings(self) -> Settings:
        """Return how models and maps are had."""
        return Settings(
            self.meaning,
            self.size_px,
            self.precision,
            self.device,
            self.batch_size,
        )


@dataclass(frozen=True)
class Compared:
    """What `compare` found.

    Args:
        summaries: one a predictor. comparisons: one a benchmark.
    """

    summaries: tuple[EvalSummary, ...]
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> str:
        """Return all of it as one JSON object, without the rows of images that were scored."""
        return json.dumps(
            {
                "comparisons": [found.plain() for found in self.comparisons],
                "predictors": [summary.plain() for summary in self.summaries],
            },
            allow_nan=False,
        )


def evaluate(
    options: EvalOptions, progress: Callable[[Progress], None] = lambda _: None, fetch: Fetch | None = None
) -> EvalSummary:
    """Score every image of the benchmarks; name those that cannot be.

    Maps are held one at a time a process; only rows are kept. With ``csv`` a killed run goes on where it ended, and
    failed images are tried again.

    Args:
        options: what, against what, how.
        progress: called after each image, and with messages.
        fetch: brings a benchmark's data set whose files are not there; None = that they are not is an error.
    Raises:
        DatoolError: nothing or too much to score; no such benchmark, model, protocol or field; files not there; or the
            csv holds rows of another predictor or protocol.
    """
    if options.compare or (options.model and options.predictions is not None):
        raise DatoolError("expected either a model or saved maps to score.", "Give --model or --predictions.")
    spec = None if options.predictions is not None else options.model or AUTO
    return _evaluate(options, [spec], progress, fetch).summaries[0]


def compare(
    options: EvalOptions, progress: Callable[[Progress], None] = lambda _: None, fetch: Fetch | None = None
) -> Compared:
    """Score several predictors one after the other, and tell how they differ on the images that all scored.

    Args:
        options: as of `evaluate`, with ``compare``; the first is what the others are compared with.
        progress, fetch: as of `evaluate`.
    Raises:
        DatoolError: as of `evaluate`; fewer than two to compare, one of them twice, or no image that all scored.
    """
    if len(set(options.compare)) < max(2, len(options.compare)) or options.model or options.predictions is not None:
        raise DatoolError(
            f"expected two or more different models or folders to compare, got {', '.join(options.compare) or 'none'}.",
            "Write datool eval --compare tiny maps/ and leave out --model and --predictions.",
        )
    return _evaluate(options, list(options.compare), progress, fetch)


def _evaluate(
    options: EvalOptions,
    specs: Sequence[str | None],
    progress: Callable[[Progress], None],
    fetch: Fetch | None,
) -> Compared:
    """Score each of ``specs`` (None = ``options.predictions``), write what is to be written, return all."""
    _check(options, specs)
    missing: dict[str, str] = {}

    def tell(text: str) -> None:
        progress(Progress(0, message=text))

    def find(source: str) -> Path:
        """Return where a data set is; one that can be fetched is, if it is not there or not whole."""
        if fetch is None or source not in FETCHED or source in options.roots:
            return find_root(source, options.roots)
        try:
            root = find_root(source, options.roots)
            SOURCES[source].index(root, SOURCES[source].splits[0])
            return root
        except DatoolError:
            return fetch(source, tell)

    # Options are checked before a model is loaded, which takes longest.
    jobs = [(bench, row, root, _protocol(bench, options)) for bench, row, root in _benches(options, missing, find)]
    earlier = _earlier(options, {bench: protocol for bench, _, _, protocol in jobs})
    summaries: list[EvalSummary] = []
    galleries: Galleries = {}
    for spec in specs:
        started = time.monotonic()
        if spec is None:
            assert options.predictions is not None, "either a model or maps"
            one = saved(options.predictions, options.settings())
        else:
            one = named_predictor(spec, options.settings(), tell)
        if len(specs) == 1:
            _check_predictor(options, earlier, one.identity)
        results = []
        for bench, row, root, protocol in jobs:
            run = _Run(bench, row, root, protocol, one, options, progress, earlier)
            run.process()
            earlier |= {key_of(found): found for found in run.rows.values()}
            rows = [run.rows[sample.id] for sample in run.samples]
            results.append(gather(bench, row, (SOURCES[row.source].title, str(root)), protocol, rows, run.num_skipped))
            if options.html is not None:
                galleries[one.name, bench] = run.pictures()
        speed = run.speed() if options.speed and one.estimator is not None else None
        seconds = time.monotonic() - started
        summaries.append(EvalSummary(tuple(results), missing, one.identity, __version__, seconds, one.name, speed))
        if options.csv is not None:
            write_bytes(options.csv, to_csv(earlier.values(), header=True).encode())
    comparisons = tuple(_compare(number, summaries, options) for number in range(len(jobs)) if len(specs) > 1)
    if options.html is not None:
        from datool.evaluation.report import page  # its charts need a library that is an extra

        write_bytes(options.html, page(summaries, comparisons, galleries).encode())
    return Compared(tuple(summaries), comparisons)


def _compare(number: int, summaries: Sequence[EvalSummary], options: EvalOptions) -> Comparison:
    results = {summary.name: summary.results[number] for summary in summaries}
    higher = {name: metric.higher_is_better for name, metric in METRICS.items()}
    return compare_results(results, higher, options.resample)


def _check(options: EvalOptions, specs: Sequence[str | None]) -> None:
    if bool(options.bench) == (options.manifest is not None):
        raise DatoolError("expected either benchmarks or a manifest to score against.", "Give --bench or --manifest.")
    if options.workers < 0:
        raise DatoolError(f"{options.workers} workers cannot be.", "Give a number, or 0 for one a CPU core.")
    check_part(options.shard, "--shard")


def _benches(
    options: EvalOptions, missing: dict[str, str], find: Callable[[str], Path]
) -> Iterator[tuple[str, Benchmark, Path]]:
    """Yield name, row and root; of ``all``, note those whose files are not there."""
    if options.manifest is not None:
        if not options.manifest.exists():
            raise DatoolError(f"no manifest {options.manifest}.", SOURCES["manifest"].layout)
        yield MANIFEST_BENCH, MANIFEST_ROW, options.manifest
        return
    if ALL not in options.bench:
        for bench in dict.fromkeys(options.bench):
            row = lookup(BENCHMARKS, bench, "benchmark")
            yield bench, row, find(row.source)
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


def _earlier(options: EvalOptions, protocols: Mapping[str, Protocol]) -> dict[Key, ImageRow]:
    """Return the rows of earlier runs; refuse those of another protocol."""
    rows: dict[Key, ImageRow] = {}
    for path in (*options.rows, *([options.csv] if options.csv is not None else [])):
        if path != options.csv and not path.is_file():
            raise DatoolError(f"no file of rows {path}.", "Give what --csv of another run wrote.")
        found = read_rows(path)
        for row in found.values():
            if row.bench in protocols and row.protocol != protocols[row.bench].sha256:
                raise _other(path, "protocol", row.protocol, protocols[row.bench].sha256)
        rows |= found
    return rows


def _check_predictor(options: EvalOptions, rows: Mapping[Key, ImageRow], identity: str) -> None:
    """Refuse to put scores beside those of another predictor."""
    for row in rows.values():
        if row.predictor != identity:
            raise _other(options.csv, "predictor", row.predictor, identity)


def _other(path: Path | None, what: str, held: str, wanted: str) -> DatoolError:
    return DatoolError(f"{path} holds scores of {what} '{held}', asked for was '{wanted}'.", "Give another --csv.")


class _Run:
    """One benchmark and one predictor on their way."""

    def __init__(
        self,
        bench: str,
        row: Benchmark,
        root: Path,
        protocol: Protocol,
        one: NamedPredictor,
        options: EvalOptions,
        progress: Callable[[Progress], None],
        earlier: Mapping[Key, ImageRow],
    ) -> None:
        self.bench, self.row, self.root, self.protocol, self.one = bench, row, root, protocol, one
        self.options, self.progress = options, progress
        split = protocol.split or SOURCES[row.source].splits[0]
        samples = list(SOURCES[row.source].index(root, split))
        counts = Counter(sample.id for sample in samples)
        twice = [id for id, count in counts.items() if count > 1]
        if twice:
            raise DatoolError(f"{root} names {len(twice)} samples twice, such as '{twice[0]}'.", "Make ids unique.")
        self.maps = None if one.maps is None else one.maps.among(counts)
        part, of = options.shard
        self.samples = samples[part::of]
        if not self.samples:
            raise DatoolError(f"{root} holds no sample of split '{split}'.", SOURCES[row.source].layout)
        self.pairs = read_pairs(root) if row.pairs else {}
        self.rows = {
            sample.id: found
            for sample in self.samples
            if (found := earlier.get((one.identity, bench, sample.id))) is not None and found.status == "scored"
        }
        self.num_skipped = len(self.rows)
        self.counts = Progress(len(self.samples) - self.num_skipped, skipped=self.num_skipped)

    def process(self) -> None:
        todo = [sample for sample in self.samples if sample.id not in self.rows]
        self.progress(self.counts)
        if self.options.csv is not None and todo and not self.options.csv.exists():
            write_bytes(self.options.csv, to_csv([], header=True).encode())
        found = self._saved(todo) if self.maps is not None else self._predicted(todo)
        for row in found:
            self.rows[row.id] = row
            if self.options.csv is not None:
                append_row(self.options.csv, row)
            name = "done" if row.status == "scored" else "failed"
            self.counts = replace(self.counts, **{name: getattr(self.counts, name) + 1})
            self.progress(self.counts)

    def _task(self, sample: Row) -> Task:
        parts = sample.id.split("/")
        place = self.row.group
        group = parts[place] if place is not None and -len(parts) <= place < len(parts) else ""
        blank = ImageRow(self.bench, sample.id, group=group, protocol=self.protocol.sha256, predictor=self.one.identity)
        found = self.maps.find(sample.id, sample.image) if self.maps is not None else None
        by_depth = self.options.html is not None
        return Task(blank, self.row.source, sample, self.protocol, found, self.pairs.get(sample.id, ()), by_depth)

    def _saved(self, todo: Iterable[Row]) -> Iterator[ImageRow]:
        """Yield rows in order; each process holds one image."""
        return map_processes(
            scoring.score_saved,
            map(self._task, todo),
            self.options.workers,
            name=lambda task: task.sample.id,
            killed=lambda task, error: scoring.failed(task.blank, "worker-killed", error),
        )

    def _predicted(self, todo: Iterable[Row]) -> Iterator[ImageRow]:
        """Yield rows as the network gives them; truth waits beside its photo, and never for long."""
        assert self.one.estimator is not None, "either maps or a model"
        flips = (False, True) if self.protocol.flip else (False,)
        samples: dict[str, Sample] = {}
        halves: dict[str, DepthMap] = {}
        given_up: set[str] = set()

        def read(item: tuple[Row, bool]) -> np.ndarray:
            sample, mirrored = item
            found = scoring.cut(SOURCES[self.row.source].read(sample), self.protocol)
            if not mirrored:
                samples[sample.id] = found
            return scoring.mirrored(found.image) if mirrored else found.image

        for prediction in self.one.estimator.stream(((sample, flip) for sample in todo for flip in flips), read):
            sample, mirrored = prediction.item
            task = self._task(sample)
            if sample.id in given_up:
                continue
            if isinstance(prediction.result, DatoolError):
                given_up.add(sample.id)
                samples.pop(sample.id, None)
                halves.pop(sample.id, None)
                yield scoring.failed(
                    task.blank, scoring.kind_of(prediction.result, sample, prediction.image_size), prediction.result
                )
                continue
            found = prediction.result
            if self.protocol.flip:
                if mirrored:
                    found = scoring.unmirrored(found)
                if sample.id not in halves:
                    halves[sample.id] = found
                    continue
                found = scoring.mean_of(found, halves.pop(sample.id))
            yield scoring.scored(task, lambda found=found: found, samples.pop(sample.id))  # type: ignore[misc]

    def pictures(self) -> tuple[list[Picture], list[Picture]]:
        """Return the worst and the best images, predicted or read once more: no run holds pictures of them all."""
        metric = self.protocol.metrics[0]
        scored = [sample for sample in self.samples if self.rows[sample.id].status == "scored"]
        order = sorted(scored, key=lambda sample: self.rows[sample.id].values[metric])
        if METRICS[metric].higher_is_better:
            order.reverse()
        best = order[: min(NUM_PICTURES, len(order) // 2)]
        worst = order[::-1][: min(NUM_PICTURES, len(order) - len(best))]
        return [self._picture(sample) for sample in worst], [self._picture(sample) for sample in best]

    def _picture(self, row: Row) -> Picture:
        task, value = self._task(row), self.rows[row.id].values[self.protocol.metrics[0]]
        sample = scoring.read_sample(task)
        if task.saved is not None:
            pred = scoring.read_prediction(task.saved.read)
        else:
            assert self.one.estimator is not None, "what was scored has a map or a model"
            sample = scoring.cut(sample, self.protocol)
            pred = self.one.estimator.predict([sample.image])[0]
            if self.protocol.flip:
                pred = scoring.mean_of(
                    pred, scoring.unmirrored(self.one.estimator.predict([scoring.mirrored(sample.image)])[0])
                )
        if not task.pairs:
            assert sample.depth is not None, "it was scored"
            return dense_picture(row.id, value, sample.image, pred, sample.depth, self.protocol)
        points = np.array([(pair.nearer, pair.farther) for pair in task.pairs])
        size = sample.image.shape[:2]
        right = [score_pairs(pred, pair[:1], pair[1:], size, self.protocol).values["accuracy"] == 1 for pair in points]
        return pairs_picture(row.id, value, sample.image, pred, points, np.array(right))

    def speed(self) -> Speed | None:
        """Return how fast the model is on the first photos that could be scored; None if none could."""
        from datool.jobs.evaluate.speed import measure_speed

        assert self.one.estimator is not None, "saved maps have no speed"
        scored = [sample for sample in self.samples if self.rows[sample.id].status == "scored"][:NUM_SPEED]
        photos = [scoring.cut(SOURCES[self.row.source].read(sample), self.protocol).image for sample in scored]
        return measure_speed(self.one.estimator, photos) if photos else None
