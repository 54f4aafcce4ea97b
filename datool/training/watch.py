"""Notices a run that learns nothing: whose predictions have nothing to do with their targets, or whose targets hold
nothing. Its loss tells neither: a constant map can cost less than a good one, and no target costs 0."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

# A mean correlation up to this counts as none. Collapsed nano runs stayed at -0.02 to 0.11 over 50 steps, those that
# learned were above 0.4 after 50 (`benchmarks/losses.py`).
MIN_CORRELATION = 0.15
# A run is collapsed when so many spans in a row had no correlation; it is warned of after half of them.
SPANS = 4


@dataclass
class Watch:
    """What is seen of a run, step by step; the same on every rank.

    Args:
        known: samples so far of which at least a pixel was known.
        means: mean correlation of each span that is over, of the last uncorrelated ones in a row.
        total, count: of the span that goes on: sum of correlations, and of how many steps.
    """

    known: int = 0
    means: list[float] = field(default_factory=list)
    total: float = 0.0
    count: int = 0

    def see(self, correlation: float, span: int) -> bool:
        """Take a step in, and tell whether it ended a span without correlation.

        Args:
            correlation: mean of its samples; NaN, if no target varied, is passed over.
            span: steps of one.
        """
        if math.isnan(correlation):
            return False
        self.total += correlation
        self.count += 1
        if self.count < span:
            return False
        mean, self.total, self.count = self.total / self.count, 0.0, 0
        self.means = [*self.means, mean][-SPANS:] if mean <= MIN_CORRELATION else []
        return bool(self.means)

    @property
    def correlation(self) -> float:
        """Mean over the spans in a row that had none."""
        return sum(self.means) / len(self.means)

    @property
    def suspects(self) -> bool:
        """Whether half of the spans that make a collapse are there."""
        return len(self.means) == SPANS // 2

    @property
    def collapsed(self) -> bool:
        """Whether all of them are."""
        return len(self.means) == SPANS

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for a checkpoint."""
        return asdict(self)
