import tracemalloc
from typing import Literal

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import keyed
from pipeline.plan.keyed import Stream
from pipeline.plan.order import SampleOrder, permute

Mode = Literal["global", "window"]
MODES: tuple[Mode, ...] = ("global", "window")


def round_keys(seed: int) -> np.ndarray:
    return keyed.words(seed, Stream.ORDER, 0, 8)


def shards_of(num_samples: int, shard_size: int) -> np.ndarray:
    """Shards of one size and a last one with the rest."""
    sizes = np.full(-(-num_samples // shard_size), shard_size)
    sizes[-1] -= sizes.sum() - num_samples
    return sizes


# The permutation


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_permute_is_a_bijection_of_every_small_size(seed: int) -> None:
    for size in range(1, 400):
        assert np.array_equal(np.sort(permute(np.arange(size), size, round_keys(seed))), np.arange(size)), size


@settings(max_examples=25, deadline=None)
@given(st.integers(400, 300_000), st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection_of_random_sizes(size: int, seed: int) -> None:
    seen = np.zeros(size, dtype=bool)
    seen[permute(np.arange(size), size, round_keys(seed))] = True
    assert seen.all()


@settings(max_examples=60, deadline=None)
@given(st.integers(10**6, 10**15), st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_permute_keeps_big_sizes_in_range_and_distinct(size: int, seed: int, start: int) -> None:
    positions = np.unique(np.r_[0, size - 1, (start + np.arange(2000)) % size, np.arange(999) * (size // 999)])
    images = permute(positions, size, round_keys(seed))
    assert images.dtype == np.int64
    assert images.min() >= 0
    assert images.max() < size
    assert len(np.unique(images)) == len(positions)


def test_permute_maps_each_position_by_itself_whatever_the_shape() -> None:
    positions = np.arange(60).reshape(3, 4, 5)
    images = permute(positions, 100, round_keys(5))
    assert images.shape == (3, 4, 5)
    for index in np.ndindex(3, 4, 5):
        assert permute(positions[index], 100, round_keys(5)) == images[index]
    assert np.array_equal(permute(positions.T, 100, round_keys(5)), images.T)
    assert permute(np.array([], dtype=np.int64), 100, round_keys(5)).shape == (0,)


@pytest.mark.parametrize("size", [2, 3, 5, 10, 16, 17, 60])
def test_every_position_goes_to_every_place_equally_often(size: int) -> None:
    num_keys = 40 * size
    table = np.zeros((size, size))
    for seed in range(num_keys):
        table[np.arange(size), permute(np.arange(size), size, round_keys(seed))] += 1
    # Rows and columns of a permutation matrix each add up to 1, which leaves (size - 1)**2 degrees of freedom and
    # makes each cell's variance larger than a Poisson count's by size / (size - 1).
    chi_square = reference.chi_square(table, np.full(table.shape, num_keys / size)) * (size - 1) / size
    assert chi_square < reference.chi_square_limit((size - 1) ** 2)


def test_a_permutation_looks_shuffled() -> None:
    images = permute(np.arange(100_000), 100_000, round_keys(3)).astype(np.float64)
    positions = np.arange(100_000)
    assert abs(np.corrcoef(positions, images)[0, 1]) < 0.015
    assert abs(np.corrcoef(images[1:], images[:-1])[0, 1]) < 0.015
    # Of a random permutation, one point stays in its place on average, and one pair of neighbours stays together.
    assert (images == positions).sum() < 8
    assert (np.diff(images) == 1).sum() < 8


# An epoch's order


@settings(max_examples=120, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any),
    mode=st.sampled_from(MODES),
    window_shards=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 1000),
)
def test_an_epoch_visits_every_sample_exactly_once(
    sizes: list[int], mode: Mode, window_shards: int, seed: int, epoch: int
) -> None:
    order = SampleOrder(np.array(sizes), seed, mode, window_shards)
    ids = order.sample_ids(epoch, np.arange(order.num_samples))
    assert ids.dtype == np.int64
    assert np.array_equal(np.sort(ids), np.arange(sum(sizes)))


@settings(max_examples=60, deadline=None)
@given(mode=st.sampled_from(MODES), epoch=st.integers(0, 50), data=st.data())
def test_a_position_has_the_same_sample_whatever_is_asked_with_it(mode: Mode, epoch: int, data: st.DataObject) -> None:
    sizes = shards_of(1000, 64)
    whole = SampleOrder(sizes, 9, mode, 3).sample_ids(epoch, np.arange(1000))
    positions = np.array(data.draw(st.lists(st.integers(0, 999), max_size=20)), dtype=np.int64)
    assert np.array_equal(SampleOrder(sizes, 9, mode, 3).sample_ids(epoch, positions), whole[positions])


@pytest.mark.parametrize("mode", MODES)
def test_every_epoch_and_every_seed_has_its_own_order(mode: Mode) -> None:
    sizes = shards_of(1000, 50)
    orders = [SampleOrder(sizes, seed, mode).sample_ids(epoch, np.arange(1000)) for seed in (0, 1) for epoch in (0, 1)]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).mean() < 0.05


@pytest.mark.parametrize("mode", MODES)
def test_one_order_serves_epochs_back_and_forth(mode: Mode) -> None:
    order = SampleOrder(shards_of(500, 64), 1, mode, 2)
    first = [order.sample_ids(epoch, np.arange(500)) for epoch in range(5)]
    again = [order.sample_ids(epoch, np.arange(500)) for epoch in reversed(range(5))]
    for a, b in zip(first, reversed(again), strict=True):
        assert np.array_equal(a, b)


def test_global_order_draws_a_batch_from_all_shards() -> None:
    shard = SampleOrder(shards_of(100_000, 1000), 0).sample_ids(0, np.arange(2048)) // 1000
    counts = np.bincount(shard, minlength=100)
    assert reference.chi_square(counts, np.full(100, 20.48)) < reference.chi_square_limit(99)


# Windows


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    window_shards=st.integers(1, 10),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 20),
)
def test_each_window_reads_its_few_shards_whole_and_no_other(
    sizes: list[int], window_shards: int, seed: int, epoch: int
) -> None:
    order = SampleOrder(np.array(sizes), seed, "window", window_shards)
    shard_of_sample = np.repeat(np.arange(len(sizes)), sizes)
    shards = shard_of_sample[order.sample_ids(epoch, np.arange(order.num_samples))]
    left, start = len(sizes), 0
    seen: set[int] = set()
    while left:
        num_shards = min(window_shards, left)
        # The window's samples are those up to the point where its shards are used up.
        here: set[int] = set()
        stop = start
        while len(here) < num_shards or stop - start < sum(sizes[shard] for shard in here):
            here.add(int(shards[stop]))
            stop += 1
        assert len(here) == num_shards
        assert not here & seen
        seen |= here
        left, start = left - num_shards, stop


def test_a_batch_of_window_order_touches_at_most_two_windows() -> None:
    order = SampleOrder(shards_of(100_000, 500), 4, "window", window_shards=4)
    for first in range(0, 100_000 - 256, 256):
        ids = order.sample_ids(7, first + np.arange(256))
        assert len(np.unique(ids // 500)) <= 8


def test_a_window_is_shuffled_over_all_its_shards() -> None:
    order = SampleOrder(np.full(40, 250), 4, "window", window_shards=4)
    ids = order.sample_ids(0, np.arange(1000))
    first_half = np.unique(ids[:500] // 250, return_counts=True)[1]
    assert len(first_half) == 4
    assert reference.chi_square(first_half, np.full(4, 125)) < reference.chi_square_limit(3)
    assert (np.diff(ids) == 1).sum() < 8


def test_shards_come_in_another_order_in_every_epoch() -> None:
    order = SampleOrder(np.full(100, 10), 4, "window", window_shards=1)
    shards = [order.sample_ids(epoch, np.arange(0, 1000, 10)) // 10 for epoch in range(3)]
    assert all(sorted(s) == list(range(100)) for s in shards)
    assert (shards[0] == shards[1]).sum() < 8
    assert (shards[1] == shards[2]).sum() < 8


# Size


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_of_a_billion_samples_needs_little_memory(mode: Mode) -> None:
    order = SampleOrder(np.full(100_000, 10_000), 2, mode)
    tracemalloc.start()
    try:
        ids = order.sample_ids(3, 999_000_000 + np.arange(4096))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(np.unique(ids)) == 4096
    assert ids.max() < 10**9
    # A few arrays of the batch and, for windows, of the shards: 8 GB would be an array of the samples.
    assert peak_bytes < 16e6


# Errors


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("position", [-1, 10])
def test_a_position_outside_the_epoch_is_refused(mode: Mode, position: int) -> None:
    with pytest.raises(ValueError, match=f"positions of an epoch are 0 to 9, got {position} to {position}"):
        SampleOrder(np.array([4, 6]), 0, mode).sample_ids(0, np.array([position]))


def test_a_data_set_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="a data set without samples has no order"):
        SampleOrder(np.array([], dtype=int), 0)


def test_a_window_without_shards_is_refused() -> None:
    with pytest.raises(ValueError, match="a window holds at least one shard, got 0"):
        SampleOrder(np.array([3]), 0, "window", 0)
