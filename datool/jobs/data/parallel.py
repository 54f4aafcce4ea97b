"""Run one function over a stream in several processes, results in order, few of them held at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

import cv2

from datool.errors import DatoolError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Yield ``function(item)`` of each item in order, holding at most four a process.

    Args:
        function: of a module's top level, or a partial of one: it goes to other processes.
        items: read as results are taken.
        num_workers: processes; 0 = one a CPU core that this process may use; 1 = this process, none beside it.
    Raises:
        DatoolError: a process was killed, mostly for want of memory.
    """
    num_workers = num_workers or num_cores()
    if num_workers == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads, and locks that they hold
    waiting: deque[Future[Result]] = deque()
    pool = ProcessPoolExecutor(num_workers, context, _begin)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == 4 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DatoolError("a worker process was killed, or could not start.", "Give fewer --workers.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield runs of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while run := list(islice(iterator, size)):
        yield run


def num_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """Set a worker up: one thread, and Ctrl-C is for the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
