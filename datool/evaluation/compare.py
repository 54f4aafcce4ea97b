"""Several predictors on the same images: differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datool.errors import DatoolError, lookup
from datool.evaluation.results import BenchResult, ImageRow

NUM_DRAWS, SEED, LEVEL = 2000, 0, 0.95
# Numbers drawn at once, so that memory does not grow with the set.
DRAWN = 1 << 22
RESAMPLES = {"image": "images", "group": "groups of images, such as scenes", "folder": "folders of images"}


@dataclass(frozen=True)
class Difference:
    """A predictor against the first one in one metric.

    Args:
        value: of the set, over the images that all scored.
        difference: its value less the first one's; low, high: the interval of 95 %.
        better: ``yes`` or ``no`` where the interval leaves 0 out, else ``open``; ``-`` for the first.
    """

    value: float
    difference: float
    low: float
    high: float
    better: str


@dataclass(frozen=True)
class Comparison:
    """One benchmark, several predictors.

    Args:
        bench, protocol, protocol_sha256: which, and how.
        num_images: that all predictors scored; num_left_out: that at least one did not.
        resampled: what was drawn: images, or groups or folders of them; num_units: how many there are.
        table: predictor -> metric -> value and interval, the first predictor first.
    """

    bench: str
    protocol: str
    protocol_sha256: str
    num_images: int
    num_left_out: int
    resampled: str
    num_units: int
    table: Mapping[str, Mapping[str, Difference]]

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return asdict(self)


def compare(
    results: Mapping[str, BenchResult], higher: Mapping[str, bool], resample: str = "image", seed: int = SEED
) -> Comparison:
    """Return how predictors differ from the first on the images that all of them scored.

    Intervals are percentiles of 2,000 paired draws, with replacement, of the images' differences. Neighbouring frames
    of one scene are alike, so that drawing images makes intervals too narrow there; draw groups or folders then.

    Args:
        results: predictor -> its result on one benchmark, under one protocol.
        higher: metric -> whether more is better.
        resample: what is drawn, a name of `RESAMPLES`.
        seed: of the draws.
    Raises:
        DatoolError: no image that all scored, or images without the groups that are to be drawn.

    Source: Efron and Tibshirani 1993, percentile bootstrap of paired differences; clusters: Davison and Hinkley 1997.
    """
    lookup(RESAMPLES, resample, "unit of resampling")
    first = next(iter(results.values()))
    names = list(first.values) or list(first.fields["metrics"])
    scored = [{row.id: row for row in result.rows if row.status == "scored"} for result in results.values()]
    ids = [row.id for row in first.rows if all(row.id in found for found in scored)]
    if not ids:
        raise DatoolError(f"{first.bench}: no image that all of {', '.join(results)} scored.")
    pooled = first.fields["average"] == "pooled"
    weights = np.array([scored[0][id].weight if pooled else 1 for id in ids], np.float64)
    units = _units([scored[0][id] for id in ids], resample)
    values = [np.array([[found[id].values[name] for name in names] for id in ids]) for found in scored]
    table: dict[str, dict[str, Difference]] = {}
    for number, (predictor, mine) in enumerate(zip(results, values, strict=True)):
        means = np.average(mine, axis=0, weights=weights)
        gaps = mine - values[0]
        low, high = paired_bootstrap(gaps, weights, units, seed) if number else np.zeros((2, len(names)))
        middle = np.average(gaps, axis=0, weights=weights)
        table[predictor] = {
            name: Difference(
                float(means[at]),
                float(middle[at]),
                float(low[at]),
                float(high[at]),
                _verdict(float(low[at]), float(high[at]), higher[name]) if number else "-",
            )
            for at, name in enumerate(names)
        }
    return Comparison(
        first.bench,
        first.protocol,
        first.protocol_sha256,
        len(ids),
        first.num_images - len(ids),
        RESAMPLES[resample],
        len(np.unique(units)),
        table,
    )


def paired_bootstrap(
    gaps: np.ndarray, weights: np.ndarray, units: np.ndarray, seed: int = SEED, num_draws: int = NUM_DRAWS
) -> np.ndarray:
    """Return the interval of 95 % of weighted means, (2, M), from draws of whole units with replacement.

    Args:
        gaps: (N, M) differences of N images in M metrics.
        weights: (N,) above 0, of each image.
        units: (N,) the number, from 0, of the unit that an image belongs to; images alone: 0 to N - 1.
        seed, num_draws: of the draws.
    """
    num = int(units.max()) + 1
    sums = np.stack([np.bincount(units, weights=weights * column, minlength=num) for column in gaps.T], axis=1)
    sizes = np.bincount(units, weights=weights, minlength=num)
    generator = np.random.default_rng(seed)
    means = []
    step = max(1, DRAWN // num)
    for start in range(0, num_draws, step):
        draws = generator.multinomial(num, np.full(num, 1 / num), size=min(step, num_draws - start))
        means.append(draws @ sums / (draws @ sizes)[:, None])
    tail = (1 - LEVEL) / 2
    return np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)


def _units(rows: Sequence[ImageRow], resample: str) -> np.ndarray:
    """Return (N,) int: the number of the unit of each row."""
    if resample == "image":
        return np.arange(len(rows))
    names = [row.group if resample == "group" else row.id.rpartition("/")[0] for row in rows]
    if not all(names):
        raise DatoolError(
            f"image '{rows[names.index('')].id}' has no {resample} to draw.",
            "Give --resample image, or ids in folders.",
        )
    return np.unique(names, return_inverse=True)[1]


def _verdict(low: float, high: float, higher_is_better: bool) -> str:
    if low <= 0 <= high:
        return "open"
    return "yes" if (low > 0) == higher_is_better else "no"
