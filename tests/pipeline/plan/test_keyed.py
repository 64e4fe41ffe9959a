import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan import keyed
from pipeline.plan.keyed import Stream

SEEDS = st.integers(0, 2**64 - 1)


def table(
    first_row: int, num_rows: int, num_columns: int = 3, seed: int = 7, stream: Stream = Stream.CROP, counter: int = 5
) -> np.ndarray:
    return keyed.uniform(seed, stream, counter, first_row=first_row, num_rows=num_rows, num_columns=num_columns)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 2**40), st.integers(0, 200), st.integers(0, 50), st.integers(1, 30))
def test_a_row_does_not_depend_on_the_rows_asked_for_with_it(
    seed: int, counter: int, first_row: int, num_rows: int, num_columns: int
) -> None:
    def ask(first: int, num: int) -> np.ndarray:
        return keyed.uniform(seed, Stream.FLIP, counter, first_row=first, num_rows=num, num_columns=num_columns)

    whole = ask(0, first_row + num_rows)
    assert np.array_equal(ask(first_row, num_rows), whole[first_row:])


def test_rows_far_down_the_table_cost_no_more_than_the_first() -> None:
    far = table(first_row=10**12, num_rows=4)
    assert np.array_equal(far[2:], table(first_row=10**12 + 2, num_rows=2))
    assert not np.array_equal(far, table(first_row=0, num_rows=4))


def test_numbers_are_float32_from_0_up_to_but_not_1_on_a_grid_of_2_to_the_minus_24() -> None:
    values = table(0, 5000, 8)
    assert values.dtype == np.float32
    assert values.shape == (5000, 8)
    assert values.min() >= 0
    assert values.max() < 1
    assert np.array_equal(values * 2**24, np.floor(values * 2**24))


@pytest.mark.parametrize("num_columns", [0, 1, 8, 9, 22, 196])
def test_any_number_of_columns_can_be_asked_for(num_columns: int) -> None:
    assert table(3, 5, num_columns).shape == (5, num_columns)


def test_seed_stream_and_counter_each_give_other_numbers() -> None:
    base = table(0, 4)
    others = [table(0, 4, seed=8), table(0, 4, stream=Stream.FLIP), table(0, 4, counter=6)]
    for other in others:
        assert not np.intersect1d(base, other).size


def test_every_stream_has_its_own_numbers() -> None:
    tables = [table(0, 50, stream=stream).tobytes() for stream in Stream]
    assert len(set(tables)) == len(Stream)


def test_the_numbers_never_change_between_versions() -> None:
    # A saved run is resumed with these numbers; another value here means that no older run can be reproduced.
    assert keyed.words(1, Stream.ORDER, 2, 3).tolist() == [
        18113586208377534367,
        744033109903638988,
        18353855401990291488,
    ]
    rows = (table(first_row=2, num_rows=2) * 2**24).astype(int).tolist()
    assert rows == [[14500445, 12438019, 533210], [11816106, 11043065, 780635]]


def test_numbers_are_uniform() -> None:
    values = keyed.uniform(3, Stream.SELECTION, 9, first_row=0, num_rows=2000, num_columns=20).ravel()
    counts = np.histogram(values, bins=64, range=(0, 1))[0]
    assert reference.chi_square(counts, np.full(64, len(values) / 64)) < reference.chi_square_limit(63)


def test_neighbouring_rows_columns_and_counters_are_uncorrelated() -> None:
    a = keyed.uniform(3, Stream.SELECTION, 0, first_row=0, num_rows=3000, num_columns=16)
    b = keyed.uniform(3, Stream.SELECTION, 1, first_row=0, num_rows=3000, num_columns=16)
    for x, y in [(a[1:], a[:-1]), (a[:, 1:], a[:, :-1]), (a, b)]:
        # The correlation of n independent pairs has a standard deviation of 1 / sqrt(n).
        assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 4.5 / np.sqrt(x.size)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(0, 2**40), st.integers(0, 20))
def test_fewer_words_are_the_first_of_more_words(seed: int, counter: int, count: int) -> None:
    more = keyed.words(seed, Stream.ORDER, counter, 20)
    assert more.dtype == np.uint64
    assert np.array_equal(keyed.words(seed, Stream.ORDER, counter, count), more[:count])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 40), st.integers(0, 20))
def test_words_can_be_asked_for_from_any_on(seed: int, first: int, count: int) -> None:
    whole = keyed.words(seed, Stream.ERASE_NOISE, 3, first + count)
    assert np.array_equal(keyed.words(seed, Stream.ERASE_NOISE, 3, count, first), whole[first:])


def test_a_large_table_holds_the_same_numbers_as_its_rows_one_by_one() -> None:
    whole = table(5, 700, num_columns=196)  # more than is worked out at a time
    for row in (0, 326, 327, 328, 655, 699):
        assert np.array_equal(whole[row], table(5 + row, 1, num_columns=196)[0])


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_named(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"a seed is an integer from 0 to 2\*\*64 - 1, got {seed}"):
        keyed.words(seed, Stream.ORDER, 0, 1)


def test_keyed_rows_draw_their_part_of_the_table() -> None:
    whole, part = keyed.KeyedRows(7, 5, 0, 12), keyed.KeyedRows(7, 5, 4, 6)
    assert np.array_equal(part.uniform(Stream.CROP, 3), table(4, 6))
    assert np.array_equal(part.words(Stream.CROP), whole.words(Stream.CROP)[4:10])
    assert np.array_equal(part.pairs.uniform(Stream.MIX, 2), whole.pairs.uniform(Stream.MIX, 2)[2:5])
