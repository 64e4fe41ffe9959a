"""Resuming stays exact with everything switched on at once: augmentation, mixing, echo, a cache that is too small, a
rule that looks through the model, relative positions, averaging, drop path and layer decay."""

from pathlib import Path

import pytest
from launching import run_jobs
from run_results import lines, summary

from benchmarks.shared.everything import everything
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.checkpoints.state_files import read_state
from engine.snapshots import SNAPSHOT_FILE


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    config = write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    of_both = [
        "--config",
        str(config),
        *everything(),
        "--set",
        "data.augment.repeats=1",
        "--set",
        "data.echo=3",
        "--set",
        "data.cache={kind: memory, max_bytes: 40000}",
        "--set",
        "checkpoint.every=7steps",
        "--set",
        "eval.every=10steps",
    ]
    jobs: list[list[str] | dict] = [
        [*of_both, "--out", str(folder / "whole")],
        {"argv": [*of_both, "--out", str(folder / "broken")], "signal": "SIGTERM", "rank": 1, "after_steps": 4},
        [*of_both, "--out", str(folder / "broken"), "--max-steps", "16"],
        [*of_both, "--out", str(folder / "broken")],
        ["remove", str(folder / "broken" / "summary.json")],  # as if it had been killed before it wrote that
        [*of_both, "--out", str(folder / "broken")],
        [*of_both, "--out", str(folder / "other"), "--max-steps", "9"],
        [*of_both, "--out", str(folder / "other"), "--set", "selection.snapshot_at=epoch"],
    ]
    codes, printed = run_jobs(2, jobs, folder / "jobs")
    assert codes == [0, 75, 0, 0, 0, 0, 0, 2], printed
    return folder


def test_a_run_that_was_stopped_twice_and_lost_its_summary_ends_with_the_same_weights_and_average(toy: Path) -> None:
    whole, broken = summary(toy, "whole"), summary(toy, "broken")
    assert broken["weights_digest"] == whole["weights_digest"]
    assert broken["ema_digest"] == whole["ema_digest"]
    assert whole["ema_digest"] != whole["weights_digest"]


def values(toy: Path, out: str, event: str, *keys: str) -> list[list]:
    return [[line[key] for key in keys] for line in lines(toy, out, event)]


def test_it_has_each_step_once_with_the_same_loss_and_the_same_evaluations(toy: Path) -> None:
    steps = [values(toy, out, "train", "step", "loss", "num_kept") for out in ("whole", "broken")]
    assert steps[0] == steps[1]
    assert [step for step, *_ in steps[0]] == list(range(24))
    whole, broken = (values(toy, out, "eval", "step", "keep_rate", "loss", "top1") for out in ("whole", "broken"))
    # The broken one was also evaluated at step 16, where it ended for a while as a finished run.
    assert whole == [line for line in broken if line[0] != 16]
    assert len(whole) == 6


def test_its_checkpoint_holds_the_snapshot_in_force(toy: Path) -> None:
    """At step 9 of a cycle of 12 steps, between two changes of the stage."""
    [checkpoint] = (toy / "other" / "checkpoints").glob("step-00000009")
    assert 0 < int(read_state(checkpoint / SNAPSHOT_FILE)["step"]) < 9
