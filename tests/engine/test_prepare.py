"""What is looked at before a run begins. No other rank is needed for that, and no command line."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.shared.shard_files import write_shard
from benchmarks.shared.toy_data import NUM_TRAIN, NUM_VAL, write_toy_config, write_toy_shards
from engine.config import RunConfig, load_config
from engine.models.masked_autoencoder import MaskedAutoencoder
from engine.models.patch_embed import PatchModel
from engine.prepare import Prepared, prepare
from engine.ranks.world import World
from pipeline.selection.maps import ScoreMaps
from pipeline.shards.index import build_index
from tools.shards.maps.score import MapJob, score_folder

HERE = World(0, 1, 0, 1, torch.device("cpu"), ("here",))
PRETRAIN = ["task=pretrain", "schedule={kind: constant, keep_rate: 0.4}", "eval.keep_rates=[0.4]"]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))


def prepared(config_file: Path, *overrides: str) -> Prepared:
    return prepare(load_config(config_file, list(overrides)), HERE)


def test_a_configuration_made_in_a_program_is_prepared_as_one_from_a_file(config_file: Path) -> None:
    config = load_config(config_file)
    made = prepare(RunConfig.model_validate(config.model_dump()), HERE)
    read = prepare(config, HERE)
    assert made.identity == read.identity
    assert (made.plan.total_steps, made.plan.rows_per_rank) == (24, 16)
    np.testing.assert_array_equal(made.planner.plan(5).sample_ids, read.planner.plan(5).sample_ids)
    for name, value in read.model.state_dict().items():
        assert torch.equal(made.model.state_dict()[name], value), name


def test_every_data_set_is_known_by_the_key_that_names_it(config_file: Path) -> None:
    counts = {key: index.num_samples for key, index in prepared(config_file).indexes.items()}
    assert counts == {"data.train": NUM_TRAIN, "data.val": NUM_VAL}


def test_the_task_decides_what_kind_of_model_is_trained(config_file: Path) -> None:
    assert isinstance(prepared(config_file).model, PatchModel)
    assert isinstance(prepared(config_file, *PRETRAIN).model, MaskedAutoencoder)


def test_what_compiling_needs_is_looked_for_before_a_model_is_built(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"engine.compile needs a C\+\+ compiler"):
        prepared(config_file, "engine.compile=true")


@pytest.mark.parametrize(
    ("device", "override", "said"),
    [
        (torch.device("cuda", 0), "engine.tf32=true", ["high"]),
        (torch.device("cuda", 0), "engine.tf32=false", ["highest"]),
        (torch.device("cpu"), "engine.tf32=true", []),
    ],
)
def test_tf32_is_for_gpus_and_can_be_switched_off(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device, override: str, said: list[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", told.append)
    prepare(load_config(config_file, [override]), replace(HERE, device=device))
    assert told == said


def test_images_that_are_held_are_told_of_and_only_those(config_file: Path) -> None:
    assert prepared(config_file).held_images is None
    assert prepared(config_file, "data.echo=2").held_images is not None


def test_nothing_is_written(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared(config_file)
    assert list(tmp_path.iterdir()) == []


def test_outputs_without_a_class_and_classes_without_images_are_told(config_file: Path, tmp_path: Path) -> None:
    assert prepared(config_file).notes == ()
    assert prepared(config_file, "data.num_classes=9", *PRETRAIN).notes == ()
    (note,) = prepared(config_file, "data.num_classes=9").notes
    assert note.startswith("data.num_classes is 9, but the data have 4 class(es): 5 output(s)")
    build_index(tmp_path, "train", [write_shard(tmp_path / "train-0.tar", [0, 1, 3] * 16)])
    (note,) = prepared(config_file, f"data.train={tmp_path}").notes
    assert note.startswith("1 class (2) of 4 in validation (")
    assert note.endswith("but never in training")


def test_a_gpu_that_is_not_there_is_refused(config_file: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.device is gpu, but no GPU is visible here"):
        prepared(config_file, "data.device=gpu")


BY_MAP = "selection={rule: map, map: contrast}"


def test_missing_score_maps_of_either_data_set_end_the_run_with_the_command(config_file: Path, tmp_path: Path) -> None:
    shards = Path(shutil.copytree(config_file.parent / "shards", tmp_path / "shards"))
    places = (f"data.train={shards}", f"data.val={shards}", BY_MAP)
    for split in ("train", "val"):
        with pytest.raises(
            ValueError, match=rf"{split}-.*\.contrast\.map: .* make it with: python -m tools\.shards score"
        ):
            prepared(config_file, *places)
        score_folder(shards, MapJob("contrast"), split=split)
    found = prepared(config_file, *places)
    assert found.maps.keys() == {"data.train", "data.val"}
    assert found.identity["selection.map.fingerprint"] == found.maps["data.train"]
    assert found.maps["data.train"] == ScoreMaps(found.train_index, "contrast").fingerprint()
    assert "selection.map.fingerprint" not in prepared(config_file).identity
    assert prepared(config_file).maps == {}
