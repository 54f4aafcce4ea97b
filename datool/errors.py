"""The one exception that users see, and the one way to look a name up in a table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")


class DatoolError(Exception):
    """An expected failure: what went wrong, on what, and what to do next.

    Args:
        problem: what failed, on what, what was got and what was expected.
        hint: the next step for the user; empty if there is none.
    """

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(f"{problem} {hint}".strip())
        self.problem = problem
        self.hint = hint


def lookup(table: Mapping[str, Value], key: str, noun: str) -> Value:
    """Return ``table[key]``, or raise with the nearest known name.

    Raises:
        DatoolError: ``key`` is not in ``table``.
    """
    if key in table:
        return table[key]
    near = difflib.get_close_matches(key, table, n=1)
    guess = f"Did you mean '{near[0]}'? " if near else ""
    raise DatoolError(f"unknown {noun} '{key}'.", f"{guess}Known: {', '.join(sorted(table))}.")
