"""Families of models beside the plain ViT, through DeepSpeed on two ranks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import run_jobs

from benchmarks.shared.toy_data import top1_of_plain_timm, write_toy_config, write_toy_shards

MODELS = {
    "beit": "beit_base_patch16_224",
    "eva": "eva02_tiny_patch14_224",
    "rotary": "vit_small_patch16_rope_mixed_224",
    "distilled": "deit_tiny_distilled_patch16_224",
}
ZERO_3 = ["engine.zero_stage=3", "engine.checkpoint_activations=true"]
RUNS = {
    "beit": ["engine.zero_stage=1"],
    "beit, zero 3": ZERO_3,
    "beit, bf16": ["engine.zero_stage=1", "engine.precision=bf16"],
    "eva": ["engine.zero_stage=1"],
    "rotary": ["engine.zero_stage=1"],
    "rotary, zero 3": ZERO_3,
    "distilled": ["engine.zero_stage=1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, which every test below looks at."""
    folder = tmp_path_factory.mktemp("families")
    config = write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    jobs: list[list[str] | dict[str, Any]] = []
    for name, settings in RUNS.items():
        model = [f"model.name={MODELS[name.partition(',')[0]]}", "model.drop_path=0.1"]
        overrides = [*model, *settings, "train.duration=12steps", "optim.warmup=2steps", "optim.layer_decay=0.8"]
        flags = [word for override in overrides for word in ("--set", override)]
        jobs.append(["--config", str(config), "--out", str(folder / name), *flags])
    codes, printed = run_jobs(2, jobs, folder / "jobs")
    assert codes == [0] * len(jobs), printed
    return folder


def losses(folder: Path, name: str) -> list[float]:
    text = (folder / name / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, text) if line["event"] == "train"]


@pytest.mark.parametrize("name", RUNS)
def test_every_family_learns(folder: Path, name: str) -> None:
    measured = losses(folder, name)
    assert len(measured) == 12
    assert np.mean(measured[-3:]) < 0.98 * np.mean(measured[:3])


@pytest.mark.parametrize("name", ["beit", "rotary"])
def test_partitioned_parameters_and_saved_memory_change_nothing_but_rounding(folder: Path, name: str) -> None:
    np.testing.assert_allclose(losses(folder, f"{name}, zero 3"), losses(folder, name), rtol=1e-4)


def test_bf16_learns_as_fp32_does(folder: Path) -> None:
    np.testing.assert_allclose(losses(folder, "beit, bf16"), losses(folder, "beit"), rtol=0.05)


@pytest.mark.parametrize("name", ["beit", "eva", "rotary, zero 3", "distilled"])
def test_the_export_classifies_with_plain_timm_as_the_run_says(folder: Path, name: str) -> None:
    top1 = json.loads((folder / name / "summary.json").read_text())["top1"]["1.0"]
    assert top1_of_plain_timm(folder / name / "model") == pytest.approx(top1)
