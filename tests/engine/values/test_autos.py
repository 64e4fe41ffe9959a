"""What ``auto`` stands for in a configuration: found out once, and a number from then on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.checkpoints.manifest import step_folder, write_manifest
from engine.checkpoints.resume import identity, recorded_identity
from engine.config import RunConfig, dump_config, load_config
from engine.prepare import prepare
from engine.ranks.world import World
from engine.train import read_request
from pipeline.config import IMAGENET_MEAN, IMAGENET_STD
from pipeline.shards.index import open_index
from pipeline.yaml_file import ConfigError

HERE = World(0, 1, 0, 1, torch.device("cpu"), ("here",))
IMAGENETS = (IMAGENET_MEAN, IMAGENET_STD)
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OWN = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A run that names classes, mean and standard deviation nowhere, whose data may."""
    path = write_toy_config(tmp_path / "toy.yaml", write_toy_shards(tmp_path / "shards"))
    values = yaml.safe_load(path.read_text())
    values["data"]["num_classes"] = "auto"
    path.write_text(yaml.safe_dump(values))
    name_classes(tmp_path, ["a", "b", "c", "d", "e"])
    return path


def name_classes(folder: Path, names: list[str] | None) -> None:
    (folder / "shards" / "dataset.json").write_text(json.dumps({"classes": names}))


def statistics(config: RunConfig) -> tuple[Any, Any]:
    return config.data.mean, config.data.std


def describe_weights(folder: Path, description: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(description if isinstance(description, str) else json.dumps(description))
    return folder


def own(shape: str) -> Any:
    values = {"mean": OWN[0], "std": OWN[1]}
    return {"pretrained_cfg": values, "architecture": "vit"} if shape == "an export's" else values


# Classes


def test_the_number_of_classes_is_that_of_the_names_beside_the_training_shards(config_file: Path) -> None:
    config = load_config(config_file)
    assert config.data.num_classes == 5
    assert yaml.safe_load(dump_config(config))["data"]["num_classes"] == 5
    assert load_config(config_file, ["data.num_classes=7"]).data.num_classes == 7


@pytest.mark.parametrize("names", [None, []])
def test_without_names_the_error_says_which_number_the_labels_suggest(
    config_file: Path, names: list[str] | None
) -> None:
    name_classes(config_file.parent, names)
    with pytest.raises(ConfigError, match=r"data\.num_classes is auto, but .*dataset\.json.* data\.num_classes=4$"):
        load_config(config_file)
    (config_file.parent / "shards" / "dataset.json").unlink()
    with pytest.raises(ConfigError, match=r"toy\.yaml: .* suggest data\.num_classes=4$"):
        load_config(config_file)


def test_names_that_cannot_be_read_and_shards_that_are_not_there_are_told(config_file: Path) -> None:
    (config_file.parent / "shards" / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match=r"dataset\.json: cannot be read"):
        load_config(config_file)
    with pytest.raises(ConfigError, match="shard folder nowhere does not exist"):
        load_config(config_file, ["data.train=nowhere"])


def test_another_word_is_refused_and_auto_is_named(config_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.num_classes: .*, or auto, got 'automatic'"):
        load_config(config_file, ["data.num_classes=automatic"])
    with pytest.raises(ConfigError, match=r"data\.mean: .*, or auto, got 'imagenet'"):
        load_config(config_file, ["data.mean=imagenet"])
    with pytest.raises(ConfigError, match=r"data\.image_size: [^,]*, [^,]*, got 'auto'"):
        load_config(config_file, ["data.image_size=auto"])


# Mean and standard deviation


def test_without_weights_they_are_imagenets_and_nothing_heavy_is_imported(config_file: Path) -> None:
    assert statistics(load_config(config_file)) == IMAGENETS
    code = (
        f"import sys; from engine.config import load_config; load_config({str(config_file)!r})\n"
        f"load_config({str(config_file)!r}, ['model.pretrained=timm'], preview=True)\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_small_patch16_224", HALVES),
        ("deit_small_patch16_224", IMAGENETS),
        ("vit_base_patch16_224", HALVES),
        ("vit_base_patch16_224.mae", IMAGENETS),
        ("vit_small_patch16_224.no_such_weights", IMAGENETS),
        ("no_such_model", IMAGENETS),
    ],
)
@pytest.mark.parametrize("source", ["timm", "there/weights.pth", "local-dir:there"])
def test_with_weights_they_are_those_that_timm_names_for_the_model(
    source: str, name: str, expected: Any, config_file: Path
) -> None:
    assert statistics(load_config(config_file, [f"model.name={name}", f"model.pretrained={source}"])) == expected


@pytest.mark.parametrize("shape", ["an export's", "an older one"])
@pytest.mark.parametrize("source", ["local-dir:{}", "{}/model.safetensors"])
def test_a_description_beside_the_weights_knows_better(
    source: str, shape: str, config_file: Path, tmp_path: Path
) -> None:
    place = source.format(describe_weights(tmp_path / "model", own(shape)))
    config = load_config(config_file, [f"model.pretrained={place}", "data.std=auto"])
    assert statistics(config) == OWN
    assert yaml.safe_load(dump_config(config))["data"]["mean"] == list(OWN[0])


