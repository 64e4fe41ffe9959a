"""The data of a run, looked at before there are other ranks or a model."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.shared.shard_files import write_shard
from benchmarks.shared.toy_data import NUM_TRAIN, write_toy_config, write_toy_shards
from engine.config import MonitorConfig, load_config
from engine.run.inputs import check_labels, check_monitors, check_num_train_samples, open_inputs
from pipeline.shards.index import build_index, open_index


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))


def test_the_first_sample_whose_label_is_outside_the_classes_is_named(config_file: Path) -> None:
    index = open_index(config_file.parent / "shards", "train")
    first = int(np.argmax(index.label >= 2))
    with pytest.raises(ValueError, match=rf"has label {index.label[first]}, .* labels are 0 to 1") as raised:
        check_labels(index, 2)
    assert index.describe(first) in str(raised.value)
    assert str(raised.value).endswith("; set data.num_classes to 4")
    with pytest.raises(ValueError, match=r"set data\.num_classes to 7"):
        check_labels(index, 2, needed=7)
    check_labels(index, 4)


def test_labels_that_number_no_classes_do_not_ask_for_as_many(tmp_path: Path) -> None:
    index = build_index(tmp_path, "train", [write_shard(tmp_path / "train-0.tar", [0, 2**31 - 1])])
    with pytest.raises(ValueError, match="labels so far apart number no classes"):
        check_labels(index, 2)


def test_a_stated_number_of_samples_is_the_data_sets_or_left_out(config_file: Path) -> None:
    index = open_index(config_file.parent / "shards", "train")
    with pytest.raises(ValueError, match=rf"data\.num_train_samples says 7, but .* holds {NUM_TRAIN} training samples"):
        open_inputs(load_config(config_file, ["data.num_train_samples=7"]), 1, 1)
    check_num_train_samples(index, NUM_TRAIN, NUM_TRAIN)
    check_num_train_samples(index, NUM_TRAIN, None)


@pytest.mark.parametrize(("package", "setting"), [("tensorboard", True), ("wandb", {"project": "p"})])
def test_a_missing_package_is_named_with_what_installs_it(
    package: str, setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=rf"needs the package {package}.*pip install '\.\[{package}\]'"):
        check_monitors(MonitorConfig.model_validate({package: setting}))
    check_monitors(MonitorConfig())


def test_a_folder_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ValueError, match="needs the package wandb"):
        check_monitors(MonitorConfig.model_validate({"wandb": {"project": "p"}}))
