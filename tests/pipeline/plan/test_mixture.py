"""Shares of sources: whole rows, never a row away from what is due, whatever the shares and the batch."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan.mixture import Mixture

PARTS = st.lists(st.one_of(st.integers(1, 9), st.integers(1, 2000)), min_size=1, max_size=7)


@st.composite
def mixtures(draw: st.DrawFn, per: str = "batch") -> Mixture:
    parts = draw(PARTS)
    shares = tuple(Fraction(part, sum(parts)) for part in parts)
    return Mixture(shares, draw(st.integers(1, 60)), draw(st.integers(1, 50)), draw(st.integers(0, 2**63)), per)  # type: ignore[arg-type]


def all_drawn(mixture: Mixture, epoch: int) -> list[tuple[int, int]]:
    """(source, count) at every row of every step of an epoch."""
    rows = np.arange(mixture.global_batch_size)
    found = [mixture.drawn(epoch, step, rows) for step in range(mixture.epoch_steps)]
    return [pair for one in found for pair in zip(one.source.tolist(), one.count.tolist(), strict=True)]


@settings(max_examples=150, deadline=None)
@given(mixtures())
def test_no_batch_and_no_stretch_of_an_epoch_is_a_row_away_from_the_shares(mixture: Mixture) -> None:
    so_far = np.zeros(len(mixture.shares), dtype=int)
    for step in range(mixture.epoch_steps):
        counts = mixture.counts(0, step)
        assert counts.sum() == mixture.global_batch_size
        so_far += counts
        for share, now, done in zip(mixture.shares, counts.tolist(), so_far.tolist(), strict=True):
            due = share * mixture.global_batch_size
            assert abs(now - due) < 1
            assert abs(done - (step + 1) * due) < 1
    np.testing.assert_array_equal(so_far, mixture.epoch_rows)


@pytest.mark.parametrize("per", ["batch", "epoch"])
def test_a_source_is_counted_through_without_a_gap_over_epochs(per: str) -> None:
    mixture = Mixture((Fraction(1, 2), Fraction(1, 3), Fraction(1, 6)), 7, 5, 3, per)  # type: ignore[arg-type]
    seen = [all_drawn(mixture, epoch) for epoch in range(3)]
    for source, rows in enumerate(mixture.epoch_rows.tolist()):
        for epoch, drawn in enumerate(seen):
            counts = sorted(count for one, count in drawn if one == source)
            assert counts == list(range(epoch * rows, (epoch + 1) * rows))


@settings(max_examples=100, deadline=None)
@given(mixtures("epoch"))
def test_an_epoch_has_its_shares_where_batches_need_not(mixture: Mixture) -> None:
    due = [share * mixture.epoch_steps * mixture.global_batch_size for share in mixture.shares]
    rows = mixture.epoch_rows.tolist()
    assert sum(rows) == sum(due)
    assert all(abs(one - other) < 1 for one, other in zip(rows, due, strict=True))
    counts = sum(mixture.counts(1, step) for step in range(mixture.epoch_steps))
    np.testing.assert_array_equal(counts, rows)


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.data())
def test_any_row_is_told_by_itself(mixture: Mixture, data: st.DataObject) -> None:
    """So ranks and runs that are taken up again see what one rank sees that never stopped."""
    step = data.draw(st.integers(0, mixture.epoch_steps - 1))
    whole = mixture.drawn(2, step, np.arange(mixture.global_batch_size))
    row = data.draw(st.integers(0, mixture.global_batch_size - 1))
    alone = mixture.drawn(2, step, np.array([row]))
    assert (alone.source[0], alone.count[0]) == (whole.source[row], whole.count[row])
    np.testing.assert_array_equal(np.bincount(whole.source, minlength=len(mixture.shares)), mixture.counts(2, step))


def test_rows_of_a_source_stand_all_over_the_batch() -> None:
    mixture = Mixture((Fraction(1, 4), Fraction(3, 4)), 64, 50, 0)
    places = np.concatenate([np.flatnonzero(mixture.drawn(0, step, np.arange(64)).source == 0) for step in range(50)])
    by_half = np.bincount(places // 32, minlength=2)
    assert by_half.sum() == 50 * 16
    assert abs(int(by_half[0]) - 400) < 60  # of 800 rows by chance; the standard deviation is 14 at most
    steps = [mixture.drawn(0, step, np.arange(64)).source.tolist() for step in (0, 1)]
    assert steps[0] != steps[1]


def test_of_sources_that_are_alike_the_seed_says_who_comes_first() -> None:
    third = (Fraction(1, 3),) * 3
    first = {tuple(Mixture(third, 1, 3, seed).counts(0, 0).tolist()) for seed in range(20)}
    assert first == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
