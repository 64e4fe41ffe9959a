"""The benchmark of updates: what arrives later, what is compared, and what is made of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.updating import shards
from benchmarks.updating.compared import compare, measured, table
from benchmarks.updating.shards import CLASSES, EARLY_OF_THEM, LATE_CLASSES, Labels, is_new, write_sets
from benchmarks.updating.variants import FIRST, UPDATES, VARIANTS, Lengths, Places, command_line, config_of
from engine.config import load_config
from pipeline.shards.data_sets import open_train, open_val

LENGTHS = Lengths(1.5, 64)
PLACES = Places(Path("data"), Path("runs"))
LATE = [CLASSES.index(name) for name in LATE_CLASSES]


def labels_of(split: str) -> Labels:
    return np.random.default_rng(len(split)).integers(0, 10, {"train": 600, "val": 100}[split]).astype(np.uint8)


def test_nine_of_ten_images_of_two_classes_arrive_later_and_all_of_theirs_are_held_out_apart() -> None:
    for split in ("train", "val"):
        labels = labels_of(split)
        new, late = is_new(labels, split), np.isin(labels, LATE)
        assert not (new & ~late).any()
        early = late.sum() - new.sum()
        assert early == (-(-late.sum() // EARLY_OF_THEM) if split == "train" else 0)


def test_both_sets_together_are_fashion_mnist_and_are_written_alike_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(folder: Path, split: str) -> tuple[Any, Any]:
        labels = labels_of(split)
        return np.repeat(labels, 28 * 28).reshape(-1, 28, 28), labels

    monkeypatch.setattr(shards, "read_fashion_mnist", read)
    for out in ("one", "two"):
        write_sets(tmp_path / out, tmp_path, workers=1)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.tar"))
    assert len(files) == 4
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    places = Places(tmp_path / "one", tmp_path / "runs")
    config = config_of("anew", 0, places, LENGTHS)
    train, (old, new) = open_train(config.data), open_val(config.data)
    assert sorted(train.label) == sorted(labels_of("train"))
    assert set(np.unique(new.index.label)) == set(LATE)
    assert set(np.unique(old.index.label)) == set(range(10)) - set(LATE)
    assert (old.name, new.name) == ("old", "new")


def test_every_update_has_a_tenth_of_the_steps_of_training_anew() -> None:
    steps = {name: int(config_of(name, 0, PLACES, LENGTHS).train.duration.amount) for name in VARIANTS}
    assert steps == {"before": 1153, "anew": 1406, **dict.fromkeys(("anew-short", *UPDATES), 141)}
    shipped = load_config("configs/update.yaml", preview=True)
    assert shipped.train.duration == config_of("mixed-anchor", 0, PLACES, LENGTHS).train.duration


def test_updates_start_from_the_model_of_their_own_seed_and_others_from_none() -> None:
    for name in VARIANTS:
        start = config_of(name, 3, PLACES, LENGTHS).model.pretrained
        assert start == ("local-dir:runs/before-seed3/model" if name in UPDATES else None)
    anchors = {name: config_of(name, 3, PLACES, LENGTHS).train.anchor for name in VARIANTS}
    assert [name for name, anchor in anchors.items() if anchor is not None] == [
        *("new-fisher", "mixed-anchor"),
    ]
    fisher = anchors["new-fisher"]
    assert fisher is not None
    assert fisher.fisher == Path("runs/fisher-seed3.safetensors")
    assert command_line("mixed", 3, PLACES, LENGTHS)[:4] == [
        *("--config", "configs/update.yaml", "--out", "runs/mixed-seed3")
    ]


def test_all_runs_have_one_model_and_differ_in_what_is_named() -> None:
    configs = {name: config_of(name, 0, PLACES, LENGTHS) for name in VARIANTS}
    for one in configs.values():
        assert one.model.options == configs["anew"].model.options
        assert (one.schedule, one.selection, one.eval) == (
            configs["anew"].schedule,
            configs["anew"].selection,
            configs["anew"].eval,
        )
    free, held = (configs[name].model_dump(exclude={"name"}) for name in ("mixed", "mixed-anchor"))
    free["train"]["anchor"] = held["train"]["anchor"]
    assert free == held


def write_run(folder: Path, top1: tuple[float, float], wall_s: float, steps: int) -> None:
    folder.mkdir(parents=True)
    lines = [
        {"event": "eval", "step": steps, "keep_rate": 1.0, "val": name, "top1": value, "num_samples": number}
        for name, value, number in zip(("old", "new"), top1, (8000, 2000), strict=True)
    ]
    lines.insert(0, {**lines[0], "step": 1, "top1": 0.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts = {"steps": steps, "mean_keep_rate": 0.6, "train_wall_s": wall_s, "train_cpu_s": 2 * wall_s}
    (folder / "summary.json").write_text(json.dumps({**facts, "ranks": 2, "weights_digest": "ab"}))


def test_accuracy_is_told_on_old_and_new_images_apart_and_against_training_anew(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path)
    for seed in (0, 1, 2):
        for name in VARIANTS:
            top1 = (0.9, 0.8) if name == "anew" else (0.85 + 0.01 * seed, 0.8)
            write_run(places.run(name, seed), top1, 100.0 if name in FIRST else 10.0, 1000 if name in FIRST else 100)
    one = measured(places.run("mixed", 1))
    assert one["top1"] == {"old": {"1.0": 0.86}, "new": {"1.0": 0.8}, "all": {"1.0": pytest.approx(0.848)}}
    found = compare(places, [0, 1, 2])
    mixed = found["mixed"]
    assert (mixed["steps"], mixed["wall_time_ratio"], mixed["cpu_time_ratio"]) == (100, 0.1, 0.1)
    assert mixed["top1"]["old"]["1.0"]["mean"] == pytest.approx(0.86)
    assert mixed["top1"]["all"]["1.0"]["against_anew"] == pytest.approx(0.8 * -0.04)
    assert found["anew"]["top1"]["old"]["1.0"]["against_anew"] == 0
    row = next(line for line in table(found).splitlines() if line.startswith("mixed "))
    assert " ".join(row.split()) == "mixed 100 0.10 86.00 ± 1.00 80.00 ± 0.00 84.80 ± 0.80 -3.20 points"
