"""Labels of a teacher for any number of photos, by any number of workers: nothing lost, nothing twice.

Every engine runs one function, a unit at a time, on a folder that they share; what decides the bytes stands in it. So
processes, hosts, ranks of ``torchrun``, a job array and tasks of Ray may come, die and come again, also side by side.

The default format is half floats in OpenEXR (ZIP). Measured on 100 photos, `tiny` at 518, maps of 528x672 in the median
(CPU time of one thread; errors in % of a map's range, and of its mean gradient):

    format                 KB    write    read    error mean / max      gradient
    exr-half (ZIP)        217    6.8 ms   2.4 ms   0.0061 / 0.036        2.8 %
    exr half PIZ          274    8.1      3.1      0.0061 / 0.036        2.8
    png, 12 bits          317    6.4      4.0      0.0061 / 0.012        2.8
    exr PXR24             425    6.2      1.6      0.0002 / 0.001        0.09
    npz, half floats      440   21.9      3.7      0.0061 / 0.036        2.8
    png16                 494    6.8      4.2      0.0004 / 0.001        0.17
    exr (float, ZIP)     1304   14.0      4.6      0                     0

It is the smallest by far (13 TB for 62 M labels, png16 31 TB), and its error is small beside any teacher's; where the
finest slopes matter take ``png16``. Raw disparity is kept, whatever its scale, never made 0 to 1.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datool.data.claims import Claims
from datool.data.label_set import FORMATS, LabelSet, LabelStatus, begin
from datool.data.shards import Failed
from datool.data.units import Input, Photo, can_refer, find_inputs, has_own_files, read_unit
from datool.errors import DatoolError, lookup

# What needs torch (seconds to import) is imported where it is used, so that a misspelt input fails at once.
if TYPE_CHECKING:
    from datool.estimators.labelling import Labeller, LabelOptions

ENGINES = ("local", "ray")
REPORT_S = 2.0
MAX_NAMED = 100
# Ray starts a task anew when its process dies; a unit that kills so many has something to tell.
MAX_RETRIES = 20
GOODBYE_S = 60.0


@dataclass(frozen=True)
class PseudoLabelOptions:
    """What to label, with what, and where to.

    Args:
        inputs: as `datool.data.units.find_inputs` takes them.
        out: folder of the labels; any number of workers may share it.
        model: name, file or folder; never ``auto``.
        labels: how they are made; None = the defaults.
        format: ``shards``, or ``files`` with a manifest.
        rows_per_shard: photos of a shard of a folder or manifest; a tar gives one shard.
        roots: folder of a data set by its name.
        engine: ``local`` or ``ray``.
        worker: which of how many in a job array, from 0; None = what ``torchrun`` says, else alone.
        workers: processes of this command, or tasks of Ray at once; 0 = one a GPU, on a CPU one, of Ray all there are.
        device: as for `Predictor`.
        max_failures: stop when more photos than this have failed, of all workers; None = never.
    """

    inputs: tuple[str, ...]
    out: Path
    model: str
    labels: LabelOptions | None = None
    format: str = "shards"
    rows_per_shard: int = 1000
    roots: Mapping[str, Path] = field(default_factory=dict)
    engine: str = "local"
    worker: tuple[int, int] | None = None
    workers: int = 0
    device: str = "auto"
    max_failures: int | None = None


@dataclass(frozen=True)
class LabelSummary:
    """What a set is when a command ends.

    Args:
        status: of the whole set; not finished = other workers are on the rest.
        data: what ``--data`` of the training commands takes, once it is finished.
        failed: the first hundred photos without a label, and why.
        seconds: of this command.
    """

    status: LabelStatus
    data: Path
    failed: tuple[Failed, ...]
    seconds: float


@dataclass(frozen=True)
class _Job:
    """What a worker is told; it pickles."""

    out: Path
    inputs: tuple[Input, ...]
    units_sha256: str
    model: str
    labels: LabelOptions
    format: str
    device: str
    max_failures: int | None
    lanes: int | None = None

    @property
    def roots(self) -> list[str]:
        """Where the photos are, for readers of the labels."""
        return [os.path.dirname(found.root) if os.path.isfile(found.root) else found.root for found in self.inputs]


Report = Callable[[LabelStatus], None]


def pseudo_label(
    options: PseudoLabelOptions,
    progress: Report = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> LabelSummary:
    """Label all photos of the inputs, or do this worker's share of it and what dead ones left.

    It may be killed at any moment, and the disk may fill or vanish: the same command, by any number of workers, goes on
    where it ended and comes to the same bytes. A photo that cannot be read is a failed row with its reason.

    Args:
        options: what, with what, where to.
        progress: called every two seconds with the state of the whole set, and at the end.
        say: gets messages.
    Raises:
        DatoolError: nothing to label; ``out`` was begun with other inputs, another model or anything else that decides
            bytes; too many failures; photos or folder cannot be reached; or memory or the disk is full. What is done is
            kept.
        KeyboardInterrupt: as it came.
    """
    started = time.monotonic()
    job = _prepare(options, say)
    if options.engine == "ray":
        _run_ray(job, options.workers, progress)
    else:
        _run_local(job, options, progress, say)
    labels = LabelSet(job.out, job.units_sha256)
    status = labels.status()
    progress(status)
    return LabelSummary(status, labels.data, tuple(labels.failed(MAX_NAMED)), time.monotonic() - started)


def read_status(out: Path) -> LabelStatus:
    """Return how far the set in ``out`` is, while workers are on it or after.

    Raises:
        DatoolError: no labels were begun there.
    """
    return LabelSet(out).status()


def _prepare(options: PseudoLabelOptions, say: Callable[[str], None]) -> _Job:
    lookup(dict.fromkeys(FORMATS), options.format, "format of labels")
    lookup(dict.fromkeys(ENGINES), options.engine, "engine")
    if options.model == "auto":
        raise DatoolError("labels need one teacher, and 'auto' may change.", "Name it: --model v2-large.")
    if options.worker and not 0 <= options.worker[0] < options.worker[1]:
        raise DatoolError(f"worker {options.worker[0]} of {options.worker[1]}.", "Count from 0: 0/8 to 7/8.")
    if options.rows_per_shard < 1:
        raise DatoolError(f"{options.rows_per_shard} rows per shard, expected at least 1.")
    out = options.out.absolute()
    inputs = find_inputs(options.inputs, options.roots, out)
    from datool.estimators.labelling import LabelOptions

    labels = options.labels or LabelOptions()
    able = can_refer if options.format == "shards" else has_own_files
    stuck = None if labels.keep_images else next((found for found in inputs if not able(found)), None)
    if stuck:
        raise DatoolError(f"labels cannot refer to photos in {stuck.given}.", "Store them beside: --keep-images.")
    identity = begin(out, inputs, options.rows_per_shard, say)
    return _Job(out, inputs, identity, options.model, labels, options.format, options.device, options.max_failures)


# One worker


class _Worker:
    """A model that is ready, and the folder that it writes to."""

    def __init__(self, job: _Job, say: Callable[[str], None] = lambda _: None) -> None:
        from datool.estimators.labelling import Labeller
        from datool.models.weights import load

        self.job = job
        self.labeller: Labeller = Labeller(load(job.model, say), job.device, job.labels, job.lanes)
        self.set = LabelSet(job.out, job.units_sha256)
        self.set.agree({**self.labeller.settings, "format": job.format})
        self.stop = threading.Event()
        self.failed_before = 0
        self._failing: dict[int, int] = {}

    def label(self, number: int, claims: Claims) -> None:
        """Do one unit, which is claimed; then let it go."""
        places: list[Mapping[str, Any]] = []
        self._failing[number] = 0

        def noted(photos: Iterator[Photo]) -> Iterator[Photo]:
            for photo in photos:
                places.append(photo.place)
                yield photo

        try:
            photos = noted(read_unit(self.set.unit(number), self.job.inputs))
            entries = self.labeller.entries(photos, self._check)
            if self.set.write(number, (self._counted(number, entry) for entry in entries), places):
                self.failed_before += self._failing[number]
        finally:
            del self._failing[number]
            claims.release(number)

    def finish(self) -> None:
        """Write what names the whole set, if all of it is done."""
        if len(self.set.units_done()) == len(self.set):
            self.set.finish(self.job.roots)

    def _counted(self, number: int, entry: Any) -> Any:
        if isinstance(entry, Failed):
            self._failing[number] += 1
            check_failures(self.failed_before + sum(self._failing.values()), self.job.max_failures, entry)
        return entry

    def _check(self) -> None:
        if self.stop.is_set():
            raise _Stopped
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise _Stopped


class _Stopped(BaseException):
    """Ends a unit early since the command ends; nothing of it shows."""


def check_failures(count: int, most: int | None, last: Failed | None = None) -> None:
    """Raise when more photos failed than may.

    Raises:
        DatoolError: so it is.
    """
    if most is not None and count > most:
        told = f" The last one, {last.id}: {last.reason}" if last else ""
        raise DatoolError(f"{count} photos failed, more than --max-failures {most}.{told}", "Mend them, or raise it.")


def _work(
    job: _Job,
    share: tuple[int, int],
    report: Report = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Do a worker's share of the units, then what is left by others that are dead."""
    worker = _Worker(job, say)
    # On a GPU the next unit's photos are read while the last of this one are in the network.
    slots = 2 if worker.labeller.predictor.device.type == "cuda" else 1
    running: set[Future[None]] = set()
    with Claims(job.out) as claims, ThreadPoolExecutor(slots, "datool-unit") as pool:
        try:
            worker.failed_before = _told(worker.set, report, job)
            said = time.monotonic()
            units, ended = _claimed(worker.set, claims, share), False
            while running or not ended:
                while len(running) < slots and not ended:
                    number = next(units, None)
                    if number is None:
                        ended = True
                    else:
                        running.add(pool.submit(worker.label, number, claims))
                done, running = wait(running, REPORT_S / 4, FIRST_COMPLETED)
                for future in done:
                    future.result()
                if stopped():
                    raise _Stopped
                if time.monotonic() - said > REPORT_S:
                    worker.failed_before, said = _told(worker.set, report, job), time.monotonic()
        except BaseException:
            worker.stop.set()
            raise
    worker.finish()


