"""Lists of folders in a configuration: what they mean, and what is said of lists that mean nothing."""

from fractions import Fraction
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config import DataConfig
from pipeline.sources import epoch_samples, shares_of


def data(train: Any, val: Any = "v", **others: Any) -> DataConfig:
    return DataConfig(train=train, val=val, num_classes=3, **others)


def sources(way: str, *values: float) -> list[dict[str, Any]]:
    return [{"name": f"s{i}", "folder": f"data/{i}", way: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("way", "values", "shares", "samples"),
    [
        ("share", (0.7, 0.3), (Fraction(7, 10), Fraction(3, 10)), 400),
        ("weight", (2, 1), (Fraction(2, 3), Fraction(1, 3)), 400),  # whatever their sizes
        ("repeat", (1, 1), (Fraction(1, 4), Fraction(3, 4)), 400),
        ("repeat", (3, 0.5), (Fraction(2, 3), Fraction(1, 3)), 450),
    ],
)
def test_each_way_has_its_shares_and_its_epoch(way: str, values: tuple[float, ...], shares: Any, samples: int) -> None:
    train = data(sources(way, *values)).train
    assert isinstance(train, tuple)
    assert shares_of(train, [100, 300]) == shares
    assert epoch_samples(train, [100, 300]) == samples


def test_thirds_that_are_written_in_decimals_sum_to_one() -> None:
    train = data(sources("share", 0.3333333, 0.3333333, 0.3333333)).train
    assert isinstance(train, tuple)
    assert sum(shares_of(train, [1, 1, 1])) == 1


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([], "a list of folders names at least one"),
        (sources("share", 0.5, 0.4), r"the shares sum to 0\.9 and not to 1; correct them, or name them weight"),
        ([*sources("share", 1.0), {"name": "b", "folder": "f", "weight": 1}], "got s0: share, b: weight"),
        ([{"name": "a", "folder": "f"}], "has exactly one of weight, share, repeat.* got a: none"),
        ([{"name": "a", "folder": "f", "weight": 1, "repeat": 1}], "got a: weight and repeat"),
        (2 * sources("weight", 1), "s0 stands more than once"),
        ([{"name": "a b", "folder": "f", "weight": 1}], "'a b' is no name of data"),
        ([{"name": "a", "folder": "f", "weight": 0}], "greater than 0"),
    ],
)
def test_a_list_that_says_nothing_clear_is_refused(train: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        data(train)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"echo": 2}, "echo 2 shows an image several times"),
        ({"augment": {"repeats": 3}}, r"augment\.repeats 3 shows an image several times"),
        ({"mix_per": "epoch", "shuffle": "window"}, "choose mix_per: batch or shuffle: global"),
    ],
)
def test_what_several_sources_do_not_go_with_is_refused(others: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        data(sources("share", 1.0), **others)


def test_one_folder_has_nothing_to_mix() -> None:
    with pytest.raises(ValidationError, match="train is one folder; leave it out"):
        data("a", mix_per="epoch")


def test_a_list_of_validation_sets_has_names_of_its_own() -> None:
    with pytest.raises(ValidationError, match="a stands more than once"):
        data("t", [{"name": "a", "folder": "f"}, {"name": "a", "folder": "g"}])


def test_what_is_written_reads_back_the_same() -> None:
    config = data(
        [{"name": "a", "folder": "f", "repeat": 2, "classes": {7: "shoe", "boot": 1}}], [{"name": "v", "folder": "g"}]
    )
    assert DataConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.model_dump(mode="json")["train"][0]["classes"] == {"7": "shoe", "boot": 1}
