import pytest

from pipeline.shards.splits import is_doubtful, splits_in


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("imagenet1k-train-0000.tar", "train"),
        ("train2017", "train"),
        ("VAL_1", "val"),
        ("valid", "val"),
        ("validation-00000-of-00001.parquet", "val"),
        ("dev.0", "val"),
        ("testing", "test"),
        ("eval-00000", "test"),
    ],
)
def test_names_speak_of_a_split_in_the_usual_forms(name: str, split: str) -> None:
    assert splits_in(name) == {split}
    assert not is_doubtful(name)


@pytest.mark.parametrize("name", ["trainset", "test-val", "TrainData", "holdout_0", "trainval", "mytest", "minival"])
def test_names_that_nearly_speak_of_a_split_are_doubtful(name: str) -> None:
    assert is_doubtful(name)


@pytest.mark.parametrize("name", ["00000", "n01440764", "value", "device", "interval-0", "medieval"])
def test_other_names_are_silent(name: str) -> None:
    assert splits_in(name) == set()
    assert not is_doubtful(name)
