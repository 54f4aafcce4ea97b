"""One worker on a folder of labels: it leases units, labels them, and leaves the same bytes as any other."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from datool.data.shards import Failed, Members
from datool.errors import DatoolError
from datool.estimators.load import open_model
from datool.labelling.label_set import LabelSet, LabelStatus
from datool.labelling.labeller import Labeller, LabelOptions
from datool.labelling.leases import Leases
from datool.labelling.shard_plan import Input, Photo, read_unit

PROGRESS_S = 2.0

Progress = Callable[[LabelStatus], None]


@dataclass(frozen=True)
class LabelJob:
    """What a worker is told; it pickles.

    Args:
        out: folder of the labels, begun.
        inputs: what is labelled.
        units_sha256: of the list of units that ``out`` was begun with.
        model: name, file or folder.
        labels: how they are made.
        format: ``shards`` or ``files``.
        device: as for `Predictor`.
        max_failures: as for `datool.jobs.pseudo_label.PseudoLabelOptions`.
        lanes: as for `Labeller`.
    """

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


class LabelWorker:
    """A model that is ready, and the folder that it writes to.

    Args:
        job: what to do.
        progress: told while weights are fetched.
    Raises:
        DatoolError: no such model or device, or the folder was begun in another way.
    """

    def __init__(self, job: LabelJob, progress: Callable[[str], None] = lambda _: None) -> None:
        self.job = job
        self.labeller = Labeller(open_model(job.model, progress), job.device, job.labels, job.lanes)
        self.set = LabelSet(job.out, job.units_sha256)
        self.set.agree({**self.labeller.settings, "format": job.format})
        self.stop = threading.Event()
        self.failed_before = 0
        self._failing: dict[int, int] = {}

    def label(self, number: int, leases: Leases) -> None:
        """Do one unit, which is leased; then let it go.

        Raises:
            DatoolError: too many failures, or what `Labeller.entries` and `LabelSet.write` raise; the unit is not done.
        """
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
            leases.release(number)

    def finish(self) -> None:
        """Write what names the whole set, if all of it is done."""
        if len(self.set.units_done()) == len(self.set):
            self.set.finish(self.job.roots)

    def _counted(self, number: int, entry: Members | Failed) -> Members | Failed:
        if isinstance(entry, Failed):
            self._failing[number] += 1
            check_failures(self.failed_before + sum(self._failing.values()), self.job.max_failures, entry)
        return entry

    def _check(self) -> None:
        if self.stop.is_set():
            raise Stopped
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise Stopped


class Stopped(BaseException):
    """Ends a unit early since the command ends; nothing of it shows."""


def check_failures(count: int, most: int | None, last: Failed | None = None) -> None:
    """Raise when more photos failed than may.

    Raises:
        DatoolError: so it is.
    """
    if most is not None and count > most:
        last_words = f" The last one, {last.id}: {last.reason}" if last else ""
        raise DatoolError(
            f"{count} photos failed, more than --max-failures {most}.{last_words}", "Mend them, or raise it."
        )


def work(
    job: LabelJob,
    share: tuple[int, int],
    progress: Progress = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Do a worker's share of the units, then what others left, and finish the set if all of it is done.

    Args:
        job: what to do.
        share: which worker of how many, from 0.
        progress: called every two seconds with the state of the set, and with messages.
        stopped: asked now and then whether to end early.
    Raises:
        DatoolError: as `LabelWorker` and its units; what is done is kept.
        Stopped: so it was told, or the process that started this one is gone.
    """
    worker = LabelWorker(job, messages(job.out, progress))
    with Leases(job.out) as leases:
        run_units(worker, leases, share, progress, stopped)
    worker.finish()


def run_units(
    worker: LabelWorker,
    leases: Leases,
    share: tuple[int, int],
    progress: Progress = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Do a worker's share of the units, then those of others that are neither done nor leased by the living."""
    # On a GPU the next unit's photos are read while the last of this one are in the network.
    slots = 2 if worker.labeller.predictor.device.type == "cuda" else 1
    units, ended = _leased(worker.set, leases, share), False
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(slots, "datool-unit") as pool:
        try:
            worker.failed_before, reported_at = report_status(worker.set, progress, worker.job), time.monotonic()
            while running or not ended:
                while len(running) < slots and not ended:
                    number = next(units, None)
                    if number is None:
                        ended = True
                    else:
                        running.add(pool.submit(worker.label, number, leases))
                done, running = wait(running, PROGRESS_S / 4, FIRST_COMPLETED)
                for future in done:
                    future.result()
                if stopped():
                    raise Stopped
                if time.monotonic() - reported_at > PROGRESS_S:
                    worker.failed_before, reported_at = (
                        report_status(worker.set, progress, worker.job),
                        time.monotonic(),
                    )
        except BaseException:
            worker.stop.set()
            raise


def messages(out: Path, progress: Progress) -> Callable[[str], None]:
    """Return what hands lines of text to ``progress``."""
    return lambda line: progress(LabelStatus(out, message=line))


def report_status(labels: LabelSet, progress: Progress, job: LabelJob) -> int:
    """Report the state of the set; return how many photos failed in it."""
    status = labels.status()
    progress(status)
    check_failures(status.failed, job.max_failures)
    return status.failed


def _leased(labels: LabelSet, leases: Leases, share: tuple[int, int]) -> Iterator[int]:
    """Lease and yield units that are not done: this worker's share, then the others'."""
    worker, count = share
    shares = (range((worker + step) % count, len(labels), count) for step in range(count))
    done = labels.units_done()
    left = [number for number in chain.from_iterable(shares) if number not in done]
    found = True
    while found:
        found = False
        for number in left:
            if not labels.is_done(number) and leases.take(number):
                if labels.is_done(number):  # by one that let it go just now
                    leases.release(number)
                    continue
                found = True
                yield number
        left = [number for number in left if not labels.is_done(number)]
    for number in leases.silent(left):
        if not labels.is_done(number) and leases.take(number, anyhow=True):
            yield number
