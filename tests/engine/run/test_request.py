"""What a start of a run is asked for, looked at before anything heavy is loaded."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.checkpoints.manifest import MANIFEST
from engine.config import load_config
from engine.ranks.rendezvous import Place
from engine.run.request import Request, look_at

SECOND = Place(1, 2, rank=1, size=2)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    return write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))


def request(config_file: Path, *overrides: str, **besides: Any) -> Request:
    return Request(load_config(config_file, list(overrides)), config_file.parent / "run", **besides)


def test_nothing_is_wrong_with_a_run_that_can_start_and_nothing_is_written(config_file: Path) -> None:
    look_at(request(config_file, allowed=("optim.lr",)), Place())
    look_at(request(config_file, allowed=("optim.lr",)), SECOND)
    assert not (config_file.parent / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.train=/nowhere/shards", "/nowhere/shards does not exist"),
        ("data.num_classes=3", "labels are 0 to 2"),
        ("train.global_batch_size=17", "17 is not divided by 2 ranks"),
        ("optim.warmup=24steps", "shorten it"),
        ("selection={rule: map, map: contrast}", r"make it with: python -m tools\.shards score"),
        ("model.pretrained=/nowhere/weights.pth", "no pretrained weights at /nowhere/weights.pth"),
        ("model.pretrained=local-dir:/nowhere", "no weights in /nowhere"),
        ("model.pretrained=timmm", "unknown source of pretrained weights 'timmm'"),
    ],
)
def test_what_a_run_reads_is_looked_at(config_file: Path, override: str, words: str) -> None:
    with pytest.raises((ValueError, OSError), match=words):
        look_at(request(config_file, override), SECOND)


def test_a_key_that_may_change_is_one_of_the_configurations(config_file: Path) -> None:
    with pytest.raises(ValueError, match=r"--allow-change optim\.lrr: no such key; did you mean optim\.lr\?"):
        look_at(request(config_file, allowed=("optim.lrr",)), Place())
    with pytest.raises(ValueError, match="cannot be loaded once this has changed"):
        look_at(request(config_file, allowed=("engine.zero_stage",)), Place())


def test_the_first_rank_looks_for_the_checkpoint_that_is_named(config_file: Path, tmp_path: Path) -> None:
    named = request(config_file, resume=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is not a checkpoint of this program"):
        look_at(named, Place())
    look_at(named, SECOND)
    (tmp_path / MANIFEST).touch()
    look_at(named, Place())


def test_the_first_rank_looks_for_the_packages_of_monitors(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    watched = request(config_file, "monitor.tensorboard=true")
    with pytest.raises(ValueError, match="needs the package tensorboard"):
        look_at(watched, Place())
    look_at(watched, SECOND)
