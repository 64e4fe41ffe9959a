"""Where a run's epochs begin and end, beside a walk through them."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.plan.epochs import Epochs, run_steps, short_steps_of
from pipeline.settings import Duration

KEEPS = st.integers(1, 99).map(lambda hundredths: hundredths / 100)


def lengths(num_epochs: int, full_steps: int, short_steps: int) -> list[int]:
    """The epochs of a run of so many, one by one: short while at least an eighth of them comes after."""
    return [short_steps if 8 * (epoch + 1) <= 7 * num_epochs else full_steps for epoch in range(num_epochs)]


@given(num_epochs=st.integers(1, 60), full_steps=st.integers(1, 40), keep=KEEPS)
def test_a_run_of_whole_epochs_has_seven_eighths_short_ones_and_then_full_ones(
    num_epochs: int, full_steps: int, keep: float
) -> None:
    short_steps = short_steps_of(full_steps, keep)
    walked = lengths(num_epochs, full_steps, short_steps)
    total = run_steps(Duration.parse(f"{num_epochs}epochs"), full_steps, 8, keep)
    assert total == sum(walked)
    epochs = Epochs.of(total, full_steps, keep)
    places = [(epoch, step) for epoch, length in enumerate(walked) for step in range(length)]
    assert [epochs.split(step) for step in range(total)] == places
    assert [epochs.first_step(step) for step in range(total)] == [at - place[1] for at, place in enumerate(places)]
    assert [epochs.is_short(epoch) for epoch in range(num_epochs)] == [
        8 * (epoch + 1) <= 7 * num_epochs for epoch in range(num_epochs)
    ]


@settings(deadline=None)
@given(total_steps=st.integers(1, 600), full_steps=st.integers(1, 40), keep=KEEPS)
def test_a_run_of_any_number_of_steps_is_the_beginning_of_the_shortest_run_of_whole_epochs_that_reaches_so_far(
    total_steps: int, full_steps: int, keep: float
) -> None:
    short_steps = short_steps_of(full_steps, keep)
    num_epochs = 1
    while sum(lengths(num_epochs, full_steps, short_steps)) < total_steps:
        num_epochs += 1
    assert Epochs.of(total_steps, full_steps, keep).num_short == 7 * num_epochs // 8


@given(amount=st.integers(1, 400), full_steps=st.integers(1, 40), keep=KEEPS)
def test_of_a_run_of_broken_epochs_the_last_one_is_broken(amount: int, full_steps: int, keep: float) -> None:
    num_epochs = Fraction(amount, 10)
    walked = lengths(ceil(num_epochs), full_steps, short_steps_of(full_steps, keep))
    exact = sum(walked) - (ceil(num_epochs) - num_epochs) * walked[-1]
    assert run_steps(Duration.parse(f"{amount / 10}epochs"), full_steps, 8, keep) == int(exact + Fraction(1, 2))


@given(total_steps=st.integers(1, 200), full_steps=st.integers(1, 40))
def test_without_examples_left_out_every_epoch_is_full(total_steps: int, full_steps: int) -> None:
    epochs = Epochs.of(total_steps, full_steps, None)
    assert [epochs.split(step) for step in range(total_steps)] == [
        divmod(step, full_steps) for step in range(total_steps)
    ]
    assert not epochs.is_short(0)


@pytest.mark.parametrize(("text", "steps"), [("100steps", 100), ("640samples", 80)])
def test_a_length_in_steps_or_samples_is_what_it_says(text: str, steps: int) -> None:
    assert run_steps(Duration.parse(text), 10, 8, keep=0.5) == steps


@pytest.mark.parametrize(("keep", "steps"), [(0.7, 7), (0.25, 3), (0.01, 1), (0.99, 10)])
def test_a_short_epoch_is_rounded_to_whole_steps(keep: float, steps: int) -> None:
    assert short_steps_of(10, keep) == steps
