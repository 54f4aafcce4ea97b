"""The one failure that is a row of a table."""

from __future__ import annotations

from datool.errors import DatoolError


class UnscoredError(DatoolError):
    """An image that gets no score: counted and named, never averaged away.

    Args:
        kind: one word or two for counting, such as ``prediction-nan``.
        problem, hint: as of `DatoolError`.
    """

    def __init__(self, kind: str, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.kind = kind