def _told(labels: LabelSet, report: Report, job: _Job) -> int:
    """Report the state of the set; return how many photos failed in it."""
    status = labels.status()
    report(status)
    check_failures(status.failed, job.max_failures)
    return status.failed


def _claimed(labels: LabelSet, claims: Claims, share: tuple[int, int]) -> Iterator[int]:
    """Claim and yield units that are not done: this worker's share, then the others'."""
    worker, count = share
    shares = (range((worker + step) % count, len(labels), count) for step in range(count))
    done = labels.units_done()
    left = [number for number in chain.from_iterable(shares) if number not in done]
    found = True
    while found:
        found = False
        for number in left:
            if not labels.is_done(number) and claims.take(number):
                if labels.is_done(number):  # by one that let it go just now
                    claims.release(number)
                    continue
                found = True
                yield number
        left = [number for number in left if not labels.is_done(number)]
    for number in claims.silent(left):
        if not labels.is_done(number) and claims.take(number, anyhow=True):
            yield number


# Engines


def _run_local(job: _Job, options: PseudoLabelOptions, progress: Report, say: Callable[[str], None]) -> None:
    import torch

    from datool.estimators.predictor import choose_device
    from datool.training.distributed import joined

    device = choose_device(job.device)
    share = options.worker or (0, 1)
    num_gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    with joined(device) as ranks:
        if ranks.world > 1:
            if options.worker or options.workers > 1:
                raise DatoolError("torchrun already starts the workers.", "Leave --worker and --workers out.")
            report = progress if ranks.first else _quiet
            _work(replace(job, device=str(ranks.device)), (ranks.rank, ranks.world), report, say)
            return
    workers = options.workers or num_gpus
    if workers == 1:
        _work(job, share, progress, say)
    else:
        _run_processes(job, share, workers, num_gpus if device.type == "cuda" else 0, progress)


