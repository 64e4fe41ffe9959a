"""Lengths of training, as settings hold them."""

from fractions import Fraction
from typing import Any

import pytest

from pipeline.settings import Duration


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("90epochs", 90, "epochs"),
        ("1epoch", 1, "epochs"),
        ("500steps", 500, "steps"),
        (" 1 step ", 1, "steps"),
        ("1000000samples", 1_000_000, "samples"),
        ("0.5epochs", Fraction(1, 2), "epochs"),
        ("0epochs", 0, "epochs"),
    ],
)
def test_a_duration_is_a_number_with_a_unit(text: str, amount: Fraction, unit: str) -> None:
    assert Duration.parse(text) == Duration(Fraction(amount), unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["90", 90, "epochs", "-1epochs", "3 days", "1e3steps", "9" * 15 + "steps", "", None, ["1epochs"]]
)
def test_anything_else_is_no_duration_and_the_message_shows_how_one_is_written(value: Any) -> None:
    with pytest.raises(ValueError, match="such as 90epochs, 500steps or 1000000samples; got") as error:
        Duration.parse(value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    "text", ["90epochs", "1epochs", "0.25epochs", "0.00000001epochs", "10000000000000.00000001samples", "0steps"]
)
def test_a_duration_is_written_as_it_is_read(text: str) -> None:
    assert str(Duration.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("2epochs", 20),
        ("0.25epochs", 3),  # 2.5 steps: halves go up
        ("0.24epochs", 2),
        ("7steps", 7),
        ("640samples", 10),
        ("100samples", 2),  # 1.56 steps
        ("0epochs", 0),
    ],
)
def test_a_duration_becomes_the_nearest_number_of_steps(text: str, steps: int) -> None:
    assert Duration.parse(text).steps(steps_per_epoch=10, global_batch_size=64) == steps


def test_a_tenth_of_an_epoch_is_exact() -> None:
    assert Duration.parse("0.1epochs").steps(steps_per_epoch=10**17, global_batch_size=1) == 10**16
