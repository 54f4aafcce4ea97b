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
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datool.data.shards import Failed
from datool.errors import DatoolError, lookup, require
from datool.labelling.label_set import FORMATS, LabelSet, LabelStatus, begin
from datool.labelling.leases import Leases
from datool.labelling.shard_plan import can_refer, find_inputs, has_own_files
from datool.settings import check_part

# What needs torch (seconds to import) is imported where it is used, so that a misspelt input fails at once.
if TYPE_CHECKING:
    from datool.labelling.labeller import LabelOptions
    from datool.labelling.worker import LabelJob, LabelWorker

Progress = Callable[[LabelStatus], None]

ENGINES = ("local", "ray")
POLL_S = 1.0
MAX_NAMED = 100
# Ray starts a task anew when its process dies; a unit that kills so many has something to tell.
MAX_RETRIES = 20
GOODBYE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class PseudoLabelOptions:
    """What to label, with what, and where to.

    Args:
        inputs: as `datool.labelling.shard_plan.find_inputs` takes them.
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


def pseudo_label(
    options: PseudoLabelOptions,
    progress: Progress = lambda _: None,
) -> LabelSummary:
    """Label all photos of the inputs, or do this worker's share of it and what dead ones left.

    It may be killed at any moment, and the disk may fill or vanish: the same command, by any number of workers, goes on
    where it ended and comes to the same bytes. A photo that cannot be read is a failed row with its reason.

    Args:
        options: what, with what, where to.
        progress: called every two seconds with the state of the whole set, at the end, and with messages.
    Raises:
        DatoolError: nothing to label; ``out`` was begun with other inputs, another model or anything else that decides
            bytes; too many failures; photos or folder cannot be reached; or memory or the disk is full. What is done is
            kept.
        KeyboardInterrupt: as it came.
    """
    started = time.monotonic()
    job = _prepare(options, progress)
    if options.engine == "ray":
        _run_ray(job, options.workers, progress)
    else:
        _run_local(job, options, progress)
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


def _prepare(options: PseudoLabelOptions, progress: Progress) -> LabelJob:
    lookup(dict.fromkeys(FORMATS), options.format, "format of labels")
    lookup(dict.fromkeys(ENGINES), options.engine, "engine")
    if options.model == "auto":
        raise DatoolError("labels need one teacher, and 'auto' may change.", "Name it: --model v2-large.")
    if options.worker:
        check_part(options.worker, "--worker")
    if options.rows_per_shard < 1:
        raise DatoolError(f"{options.rows_per_shard} rows per shard, expected at least 1.")
    out = options.out.absolute()
    inputs = find_inputs(options.inputs, options.roots, out)
    from datool.labelling.labeller import LabelOptions
    from datool.labelling.worker import LabelJob, messages

    labels = options.labels or LabelOptions()
    able = can_refer if options.format == "shards" else has_own_files
    stuck = None if labels.keep_images else next((found for found in inputs if not able(found)), None)
    if stuck:
        raise DatoolError(f"labels cannot refer to photos in {stuck.given}.", "Store them beside: --keep-images.")
    identity = begin(out, inputs, options.rows_per_shard, messages(out, progress))
    return LabelJob(out, inputs, identity, options.model, labels, options.format, options.device, options.max_failures)


# Engines


def _run_local(job: LabelJob, options: PseudoLabelOptions, progress: Progress) -> None:
    import torch

    from datool.engines.base import choose_device
    from datool.labelling.worker import work
    from datool.training.distributed import process_group

    device = choose_device(job.device)
    share = options.worker or (0, 1)
    num_gpus = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    with process_group(device) as ranks:
        if ranks.world > 1:
            if options.worker or options.workers > 1:
                raise DatoolError("torchrun already starts the workers.", "Leave --worker and --workers out.")
            progress = progress if ranks.first else _quiet
            work(replace(job, device=str(ranks.device)), (ranks.rank, ranks.world), progress)
            return
    workers = options.workers or num_gpus
    if workers == 1:
        work(job, share, progress)
    else:
        _run_processes(job, share, workers, num_gpus if device.type == "cuda" else 0, progress)


def _quiet(status: LabelStatus) -> None:
    pass


def _run_processes(job: LabelJob, share: tuple[int, int], workers: int, num_gpus: int, progress: Progress) -> None:
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
            time.sleep(POLL_S)
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


def _child(job: LabelJob, share: tuple[int, int], stop: Any, errors: Any) -> None:
    from datool.labelling.worker import Stopped, work

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started it, which says stop
    try:
        with suppress(Stopped):
            work(job, share, stopped=stop.is_set)
    except DatoolError as error:
        errors.put((error.problem, error.hint))


def _run_ray(job: LabelJob, workers: int, progress: Progress) -> None:
    """Run each unit as a task of a Ray cluster: the one that is there, else one on this machine."""
    ray = require("ray", "ray", "--engine ray")
    from datool.labelling.worker import report_status

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
            ended, running = ray.wait(running, timeout=POLL_S)
            ray.get(ended)
            report_status(labels, progress, job)
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


def _ray_unit(job: LabelJob, number: int) -> None:
    worker = _ray_worker(job)
    if not worker.set.is_done(number):
        with Leases(job.out) as leases:
            leases.take(number, anyhow=True)  # Ray gives a unit to one; what leases it is a task that died
            worker.label(number, leases)


@lru_cache(maxsize=1)
def _ray_worker(job: LabelJob) -> LabelWorker:
    """Return the worker of this process, whose model is loaded once."""
    from datool.labelling.worker import LabelWorker

    return LabelWorker(job)
