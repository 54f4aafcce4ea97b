"""How far a job is: what every job hands to its ``progress`` callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Counts of one run, or a message.

    Args:
        todo: items of this run, without those that an earlier one finished; 0 = none, or known at the end alone.
        done, failed: of them.
        skipped: finished by an earlier run.
        message: something to tell apart from the counts; empty mostly.
    """

    todo: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0
    message: str = ""


def messages(progress: Callable[[Progress], None]) -> Callable[[str], None]:
    """Return what hands lines of text to a job's ``progress``, for what has nothing to count."""
    return lambda line: progress(Progress(0, message=line))
