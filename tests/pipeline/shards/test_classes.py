import json
from pathlib import Path

import pytest

from benchmarks.shared.shard_files import write_shard
from pipeline.shards.classes import count_labels, describe_gaps, read_class_names, readable
from pipeline.shards.index import ShardIndex, build_index


def index_of(folder: Path, labels: list[int]) -> ShardIndex:
    return build_index(folder, "train", [write_shard(folder / "train-0.tar", labels)])


def test_labels_are_counted_up_to_the_highest_or_to_the_classes_there_are(tmp_path: Path) -> None:
    index = index_of(tmp_path, [2, 0, 2])
    for num_classes, counts in ((0, [1, 0, 2]), (5, [1, 0, 2, 0, 0])):
        found = count_labels(index, num_classes)
        assert found is not None
        assert found.tolist() == counts


def test_labels_too_far_apart_to_number_classes_are_not_counted(tmp_path: Path) -> None:
    assert count_labels(index_of(tmp_path, [0, 2**31 - 1])) is None
    assert count_labels(index_of(tmp_path, [0, 99_999])) is not None
    assert count_labels(index_of(tmp_path, [0, 100_000])) is None


def test_classes_that_lack_images_are_named() -> None:
    assert describe_gaps([3, 1], {"val": [1, 0]}, ["cat", "dog"]) == []
    assert describe_gaps([3, 0, 1], {"val": [1, 4]}, ["cat", "dog", "owl"]) == [
        "1 class (1 dog) of 3 in val (4 image(s)), but never in training"
    ]
    assert describe_gaps([3], {"val": [1, 2, 0, 1], "test": [0, 0, 0, 0, 0]}) == [
        "2 classes (1, 3) of 5 in val (3 image(s)), but never in training",
        "2 classes (2, 4) of 5 without any image",
    ]
    assert describe_gaps([1], {}, [str(number) for number in range(9)]) == [
        "8 classes (1, 2, 3, 4, 5, ...) of 9 without any image"
    ]


def test_names_that_are_no_utf8_can_be_printed(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert readable(name) == "caf\\udce9"
    assert readable("café") == "café"
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": [name, "b"]}))
    assert read_class_names(tmp_path) == ["caf\\udce9", "b"]
    (tmp_path / "dataset.json").write_text("[")
    with pytest.raises(ValueError, match=r"dataset\.json: cannot be read"):
        read_class_names(tmp_path)
    assert read_class_names(tmp_path / "nowhere") == []
