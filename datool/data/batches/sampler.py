"""The order in which training takes the samples of one or several sets: one endless sequence, of which a run is a part.

Which sample stands at a position is computed from the seed and the position alone. So the only state of a run is a
position, whoever reads: all ranks of all world sizes, and any number of workers, take parts of the same sequence.

One set is gone through epoch by epoch, each a permutation: shards in a new order, and the samples of each few shards in
a row shuffled together, so that reading stays within a few files. Several sets are mixed by weight, each with epochs of
its own. Without weights they are one set: an epoch has each sample once, and any part of it each set by its size.

Randomness is counter-based, so that any part of it is computed without what comes before. Source: Salmon et al. 2011
(Philox), whose bits NumPy promises never to change (NEP 19).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from datool.errors import DatoolError

# A mixture keeps its shares in runs of this length, shuffled anew each time.
RUN = 1 << 16


@dataclass(frozen=True)
class Place:
    """What stands at one position.

    Args:
        set, shard, number: which sample: ``number`` counts within its shard.
        epoch: how often its set was gone through before; with the sample it decides what augmentation draws.
    """

    set: int
    shard: int
    number: int
    epoch: int


class SampleOrder:
    """The endless sequence of a seed.

    Args:
        sets: for each set, the samples of each of its shards; a set without shards is one shard.
        seed: of everything that is drawn.
        weights: how often each set is drawn, in any unit; None = the sets are gone through as one.
        shards_per_block: how many shards are shuffled together.
    Raises:
        DatoolError: no sample, or a weight that is not above 0 or far too small to be kept.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[int]],
        seed: int,
        weights: Sequence[float] | None = None,
        shards_per_block: int = 8,
    ) -> None:
        empty = [number for number, counts in enumerate(sets) if sum(counts) == 0]
        if empty or not sets:
            raise DatoolError(f"nothing to order: {len(sets)} sets, empty: {empty}.", "Check what was packed.")
        if shards_per_block < 1:
            raise DatoolError(f"{shards_per_block} shards per block, expected at least 1.")
        self.seed = seed
        streams = [([*counts], [(number, shard) for shard in range(len(counts))]) for number, counts in enumerate(sets)]
        if weights is None and sum(map(len, sets)) <= shards_per_block:  # all are shuffled together anyway
            streams = [
                ([count for counts, _ in streams for count in counts], [pair for _, pairs in streams for pair in pairs])
            ]
        self._streams = [
            _Stream(seed, number, counts, pairs, shards_per_block) for number, (counts, pairs) in enumerate(streams)
        ]
        self._shares = None if weights is None else _shares(weights, len(streams))
        self._length = sum(stream.length for stream in self._streams)

    def sample_at(self, position: int) -> Place:
        """Return what stands at ``position``, from 0 and without end."""
        stream, position = self._find(position)
        return stream.at(position)

    def partner_at(self, position: int, draw: float) -> Place:
        """Return another sample of those that are shuffled together with the one at ``position``, each as likely.

        Of sets that have many shards it is one of the same set.

        So reading stays within the few shards that are being read. It has the epoch of the sample, and is the sample
        itself only where there is no other.

        Args:
            position: of the sample, as for `sample_at`.
            draw: uniform in [0, 1).
        """
        stream, position = self._find(position)
        return stream.at(position, draw)

    def _find(self, position: int) -> tuple[_Stream, int]:
        """Return whose turn it is at ``position``, and where it stands then."""
        if len(self._streams) == 1:
            return self._streams[0], position
        if self._shares is not None:
            run, slot = divmod(position, RUN)
            owners, earlier = _run(self.seed, run, self._shares)
            stream = int(owners[slot])
            return self._streams[stream], run * self._shares[stream] + int(earlier[slot])
        epoch, place = divmod(position, self._length)
        run = place // RUN
        if place >= sum(self._before(run + 1)):  # a run is a few places shorter where shares were rounded down
            run += 1
        begin, end = self._before(run), self._before(run + 1)
        shares = tuple(last - first for first, last in zip(begin, end, strict=True))
        owners, earlier = _run(self.seed, epoch * (self._length // RUN + 1) + run, shares)
        slot = place - sum(begin)
        stream = int(owners[slot])
        return self._streams[stream], epoch * self._streams[stream].length + begin[stream] + int(earlier[slot])

    def _before(self, run: int) -> list[int]:
        """Return how many samples of each set stand before a run of an epoch: by its size, and in the end all."""
        place = min(run * RUN, self._length)
        return [stream.length * place // self._length for stream in self._streams]

    def epoch(self, number: int, set: int = 0) -> list[Place]:
        """Return epoch ``number`` of a set, or of all sets where they have no weights: each sample once."""
        if self._shares is None:
            return [self.sample_at(number * self._length + place) for place in range(self._length)]
        stream = self._streams[set]
        return [stream.at(number * stream.length + place) for place in range(stream.length)]


class _Stream:
    """The epochs of one set, or of several as one."""

    def __init__(
        self, seed: int, number: int, counts: Sequence[int], owners: Sequence[tuple[int, int]], shards_per_block: int
    ) -> None:
        self.key = (seed, number)
        self.counts, self.owners, self.shards_per_block = np.array(counts, np.int64), owners, shards_per_block
        self.length = int(self.counts.sum())
        self._plan: tuple[int, np.ndarray, np.ndarray] | None = None

    def at(self, position: int, partner: float | None = None) -> Place:
        """Return what stands at ``position``, or the one of its block that the draw ``partner`` falls on."""
        epoch, place = divmod(position, self.length)
        order, starts = self._shards(epoch)
        # Starts of the shards in this epoch's order; a block is so many of them in a row.
        block = (int(np.searchsorted(starts, place, "right")) - 1) // self.shards_per_block
        first = block * self.shards_per_block
        last = min(first + self.shards_per_block, len(order))
        shuffled = _shuffled((*self.key, epoch, block + 1), int(starts[last] - starts[first]))
        within = place - int(starts[first])
        if partner is not None:  # so many places further, round and round
            within = (within + 1 + int(partner * (len(shuffled) - 1))) % len(shuffled)
        chosen = int(starts[first] + shuffled[within])
        slot = int(np.searchsorted(starts, chosen, "right")) - 1
        return Place(*self.owners[int(order[slot])], chosen - int(starts[slot]), epoch)

    def _shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shards in the epoch's order, and where each begins in it, the end included."""
        plan = self._plan
        if plan is None or plan[0] != epoch:
            order = _shuffled((*self.key, epoch, 0), len(self.counts))
            self._plan = plan = epoch, order, np.concatenate([[0], np.cumsum(self.counts[order])])
        return plan[1:]


def _shares(weights: Sequence[float], count: int) -> tuple[int, ...]:
    """Return how many positions of a run each set gets: largest remainders, so that they add up."""
    if len(weights) != count or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise DatoolError(f"weights {list(weights)} for {count} sets, expected one above 0 for each.")
    exact = np.array(weights, np.float64) / np.sum(weights) * RUN
    shares = np.floor(exact).astype(np.int64)
    rest = np.argsort(shares - exact, kind="stable")[: RUN - int(shares.sum())]
    shares[rest] += 1
    if (shares == 0).any():
        raise DatoolError(
            f"weight {weights[int(np.argmin(shares))]:g} is below 1 of {RUN} positions.", "Raise it, or leave it out."
        )
    return tuple(shares.tolist())


@lru_cache(maxsize=4)
def _run(seed: int, run: int, shares: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each position of a run its set, and how many positions of that set precede it in the run."""
    counted = np.concatenate([np.arange(share) for share in shares])
    # In the order of the draws every set's positions come in turn, so that its own sequence is kept.
    owners = np.repeat(np.arange(len(shares)), shares)[_shuffled((seed, -1, run, 0), sum(shares))]
    earlier = np.empty(len(owners), np.int64)
    earlier[np.argsort(owners, kind="stable")] = counted
    return owners, earlier


def uniform(key: tuple[int, ...], count: int) -> np.ndarray:
    """Return ``count`` draws by ``key`` alone, the same in all versions and on all machines: float64, in [0, 1)."""
    return (_bits(key, count) >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=256)
def _shuffled(key: tuple[int, ...], length: int) -> np.ndarray:
    """Return a permutation of 0 to ``length`` - 1 by ``key`` alone, the same in all versions and on all machines."""
    return np.argsort(_bits(key, length), kind="stable")


def _bits(key: tuple[int, ...], count: int) -> np.ndarray:
    digest = hashlib.blake2b(repr(key).encode("ascii"), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)


def share(first: int, count: int, rank: int, world: int) -> range:
    """Return the positions of one rank in the step that takes ``count`` positions from ``first`` on.

    The shares of all ranks are disjoint, follow each other and miss none, whether ``world`` divides ``count`` or not.

    Args:
        first: the step's first position.
        count: samples of all ranks together.
        rank, world: which of how many.
    """
    return range(first + count * rank // world, first + count * (rank + 1) // world)


def check_parts(batch_size: int, world: int, micro: int) -> None:
    """Raise unless a batch can be cut into equal parts, so that a mean of the parts' means is the batch's mean.

    Args:
        batch_size: of all ranks together.
        world: ranks.
        micro: parts of a rank.
    Raises:
        DatoolError: ``world`` x ``micro`` does not divide it.
    """
    if batch_size < 1 or batch_size % (world * micro):
        raise DatoolError(
            f"a batch of {batch_size} for {world} ranks x {micro} parts, expected a multiple of {world * micro}.",
            "Change the group's batch size, or how often gradients are accumulated.",
        )


class Order(Protocol):
    """What stands at each position of an endless sequence; a `SampleOrder` is one."""

    def sample_at(self, position: int) -> Any:
        """Return what stands at ``position``; it goes to the workers, so it must pickle."""


def sample_loader(
    read: Callable[[Any], Any],
    order: Order,
    batch_size: int,
    position: int = 0,
    stop: int | None = None,
    rank: int = 0,
    world: int = 1,
    num_workers: int = 0,
    collate: Callable[[list[Any]], Any] = list,
    pin_memory: bool = False,
) -> SampleLoader:
    """Return a loader of one rank's batches, whose whole state is the position after the last batch it gave.

    ``state_dict()`` is ``{"position": n}``: the same on every rank, and taken up by any other world size, number of
    workers or batch size (the loader's own state would hold for the same number of workers only).

    Args:
        read: what ``order`` gives -> a sample; called in the workers, so it must pickle.
        order: of the samples; asked in this process alone, so that its permutations stand in memory once.
        batch_size: of all ranks together.
        position: where to begin.
        stop: where to end; the last batch is smaller, and a rank whose share of it is empty gets none. None = never.
        rank, world: which of how many.
        num_workers: processes that read; 0 = this one.
        collate: what makes a batch of a list of samples; called in the workers.
        pin_memory: whether a batch's tensors go to memory that a GPU can fetch from by itself.
    Raises:
        DatoolError: fewer samples in a batch than ranks.
    """
    if not 0 <= rank < world <= batch_size:
        raise DatoolError(f"a batch of {batch_size} for rank {rank} of {world}, expected one sample or more a rank.")
    return SampleLoader(
        read, partial(_steps, batch_size, stop), order, position, rank, world, num_workers, collate, pin_memory
    )


class SampleLoader:
    """The loader that `sample_loader` returns. Each ``iter`` goes on from ``position`` with workers of its own."""

    def __init__(
        self,
        read: Callable[[Any], Any],
        steps: Callable[[int], Iterator[range]],
        order: Order,
        position: int,
        rank: int,
        world: int,
        num_workers: int,
        collate: Callable[[list[Any]], Any],
        pin_memory: bool,
    ) -> None:
        import torch
        from torch.utils.data import DataLoader

        self.position = position
        self._steps, self._rank, self._world = steps, rank, world
        self._loader: DataLoader[Any] = DataLoader(
            _Samples(read),  # type: ignore[arg-type]  # what torch calls an index may be anything
            batch_sampler=_Shares(self, order),
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=_settle,
            # Else it would draw from torch's global one, and a resumed run draw otherwise.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[Any]:
        mine = iter(self._loader)
        try:
            for step in self._steps(self.position):
                batch = next(mine) if self._share(step) else None
                self.position = step.stop
                if batch is not None:
                    yield batch
        finally:
            del mine  # and with it the workers

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` takes."""
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there, on the next ``iter``."""
        self.position = state["position"]

    def _share(self, step: range) -> range:
        return share(step.start, len(step), self._rank, self._world)


class _Shares:
    """What a loader's batches are made of, from its position on."""

    def __init__(self, loader: SampleLoader, order: Order) -> None:
        self.loader, self.order = loader, order

    def __iter__(self) -> Iterator[list[Any]]:
        for step in self.loader._steps(self.loader.position):
            if mine := self.loader._share(step):
                yield [self.order.sample_at(place) for place in mine]


def _steps(batch_size: int, stop: int | None, first: int) -> Iterator[range]:
    """Yield the positions of each step from ``first`` on, of all ranks together."""
    while stop is None or first < stop:
        last = first + batch_size if stop is None else min(first + batch_size, stop)
        yield range(first, last)
        first = last


class _Samples:
    """The samples as torch's loader asks for them."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, item: Any) -> Any:
        return self.read(item)


def _settle(worker: int) -> None:
    """Let a worker decode in its own thread: the workers are the parallelism, and a fork loses OpenCV's threads."""
    import cv2

    cv2.setNumThreads(0)
