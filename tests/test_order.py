"""Laws of the order: every epoch a permutation, one sequence for all, and resuming needs a position and no more."""

from collections import Counter
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datool.data.batches.sampler import RUN, Place, SampleOrder, sample_loader, share
from datool.data.sample import Sample
from datool.data.shards import ShardWriter, encode_sample, open_shards
from datool.errors import DatoolError

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)
SIZES = [[5, 3, 0, 4], [7, 7]]


def named(place: Place) -> tuple[int, int, int]:
    return place.set, place.shard, place.number


def everything(sets: list[list[int]]) -> set[tuple[int, int, int]]:
    return {
        (owner, shard, number)
        for owner, counts in enumerate(sets)
        for shard, count in enumerate(counts)
        for number in range(count)
    }


@given(COUNTS, st.integers(0, 2**63), st.integers(1, 5), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_every_epoch_is_a_permutation(counts, seed, shards_per_block, epoch):
    order = SampleOrder([counts], seed, shards_per_block=shards_per_block)
    places = [order.sample_at(epoch * sum(counts) + place) for place in range(sum(counts))]
    assert len({named(place) for place in places}) == sum(counts)
    assert {named(place) for place in places} == everything([counts])
    assert {place.epoch for place in places} == {epoch}
    assert places == order.epoch(epoch)


def test_several_sets_without_weights_are_one():
    order = SampleOrder(SIZES, seed=1)
    assert {named(place) for place in order.epoch(3)} == everything(SIZES)
    assert order.epoch(3)[5] == order.sample_at(3 * 26 + 5)


def test_seed_and_epoch_decide_the_order():
    counts = [[20] * 10]
    orders = [list(map(named, SampleOrder(counts, seed).epoch(epoch))) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert orders[0] == list(map(named, SampleOrder(counts, 0).epoch(0)))
    # In whatever order it is asked.
    order = SampleOrder(counts, 0)
    backwards = [order.sample_at(position) for position in reversed(range(400))]
    assert backwards[::-1] == order.epoch(0) + order.epoch(1)


def test_the_order_never_changes():
    """A run that is resumed after an update must go on: these numbers are for ever."""
    order = SampleOrder([[4, 4, 4]], seed=7, shards_per_block=2)
    places = [order.sample_at(position) for position in range(24)]
    assert [place.shard * 4 + place.number for place in places] == FOR_EVER
    mixture = SampleOrder([[4], [4]], seed=7, weights=[1, 3])
    assert [mixture.sample_at(position).set for position in range(12)] == MIXED_FOR_EVER


def test_a_block_is_a_few_shards_and_well_shuffled():
    places = SampleOrder([[50] * 12], seed=3, shards_per_block=4).epoch(0)
    for first in range(0, 600, 200):
        block = places[first : first + 200]
        assert len({place.shard for place in block}) == 4
        # Were the shards read in turn, there would be 3 changes; at random, 150 of 199.
        changes = sum(one.shard != two.shard for one, two in pairwise(block))
        assert 120 < changes < 180


def test_shards_come_in_another_order_each_epoch_and_blocks_are_shuffled_apart():
    order = SampleOrder([[30] * 12], seed=3, shards_per_block=1)
    first, second = order.epoch(0), order.epoch(1)
    assert [place.shard for place in first[::30]] != [place.shard for place in second[::30]]
    assert len({tuple(place.number for place in first[at : at + 30]) for at in range(0, 360, 30)}) == 12


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=5), st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_mixtures_keep_their_weights(weights, seed):
    order = SampleOrder([[3, 4]] * len(weights), seed, weights)
    expected = np.array(weights) / sum(weights)
    # In any stretch to sampling error; over a whole run exactly, but for rounding to 1/65536.
    stretch = 5000
    found = Counter(order.sample_at(777 + position).set for position in range(stretch))
    for owner, probability in enumerate(expected):
        sigma = np.sqrt(stretch * probability * (1 - probability))
        assert abs(found[owner] - stretch * probability) < 5 * sigma + 1


def test_a_run_holds_the_exact_shares_and_each_set_goes_through_its_own_epochs():
    weights = [0.5, 0.3, 0.2]
    sets = [[6, 5], [40], [3]]
    order = SampleOrder(sets, 11, weights)
    places = [order.sample_at(position) for position in range(RUN - 3000, RUN + 3000)]
    counted = Counter(order.sample_at(position).set for position in range(0, RUN))
    for owner, weight in enumerate(weights):
        assert abs(counted[owner] - RUN * weight) < 1
        own = [place for place in places if place.set == owner]
        size = sum(sets[owner])
        epochs = sorted({place.epoch for place in own})
        assert epochs == list(range(epochs[0], epochs[-1] + 1))
        for epoch in epochs[1:-1]:  # the first and the last are cut
            inside = [named(place) for place in own if place.epoch == epoch]
            assert len(inside) == size and len(set(inside)) == size
        assert [place for place in order.epoch(epochs[1], owner)] == [p for p in own if p.epoch == epochs[1]]


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 9))
def test_shares_of_all_ranks_are_the_step(first, count, world):
    shares = [share(first, count, rank, world) for rank in range(world)]
    assert [position for mine in shares for position in mine] == list(range(first, first + count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], 0), "nothing to order"),
        (([[0, 0], [1]], 0), r"empty: \[0\]"),
        (([[1], [1]], 0, [1.0]), "expected one above 0 for each"),
        (([[1], [1]], 0, [1.0, 0.0]), "expected one above 0 for each"),
        (([[1], [1]], 0, [1.0, 1e-9]), "is below 1 of"),
        (([[1]], 0, None, 0), "shards per block"),
    ],
)
def test_what_cannot_be_ordered_says_so(arguments, message):
    with pytest.raises(DatoolError, match=message):
        SampleOrder(*arguments)


