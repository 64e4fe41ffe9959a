"""Runs whose images and patches change their sizes: what is seen, and that a run taken up again ends the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import run_jobs
from run_results import lines, summary

from benchmarks.shared.toy_data import top1_of_plain_timm, write_toy_config, write_toy_shards

# Of 24 steps: 8 at 8 pixels, 4 at 12, 8 at 16 in patches as data has them, the last 4 being the cooldown's.
SIZES = [
    "schedule={kind: linear, keep_rate: [0.6, 1.0], cooldown: 4steps}",
    "schedule.image_size={kind: steps, values: [[0, 8], [0.4, 12], [0.6, 16]]}",
]
RUNS = {
    "sizes": [],
    "tokens": ["train.tokens_per_micro_batch=34"],
    "zero 3": ["engine.zero_stage=3"],
    "stopped": ["train.tokens_per_micro_batch=34"],
    "strengths": [
        "schedule.image_size=null",
        "data.augment.auto={kind: randaugment, magnitude: {kind: linear, values: [0, 9]}}",
        "data.augment.mixup={kind: steps, values: [[0, 0], [0.5, 0.4]]}",
    ],
    "coarse to fine": ["schedule.patch_size={kind: steps, values: [[0, 8], [0.5, 4]]}", "schedule.image_size=null"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, which every test below looks at."""
    folder = tmp_path_factory.mktemp("sizes")
    config = write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    jobs: list[list[str] | dict[str, Any]] = []
    for name, settings in RUNS.items():
        flags = [word for setting in [*SIZES, *settings] for word in ("--set", setting)]
        jobs.append(["--config", str(config), "--out", str(folder / name), *flags])
    stopped = list(RUNS).index("stopped")
    first: Any = [*jobs[stopped], "--max-steps", "10"]  # between two sizes
    strengths = list(RUNS).index("strengths")
    jobs.insert(strengths, [*jobs[strengths], "--max-steps", "10"])  # type: ignore[misc]
    jobs.insert(stopped, first)
    jobs.append(jobs.pop(list(RUNS).index("zero 3")))  # it changes how torch multiplies in the processes it has run in
    codes, printed = run_jobs(2, jobs, folder / "jobs")
    assert codes == [0] * len(jobs), printed
    return folder


def seen(folder: Path, name: str, *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(line[key] for key in keys) for line in lines(folder, name, "train")]


def losses(folder: Path, name: str) -> list[float]:
    return [line["loss"] for line in lines(folder, name, "train")]


def test_each_step_tells_its_sizes_and_ends_at_those_of_the_data(folder: Path) -> None:
    assert seen(folder, "sizes", "image_size", "patch_size") == [(8, 4)] * 8 + [(12, 4)] * 4 + [(16, 4)] * 12
    assert {line["num_kept"] for line in lines(folder, "sizes", "train")[-4:]} == {16}
    coarse = seen(folder, "coarse to fine", "image_size", "patch_size")
    assert coarse == [(16, 8)] * 10 + [(16, 4)] * 14


def test_the_summary_tells_stages_of_different_sizes_apart(folder: Path) -> None:
    stages = summary(folder, "sizes")["stages"]
    assert sum(stage["num_steps"] for stage in stages) == 24
    assert {stage["image_size"] for stage in stages} == {8, 12, 16}
    full = next(stage for stage in stages if (stage["keep_rate"], stage["image_size"]) == (1.0, 16))
    assert summary(folder, "sizes")["full_patches_train_wall_s"] == 24 * full["step_s"]


def test_micro_batches_follow_the_tokens_of_a_size(folder: Path) -> None:
    sizes = {line["num_kept"]: line["micro_batch_size"] for line in lines(folder, "tokens", "train")}
    assert all(size == min(8, 2 ** int(np.log2(34 // (kept + 1)))) for kept, size in sizes.items()), sizes
    np.testing.assert_allclose(losses(folder, "tokens"), losses(folder, "sizes"), rtol=1e-4)


def test_divided_weights_change_nothing_but_rounding(folder: Path) -> None:
    np.testing.assert_allclose(losses(folder, "zero 3"), losses(folder, "sizes"), rtol=1e-4)


def test_a_run_taken_up_between_two_sizes_ends_bit_identical(folder: Path) -> None:
    assert summary(folder, "stopped")["weights_digest"] == summary(folder, "tokens")["weights_digest"]


def test_strengths_follow_their_schedules_in_a_run_taken_up_again(folder: Path) -> None:
    told = seen(folder, "strengths", "step", "magnitude", "mixup")
    assert [step for step, _, _ in told] == list(range(24))
    of_run = [min((step + 0.5) / 20, 1) for step in range(24)]  # the last four steps are the cooldown's
    assert [magnitude for _, magnitude, _ in told] == pytest.approx([9 * share for share in of_run])
    assert [mixup for _, _, mixup in told] == [0.0] * 10 + [0.4] * 14
    assert "cutmix" not in lines(folder, "strengths", "train")[0]
    assert all(map(np.isfinite, losses(folder, "strengths")))


@pytest.mark.parametrize("name", ["sizes", "coarse to fine"])
def test_it_learns_and_exports_the_size_of_the_data(folder: Path, name: str) -> None:
    assert np.mean(losses(folder, name)[-3:]) < 0.9 * losses(folder, name)[0]
    assert top1_of_plain_timm(folder / name / "model") == pytest.approx(summary(folder, name)["top1"]["1.0"])
