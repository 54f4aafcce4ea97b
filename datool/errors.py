"""The exceptions that users see, and the one way to look a name up in a table or to import an optional library."""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeVar

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

    def __reduce__(self) -> tuple[Any, ...]:
        # By default what a subclass adds would be missing where processes hand errors on.
        return _restored, (type(self), self.args, self.__dict__)

    def reworded(self, problem: str, hint: str | None = None) -> DatoolError:
        """Return the same kind of error with another text: who reads a file inside another names both.

        Args:
            problem: the new one, which usually holds the old one.
            hint: None = as it was.
        """
        other = copy.copy(self)
        other.problem, other.hint = problem, self.hint if hint is None else hint
        other.args = (f"{other.problem} {other.hint}".strip(),)
        return other


def _restored(kind: type[DatoolError], args: tuple[object, ...], state: dict[str, object]) -> DatoolError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class MissingLibraryError(DatoolError):
    """A library is not installed: the same for every file, so that none of them is to blame."""


def require(module: str, extra: str, purpose: str, otherwise: str = "") -> ModuleType:
    """Return a library that datool can do without, or raise with the line that installs it.

    Args:
        module: what is imported.
        extra: of datool, which brings it; empty for a part of what datool always needs.
        purpose: what needs it, such as "reading a.exr".
        otherwise: what else the user can do.
    Raises:
        MissingLibraryError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = (error.name or module).partition(".")[0]
        why = "not installed" if isinstance(error, ModuleNotFoundError) else f"broken ({error})"
        wanted = f"datool[{extra}]" if extra else "datool"
        raise MissingLibraryError(
            f"{purpose} needs an optional library that is {why}: {library}.",
            f"Install it: pip install '{wanted}'. {otherwise}".strip(),
        ) from error


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
