"""What a configuration's data are once they are opened."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.shared.shard_files import write_shard
from pipeline.config import DataConfig
from pipeline.shards.data_sets import class_names_of, epoch_samples_of, open_train, open_val, training_samples
from pipeline.shards.index import build_index, open_index
from pipeline.shards.mixed import MixedIndex

CLASSES = {"a": ["cat", "dog"], "b": ["dog", "cat", "fish"]}
LABELS = {"a": [0, 1, 1], "b": [0, 0, 1, 2]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, labels in LABELS.items():
        for split in ("train", "val"):
            build_index(tmp_path / name, split, [write_shard(tmp_path / name / f"{split}-0.tar", labels)])
        (tmp_path / name / "dataset.json").write_text(json.dumps({"classes": CLASSES[name]}))
    return tmp_path


def data(folder: Path, way: str = "repeat", value: float = 1, **others: Any) -> DataConfig:
    train = [{"name": name, "folder": folder / name, way: value} for name in LABELS]
    val = [{"name": f"{name}-val", "folder": folder / name} for name in LABELS]
    return DataConfig(**{"train": train, "val": val, "num_classes": 3, **others})


def test_labels_of_training_and_validation_are_those_of_one_list(folder: Path) -> None:
    config = data(folder)
    assert class_names_of(config) == ["cat", "dog", "fish"]
    assert np.asarray(open_train(config).label).tolist() == [0, 1, 1, 1, 1, 0, 2]
    first, second = open_val(config)
    assert (first.name, first.key, second.key) == ("a-val", "data.val.a-val", "data.val.b-val")
    assert np.asarray(first.index.label).tolist() == [0, 1, 1]
    assert np.asarray(second.index.label).tolist() == [1, 1, 0, 2]
    assert second.index.split == "val"


def test_one_validation_folder_beside_several_sources_is_brought_to_their_classes_too(folder: Path) -> None:
    (held,) = open_val(data(folder, val=folder / "b"))
    assert (held.name, held.key) == (None, "data.val")
    assert np.asarray(held.index.label).tolist() == [1, 1, 0, 2]


def test_one_folder_is_the_index_that_it_always_was(folder: Path) -> None:
    config = DataConfig(train=folder / "b", val=folder / "a", num_classes=3)
    index = open_train(config)
    assert not isinstance(index, MixedIndex)
    assert index.fingerprint == open_index(folder / "b", "train").fingerprint
    assert epoch_samples_of(config, index) == index.num_samples == training_samples(config) == 4
    assert np.asarray(open_val(config)[0].index.label).tolist() == [0, 1, 1]  # as ever, whatever it calls its classes
    assert class_names_of(config) == CLASSES["b"]


def test_an_epoch_is_counted_from_the_sources(folder: Path) -> None:
    assert training_samples(data(folder, "repeat", 2)) == 14
    assert training_samples(data(folder, "weight", 2)) == 7
    assert training_samples(data(folder, "weight", 2, num_train_samples=99)) == 99


def test_a_label_that_no_class_stands_for_is_an_error_that_names_it(folder: Path) -> None:
    (folder / "b" / "dataset.json").write_text(json.dumps({"classes": ["dog", "cat"]}))
    with pytest.raises(ValueError, match=r"data\.train\.b: images in .* have label\(s\) 2, .* add them to classes"):
        open_train(data(folder))


def test_a_folder_that_is_not_there_is_named_with_its_key(folder: Path) -> None:
    config = data(folder, train=[{"name": "x", "folder": folder / "nowhere", "share": 1}])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_train(config)
    with pytest.raises(FileNotFoundError, match=r"data\.train\.x: shard folder .*nowhere does not exist"):
        open_val(config)