def _quiet(status: LabelStatus) -> None:
    pass


def _run_processes(job: _Job, share: tuple[int, int], workers: int, num_gpus: int, progress: Report) -> None:
    """Run so many workers here, each a process, on a GPU each if there are some."""
    import torch

    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and locks that they hold
    stop, errors = context.Event(), context.SimpleQueue()
    jobs = [
        replace(job, device=f"cuda:{number % num_gpus}")
        if num_gpus
        else replace(job, lanes=max(1, torch.get_num_threads() // workers))
        for number in range(workers)
    ]
    shares = [(share[0] * workers + number, share[1] * workers) for number in range(workers)]
    children = [
        context.Process(target=_child, args=(each, part, stop, errors), daemon=True)
        for each, part in zip(jobs, shares, strict=True)
    ]
    labels = LabelSet(job.out, job.units_sha256)
    try:
        for child in children:
            child.start()
        while any(child.is_alive() for child in children):
            time.sleep(REPORT_S / 4)
            progress(labels.status())
            if not errors.empty():
                problem, hint = errors.get()
                raise DatoolError(problem, hint)
    finally:
        stop.set()
        for child in children:
            child.join(GOODBYE_S)
            child.terminate()
    if not errors.empty():
        problem, hint = errors.get()
        raise DatoolError(problem, hint)
    killed = [child.exitcode for child in children if child.exitcode]
    if killed and not labels.status().finished:
        raise DatoolError(
            f"{len(killed)} of {workers} workers were killed (exit code {killed[0]}); what is done is kept.",
            "Run the same command again.",
        )


def _child(job: _Job, share: tuple[int, int], stop: Any, errors: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it, which says stop
    try:
        with suppress(_Stopped):
            _work(job, share, stopped=stop.is_set)
    except DatoolError as error:
        errors.put((error.problem, error.hint))


def _run_ray(job: _Job, workers: int, progress: Report) -> None:
    """Run each unit as a task of a Ray cluster: the one that is there, else one on this machine."""
    try:
        import ray
    except ImportError as error:
        raise DatoolError(
            "--engine ray needs an optional library.", "Install it: pip install 'datool[ray]'."
        ) from error
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    resources = ray.cluster_resources()
    on_gpu = resources.get("GPU", 0) > 0 and job.device != "cpu"
    task = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_retries=MAX_RETRIES)(_ray_unit)
    most = workers or int(resources.get("GPU" if on_gpu else "CPU", 1))
    labels = LabelSet(job.out, job.units_sha256)
    done = labels.units_done()
    todo = iter([number for number in range(len(labels)) if number not in done])
    job = replace(job, lanes=1)
    running: list[Any] = []
    try:
        while True:
            running += [task.remote(job, number) for _, number in zip(range(most - len(running)), todo, strict=False)]
            if not running:
                break
            ended, running = ray.wait(running, timeout=REPORT_S)
            ray.get(ended)
            _told(labels, progress, job)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, DatoolError):
            raise cause from error
        raise
    except ray.exceptions.RayError as error:
        raise DatoolError(f"Ray: {error}", "Run the same command again.") from error
    finally:
        for each in running:
            ray.cancel(each, force=True)
        ray.shutdown()
    if len(labels.units_done()) == len(labels):
        labels.finish(job.roots)


def _ray_unit(job: _Job, number: int) -> None:
    worker = _ray_worker(job)
    if not worker.set.is_done(number):
        with Claims(job.out) as claims:
            claims.take(number, anyhow=True)  # Ray gives a unit to one; what claims it is a task that died
            worker.label(number, claims)


@lru_cache(maxsize=1)
def _ray_worker(job: _Job) -> _Worker:
    """Return the worker of this process, whose model is loaded once."""
    return _Worker(job)
