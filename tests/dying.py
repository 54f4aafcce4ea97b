"""A process that dies as by ``kill -9`` at a chosen call of the operating system, always the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["datool.jobs.pointcloud.pointcloud"])


def run_until(job: Any, options: Any, call: str, at: int) -> None:
    """Run ``job(options)`` in another process, which must die just before its ``at``-th call of ``os.<call>``."""
    process = CONTEXT.Process(target=_run, args=(job, options, call, at))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended with {process.exitcode} before call {at} of os.{call}"


def _run(job: Any, options: Any, call: str, at: int) -> None:
    real, left = getattr(os, call), at

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, call, dying)
    job(options)
