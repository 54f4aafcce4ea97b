"""Laws of work in threads and processes: order, bounds, and what a failure, a kill or Ctrl-C leaves of the rest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from datool.errors import DatoolError
from datool.parallel import batches, map_processes, map_threads


class Counted:
    """Items that say how many were taken, and whether they were closed."""

    def __init__(self, num):
        self.num, self.taken, self.closed = num, 0, False

    def __call__(self):
        try:
            for item in range(self.num):
                self.taken += 1
                yield item
        finally:
            self.closed = True


# Threads


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_keep_the_order_and_the_bound(threads, eager):
    items = Counted(40)
    found = []
    for result in map_threads(lambda item: (time.sleep(0.001 * (item % 3)), -item)[1], items(), threads, ahead=5):
        found.append(result)
        assert items.taken <= len(found) + 5
    assert found == [-item for item in range(40)]


def test_an_eager_result_does_not_wait_for_the_next_item():
    done = threading.Event()

    def items():
        yield 1
        assert done.wait(60)  # the law: otherwise the second item is asked for before the first result is out
        yield 2

    results = map_threads(lambda item: item, slow_second(items(), 0.05), 1, ahead=8, eager=True)
    assert next(results) == 1
    done.set()
    assert list(results) == [2]


def slow_second(items, seconds):
    """Give the thread time for the first item before the second is asked for."""
    for item in items:
        yield item
        time.sleep(seconds)


def test_the_error_of_an_item_comes_in_its_turn_and_no_later_item_begins():
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    items = Counted(1000)
    found = []
    with pytest.raises(ValueError, match="three"):
        for result in map_threads(work, items(), 1, ahead=4):
            found.append(result)
    assert found == [0, 1, 2] and items.closed and len(begun) <= 8


@pytest.mark.parametrize("by", ["consumer", "items"])
def test_an_early_end_hands_over_what_was_done_and_leaves_no_thread(by):
    late, found, started = [], [], threading.Event()

    def items():
        for item in range(100):
            if item == 6 and by == "items":
                assert started.wait(60)
                raise KeyboardInterrupt
            yield item

    def work(item):
        if item == 5:
            started.set()
        return item

    with pytest.raises(KeyboardInterrupt):
        for result in map_threads(work, items(), 1, ahead=5, unread=late.append, name="datool-test"):
            found.append(result)
            if len(found) == 3 and by == "consumer":
                raise KeyboardInterrupt
    done = found + late
    assert done == list(range(len(done))) and len(found) <= 3 and len(done) >= 3
    if by == "items":
        assert len(done) >= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("datool-test")]


# Processes


def square(item):
    return item * item


def fatal(bad, item):
    """Die on ``bad``, in a worker alone."""
    if item == bad:
        assert multiprocessing.parent_process() is not None
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def fatal_sum(bad, items):
    if bad in items:
        os.kill(os.getpid(), signal.SIGKILL)
    return sum(items)


def failing(item):
    if item == 4:
        raise DatoolError("four cannot be.", "Leave it out.")
    return item


def name(item):
    return f"item {item}"


def test_processes_keep_the_order_and_the_bound():
    items = Counted(30)
    found = []
    for result in map_processes(square, items(), 2, name=name):
        found.append(result)
        assert items.taken <= len(found) + 8
    assert found == [item * item for item in range(30)]
    assert list(map_processes(square, range(5), 1, name=name)) == [0, 1, 4, 9, 16]


def test_an_item_that_kills_its_worker_is_named_and_the_rest_goes_on():
    blamed = []

    def killed(item, error):
        blamed.append((item, str(error)))
        return None

    found = list(map_processes(partial(fatal, 7), range(20), 2, name=name, killed=killed))
    assert found == [None if item == 7 else item * item for item in range(20)]
    ((item, text),) = blamed
    assert item == 7 and "item 7" in text and "killed" in text


def test_of_a_batch_only_the_part_that_kills_is_given_up():
    found = list(
        map_processes(
            partial(fatal_sum, 5),
            batches(range(10), 4),
            2,
            name=lambda run: f"item {run[0]}",
            killed=lambda run, _: -run[0],
            parts=lambda run: [[item] for item in run],
        )
    )
    assert found == [0 + 1 + 2 + 3, 4, -5, 6, 7, 8 + 9]


def test_without_a_stand_in_a_kill_is_an_error_that_names_the_item():
    with pytest.raises(DatoolError, match=r"item 2: .* killed"):
        list(map_processes(partial(fatal, 2), range(6), 2, name=name))
    assert not multiprocessing.active_children()


def test_a_kill_from_outside_blames_no_item():
    found = []
    for result in map_processes(square, range(20), 2, name=name):
        found.append(result)
        if len(found) == 3:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    assert found == [item * item for item in range(20)]


def test_an_error_in_a_worker_arrives_as_it_was():
    with pytest.raises(DatoolError) as caught:
        list(map_processes(failing, range(10), 2, name=name))
    assert caught.value.problem == "four cannot be." and caught.value.hint == "Leave it out."
    assert not multiprocessing.active_children()


CTRL_C = """
import os, signal, sys, time
from datool.parallel import map_processes

def slow(item):
    time.sleep(0.05)
    return item

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so do theirs
    try:
        for number, result in enumerate(map_processes(slow, range(10_000), 2, name=str)):
            if number == 2:
                os.killpg(0, signal.SIGINT)  # as a terminal does: to the workers too
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_of_a_terminal_ends_all_processes_quietly(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CTRL_C)
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, start_new_session=True
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("interrupted\n", "", 0)


def test_processes_that_cannot_start_are_told_of_and_no_item_is_blamed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from datool.parallel import map_processes\n"
        "print(list(map_processes(abs, range(9), 2, name=str, killed=lambda *_: None)))\n"
    )
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and not ended.stdout
    assert "worker processes cannot start" in ended.stderr.splitlines()[-1] and "__main__" in ended.stderr
