"""What is asked of the folder of a finished run before its model is loaded."""

from pathlib import Path

import pytest

from benchmarks.shared.toy_data import write_toy_config
from engine.run.finished import check_classifier, finished_config

PRETRAIN = ["task=pretrain", "schedule={kind: constant, keep_rate: 0.4}", "eval.keep_rates=[0.4]"]


def test_a_run_folder_is_there_and_holds_a_configuration_and_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is not there"):
        finished_config(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"it holds no config\.yaml"):
        finished_config(tmp_path)
    write_toy_config(tmp_path / "config.yaml", tmp_path / "shards")
    with pytest.raises(ValueError, match="has not exported its model yet"):
        finished_config(tmp_path)
    (tmp_path / "model").mkdir()
    assert finished_config(tmp_path, ["optim.lr=0.5"]).optim.lr == 0.5


def test_a_run_of_pre_training_has_no_classifier(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_toy_config(tmp_path / "config.yaml", tmp_path / "shards")
    check_classifier(tmp_path, finished_config(tmp_path))
    with pytest.raises(ValueError, match=f"the run in {tmp_path} is a pretrain run"):
        check_classifier(tmp_path, finished_config(tmp_path, PRETRAIN))
