"""One function over many items, in threads or in processes: results in order, few of them held at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import cv2

from datool.errors import DatoolError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items in processes at once, for each of them: enough to keep it busy, few enough to hold no memory.
WAITING = 4


def num_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_io_threads() -> int:
    """Return how many threads to read files with, and how many to write them with, while something else computes."""
    return max(1, num_cores() // 2)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield runs of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while run := list(islice(iterator, size)):
        yield run


def map_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_threads: int,
    *,
    ahead: int,
    eager: bool = False,
    unread: Callable[[Result], None] = lambda _: None,
    name: str = "datool",
    start: Callable[[], object] = lambda: None,
    pool: ThreadPoolExecutor | None = None,
) -> Generator[Result]:
    """Yield ``function(item)`` of each item, in order.

    However it ends, no thread is at work afterwards, and ``items`` is closed if it is a generator. An error of
    ``function`` or of ``items`` is raised in its turn, and what has not begun by then is left undone.

    Args:
        function: called in threads.
        items: read in the caller's thread, only as fast as results are taken.
        num_threads: at least 1.
        ahead: items that may be at work or done while a result is waited for.
        eager: yield a result as soon as it is there, before more items are read.
        unread: called with each result that was done when the end came early.
        name: of the threads.
        start: called first in each thread.
        pool: threads that stay, in place of new ones; then ``num_threads``, ``name`` and ``start`` are its own.
    """
    waiting: deque[Future[Result]] = deque()
    threads = pool or ThreadPoolExecutor(num_threads, name, start)
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            while waiting and (len(waiting) > ahead or (eager and waiting[0].done())):
                result = waiting[0].result()  # stays in the line until it is there, should Ctrl-C come
                waiting.popleft()
                yield result
        while waiting:
            result = waiting[0].result()
            waiting.popleft()
            yield result
    finally:
        for left in waiting:
            left.cancel()
        wait(waiting)
        if pool is None:
            threads.shutdown()
        if isinstance(items, Generator):
            items.close()
        for left in waiting:
            if not left.cancelled() and left.exception() is None:
                unread(left.result())


def map_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    num_workers: int,
    *,
    name: Callable[[Item], str],
    killed: Callable[[Item, DatoolError], Result] | None = None,
    parts: Callable[[Item], Sequence[Item]] = lambda item: (item,),
) -> Iterator[Result]:
    """Yield ``function(item)`` of each item, in order; where a worker process is killed, the others go on.

    What the killed one and its neighbours were at is done once more, an item at a time in a process of its own. An item
    that gets killed there too, mostly for want of memory, is the one to blame.

    Args:
        function: of a module's top level, or a partial of one: it goes to other processes.
        items: read only as fast as results are taken.
        num_workers: processes; 0 = one a CPU core that this process may use; 1 = this process, none beside it.
        name: of an item, for messages.
        killed: gives the result of an item that kills its worker; None = it is an error.
        parts: what such an item is made of: each part is tried alone, and has its own result.
    Raises:
        DatoolError: an item kills its worker and there is no ``killed``, or processes cannot start.
    """
    num_workers = num_workers or num_cores()
    if num_workers == 1:
        yield from map(function, items)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool, alone = _Processes(function, num_workers), _Processes(function, 1)
    source = iter(items)
    try:
        while True:
            waiting.extend((item, pool.submit(item)) for item in islice(source, WAITING * num_workers - len(waiting)))
            if not waiting:
                return
            item, future = waiting.popleft()
            if not _was_killed(future):
                yield future.result()
                continue
            pool.stop()
            while True:
                results, is_culprit = _again(alone, item, name, killed, parts)
                yield from results
                if is_culprit or not waiting or not _was_killed(waiting[0][1]):
                    break
                item, _ = waiting.popleft()
            alone.stop()
            waiting = deque((item, pool.submit(item) if _was_killed(future) else future) for item, future in waiting)
    finally:
        pool.stop()
        alone.stop()


class _Processes(Generic[Item, Result]):
    """Processes for one function, which start when they are needed, and anew after `stop`."""

    def __init__(self, function: Callable[[Item], Result], num_workers: int) -> None:
        self.function, self.num_workers = function, num_workers
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, item: Item) -> Future[Result]:
        return self._submit(partial(self.function, item))

    def check(self) -> None:
        """Raise if not even a process with nothing to do stays alive."""
        try:
            self._submit(num_cores).result()
        except BrokenProcessPool as error:
            raise DatoolError(
                "worker processes cannot start, or are killed at once.",
                "Give --workers 1; a script of your own must start datool below `if __name__ == '__main__':`.",
            ) from error

    def stop(self) -> None:
        """End the processes, once what they are at is done."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None

    def _submit(self, call: Callable[[], Any]) -> Future[Any]:
        if self.pool is None:
            # A fork would inherit torch's threads, and locks that they hold.
            self.pool = ProcessPoolExecutor(self.num_workers, multiprocessing.get_context("spawn"), _begin)
        # Processes that start here inherit what is blocked: Ctrl-C is for the process that started them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self.pool.submit(call)
        except BrokenProcessPool as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _again(
    alone: _Processes[Item, Result],
    item: Item,
    name: Callable[[Item], str],
    killed: Callable[[Item, DatoolError], Result] | None,
    parts: Callable[[Item], Sequence[Item]],
) -> tuple[list[Result], bool]:
    """Do an item again in a process of its own; return its results, and whether it killed that process too."""
    alone.check()
    future = alone.submit(item)
    if not _was_killed(future):
        return [future.result()], False
    alone.stop()
    smaller = parts(item)
    if len(smaller) > 1:
        return [result for part in smaller for result in _again(alone, part, name, killed, parts)[0]], True
    error = DatoolError(
        f"{name(item)}: the worker process that had it was killed, twice.",
        "Mostly memory ran out: give fewer --workers, or take this item out.",
    )
    if killed is None:
        raise error
    return [killed(item, error)], True


def _was_killed(future: Future[Result]) -> bool:
    """Wait for the future, and tell whether its process died."""
    return future.cancelled() or isinstance(future.exception(), BrokenProcessPool)


def _begin() -> None:
    """Set a worker up: one thread, since the others have the other cores."""
    cv2.setNumThreads(1)