# Loading


def loaders(order, world, num_workers, position=0, stop=None, batch_size=7, read=named):
    return [sample_loader(read, order, batch_size, position, stop, rank, world, num_workers) for rank in range(world)]


def taken(many, steps=None):
    """Return what all ranks take, step by step."""
    sequence = []
    parts = [iter(loader) for loader in many]
    step = 0
    while steps is None or step < steps:
        batches = [next(part, []) for part in parts]
        if not any(batches):
            break
        sequence += [item for batch in batches for item in batch]
        step += 1
    return sequence


@pytest.fixture(scope="module")
def order():
    return SampleOrder(SIZES, seed=5, weights=[2, 1], shards_per_block=2)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_all_world_sizes_and_workers_take_one_sequence(order, world, num_workers):
    whole = [named(order.sample_at(position)) for position in range(59)]
    assert taken(loaders(order, world, num_workers, stop=59)) == whole


@pytest.mark.parametrize("before, after", [((1, 0), (2, 2)), ((2, 2), (3, 0)), ((3, 0), (1, 2)), ((3, 2), (3, 0))])
def test_resumed_on_another_world_size_the_rest_is_the_same(order, before, after):
    many = loaders(order, *before)
    first = taken(many, steps=4)
    states = [loader.state_dict() for loader in many]
    assert states == [{"position": 28}] * before[0], "one counter, the same on all ranks"
    resumed = loaders(order, *after, stop=80, batch_size=9)
    for loader in resumed:
        loader.load_state_dict(states[0])
    assert first + taken(resumed) == [named(order.sample_at(position)) for position in range(80)]


def test_the_state_counts_what_was_given_not_what_was_prefetched(order):
    (loader,) = loaders(order, 1, 2)
    batches = iter(loader)
    assert loader.state_dict() == {"position": 0}
    for step in range(1, 4):
        next(batches)
        assert loader.state_dict() == {"position": 7 * step}


def test_a_loader_that_is_broken_off_goes_on_where_it_was(order):
    (loader,) = loaders(order, 1, 0, stop=40)
    first = next(iter(loader))
    assert first + taken([loader]) == [named(order.sample_at(position)) for position in range(40)]
    assert loader.state_dict() == {"position": 40} and taken([loader]) == []


def test_fewer_samples_than_ranks_are_refused(order):
    with pytest.raises(DatoolError, match="one sample or more a rank"):
        loaders(order, 3, 0, batch_size=2)


def read_id(sets, place):
    return sets[place.set].read(place.shard, place.number).id


def test_shards_are_read_in_the_order_by_workers(tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    with ShardWriter(tmp_path, {}, 4) as writer:
        for number in range(3):
            ids = [f"{row}" for row in range(number * 4, min(number * 4 + 4, 10))]
            writer.write(number, "", (encode_sample(Sample(id, image)) for id in ids))
        shards = writer.finish(3)
    order = SampleOrder([shards.counts], seed=2)
    got = taken(loaders(order, 2, 2, stop=20, batch_size=4, read=partial(read_id, [open_shards(tmp_path)])))
    expected = [str(place.shard * 4 + place.number) for place in map(order.sample_at, range(20))]
    assert got == expected and sorted(got[:10], key=int) == [str(row) for row in range(10)]


FOR_EVER = [4, 1, 0, 3, 6, 2, 5, 7, 8, 11, 9, 10, 5, 4, 1, 2, 7, 3, 6, 0, 8, 10, 9, 11]
MIXED_FOR_EVER = [1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1]


def test_sets_without_weights_are_mixed_by_size_all_through_an_epoch_that_has_each_sample_once(monkeypatch):
    monkeypatch.setattr("datool.data.batches.sampler.RUN", 512)
    sizes = [[6_003], [40] * 100, [7]]
    order = SampleOrder(sizes, seed=5)
    length = sum(map(sum, sizes))
    for epoch in (0, 1):
        places = [order.sample_at(position) for position in range(epoch * length, (epoch + 1) * length)]
        assert len({named(place) for place in places}) == length
        assert {place.epoch for place in places} == {epoch}
        owners = np.array([place.set for place in places])
        for tenth in np.array_split(owners, 10):
            assert abs(np.mean(tenth == 0) - 6_003 / length) < 0.1