@pytest.mark.parametrize("description", [{"hidden_size": 3}, {"mean": [0.1], "std": [0.2]}, {"mean": 0.1, "std": 0.2}])
def test_a_description_of_another_kind_is_passed_over(description: Any, config_file: Path, tmp_path: Path) -> None:
    place = describe_weights(tmp_path / "model", description)
    assert statistics(load_config(config_file, [f"model.pretrained=local-dir:{place}"])) == HALVES


def test_a_description_that_cannot_be_read_is_an_error_where_it_is_needed(config_file: Path, tmp_path: Path) -> None:
    place = f"model.pretrained=local-dir:{describe_weights(tmp_path / 'model', '{')}"
    with pytest.raises(ConfigError, match=r"config\.json, beside the pretrained weights, cannot be read"):
        load_config(config_file, [place])
    both = [place, "data.mean=[0.1, 0.1, 0.1]", "data.std=[0.2, 0.2, 0.2]"]
    assert statistics(load_config(config_file, both)) == ((0.1,) * 3, (0.2,) * 3)


def test_each_of_them_may_be_given_alone(config_file: Path) -> None:
    config = load_config(config_file, ["model.pretrained=timm", "data.mean=[0.1, 0.2, 0.3]"])
    assert statistics(config) == ((0.1, 0.2, 0.3), HALVES[1])


def test_a_run_says_in_one_line_whether_its_numbers_are_those_of_its_weights(config_file: Path, tmp_path: Path) -> None:
    name_classes(tmp_path, ["a", "b", "c", "d"])
    place = describe_weights(tmp_path / "model", own("an export's"))
    torch.save(prepare(load_config(config_file), HERE).model.state_dict(), place / "weights.pth")
    weights = f"model.pretrained={place / 'weights.pth'}"
    assert prepare(load_config(config_file), HERE).notes == ()
    (line,) = prepare(load_config(config_file, [weights]), HERE).notes
    assert line == (
        "data.mean [0.1, 0.2, 0.3] and data.std [0.4, 0.5, 0.6]: those of the pretrained weights, "
        f"by {place / 'config.json'}"
    )
    (line,) = prepare(load_config(config_file, [weights, "data.mean=[0.5, 0.5, 0.5]"]), HERE).notes
    assert line == (
        "data.mean [0.5, 0.5, 0.5] and data.std [0.4, 0.5, 0.6] are not those of the pretrained weights, "
        f"[0.1, 0.2, 0.3] and [0.4, 0.5, 0.6] by {place / 'config.json'}; auto takes these"
    )


# Where numbers have to be


def test_a_preview_needs_neither_data_nor_weights(config_file: Path) -> None:
    config = load_config(config_file, ["data.train=nowhere", "model.pretrained=timm"], preview=True)
    assert config.data.num_classes > 1
    assert load_config(config_file, preview=True).data.num_classes == 5


def recorded(config: RunConfig, folder: Path, step: int = 10) -> Path:
    """A checkpoint of a run, as far as its manifest goes."""
    checkpoint = step_folder(folder / "checkpoints", step)
    checkpoint.mkdir(parents=True)
    facts = {"step": step, "world_size": 1, "identity": identity(config, open_index(config.data.train, "train"))}
    write_manifest(checkpoint, facts, {})
    return checkpoint


def test_a_run_from_before_goes_on_with_the_numbers_that_it_was_trained_with(config_file: Path, tmp_path: Path) -> None:
    weights = "model.pretrained=timm"
    before = ["data.mean=[0.485, 0.456, 0.406]", "data.std=[0.229, 0.224, 0.225]"]  # what leaving them out once meant
    checkpoint = recorded(load_config(config_file, [weights, *before]), tmp_path / "run")
    command = ["--config", str(config_file), "--set", weights]

    def asked(*more: str) -> Any:
        return statistics(read_request([*command, *more]).config)

    run, other = ["--out", str(tmp_path / "run")], ["--out", str(tmp_path / "other")]
    assert asked(*run) == IMAGENETS
    assert asked(*other, "--resume", str(checkpoint)) == IMAGENETS
    assert asked(*other) == HALVES
    assert asked(*run, "--resume", "never") == HALVES
    assert asked(*run, "--set", "data.mean=[0.1, 0.2, 0.3]") == ((0.1, 0.2, 0.3), IMAGENET_STD)


def test_what_is_recorded_is_told_by_the_newest_manifest_that_can_be_read(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file)
    recorded(config, tmp_path / "run", step=10)
    (recorded(config, tmp_path / "run", step=20) / "manifest.json").write_text("{")
    (tmp_path / "run" / "checkpoints" / "step-00000030").mkdir()
    found = recorded_identity("auto", tmp_path / "run" / "checkpoints")
    assert found["data.mean"] == list(IMAGENET_MEAN)
    assert found["data.num_classes"] == 5
    assert recorded_identity("auto", tmp_path / "nowhere") == {}
    assert recorded_identity("nowhere", tmp_path / "run" / "checkpoints") == {}


def test_autos_and_their_numbers_are_the_same_run(config_file: Path) -> None:
    index = open_index(config_file.parent / "shards", "train")
    mean, std = map(json.dumps, IMAGENETS)
    numbers = ["data.num_classes=5", f"data.mean={mean}", f"data.std={std}"]
    assert identity(load_config(config_file), index) == identity(load_config(config_file, numbers), index)
