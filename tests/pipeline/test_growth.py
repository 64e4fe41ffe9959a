"""The lengths of epochs over a set that grows, beside a walk through them, and what is no growth."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import DataConfig
from pipeline.growth import EpochLengths, GrowthConfig, told

STRETCHES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), max_size=3)


def laid(stretches: list[tuple[int, int]], steps: int) -> EpochLengths:
    """Of (epochs, steps of each) one behind the other, and then epochs of so many steps."""
    ends = np.cumsum([num for num, _ in stretches]).tolist()
    return EpochLengths(steps, tuple((end, of) for end, (_, of) in zip(ends, stretches, strict=True)))


@given(stretches=STRETCHES, steps=st.integers(1, 9))
def test_epochs_have_the_length_of_their_stretch(stretches: list[tuple[int, int]], steps: int) -> None:
    lengths = laid(stretches, steps)
    walked = [of for num, of in stretches for _ in range(num)] + [steps] * 3
    places = [(epoch, step) for epoch, length in enumerate(walked) for step in range(length)]
    assert [lengths.split(step) for step in range(len(places))] == places
    ways = [(step + 0.5) / walked[epoch] for epoch, step in places]
    np.testing.assert_allclose(lengths.way(np.arange(len(places))), ways)
    for epoch in range(len(walked)):
        assert lengths.before(epoch) == sum(walked[:epoch])
        assert lengths.before(epoch + Fraction(1, 3)) == sum(walked[:epoch]) + Fraction(walked[epoch], 3)


GROWN = {"before_epoch": 2, "shards": 3, "samples": 60}


def test_a_set_grows_from_one_epoch_to_a_later_one() -> None:
    def growing(*growth: dict[str, int], **others: object) -> DataConfig:
        return DataConfig.model_validate({"train": "a", "val": "a", "num_classes": 2, "growth": growth, **others})

    assert growing(GROWN, {"before_epoch": 3, "shards": 4, "samples": 61}).growth[1].samples == 61
    for name in GROWN:
        later = {"before_epoch": 3, "shards": 4, "samples": 61, name: GROWN[name]}
        with pytest.raises(ValueError, match=f"but {name} goes"):
            growing(GROWN, later)
    with pytest.raises(ValueError, match="echo 2 lets steps of both show the same"):
        growing(GROWN, echo=2)
    sources = [{"name": name, "folder": name, "repeat": 1} for name in ("a", "b")]
    with pytest.raises(ValueError, match="train names several sources"):
        growing(GROWN, train=sources)


def test_how_a_set_has_grown_is_told_in_a_line() -> None:
    assert told(()) == ""
    assert told((GrowthConfig(**GROWN),)) == (
        "the training set has grown: epochs, from 0, see the first 3 shards (60 samples) before epoch 2, all from then "
        "on"
    )
