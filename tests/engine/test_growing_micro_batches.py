"""Runs whose micro batches grow as the keep rate falls: the same optimization in fewer passes."""

from pathlib import Path

import numpy as np
import pytest
from launching import python_module, run_jobs
from run_results import lines, summary

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards

ZERO_STAGES = (0, 1, 2, 3)
GROWING = ["--set", "train.tokens_per_micro_batch=34", "--set", "schedule.kind=cyclic"]
FIXED = ["--set", "schedule.kind=cyclic"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of every run that the tests below look at."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    jobs = [arguments(folder, "fixed", *FIXED)]
    for stage in ZERO_STAGES:
        zero = [*GROWING, "--set", f"engine.zero_stage={stage}"]
        jobs.append(arguments(folder, f"growing{stage}", *zero))
        if stage == 2:  # before ZeRO 3, which changes how torch multiplies in the processes it has run in
            jobs += [arguments(folder, "resumed2", *zero, "--max-steps", "9"), arguments(folder, "resumed2", *zero)]
    bf16 = ["--set", "engine.zero_stage=1", "--set", "engine.precision=bf16"]
    jobs.append(arguments(folder, "growing-bf16", *GROWING, *bf16))
    codes, printed = run_jobs(2, jobs, folder / "jobs")
    assert codes == [0] * len(jobs), printed
    return folder


def arguments(toy: Path, out: str, *more: str) -> list[str]:
    return ["--config", str(toy / "toy.yaml"), "--out", str(toy / out), "--set", "eval.keep_rates=[1.0]", *more]


def losses(toy: Path, out: str) -> list[float]:
    return [line["loss"] for line in lines(toy, out, "train")]


def test_micro_batches_are_as_large_as_the_limit_allows(toy: Path) -> None:
    sizes = {line["num_kept"]: line["micro_batch_size"] for line in lines(toy, "growing0", "train")}
    assert sizes == {2: 8, 6: 4, 9: 2, 13: 2, 16: 2}
    assert {line["micro_batch_size"] for line in lines(toy, "fixed", "train")} == {8}


@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_the_optimization_is_that_of_fixed_micro_batches(toy: Path, stage: int) -> None:
    np.testing.assert_allclose(losses(toy, f"growing{stage}"), losses(toy, "fixed"), rtol=1e-4)
    for key in ("grad_norm", "lr"):
        growing, fixed = ([line[key] for line in lines(toy, out, "train")] for out in (f"growing{stage}", "fixed"))
        np.testing.assert_allclose(growing, fixed, rtol=1e-3)


def test_in_bf16_too(toy: Path) -> None:
    """As far as rounding, which training amplifies from step to step, differently on different processors."""
    growing, fixed = (lines(toy, out, "train")[:12] for out in ("growing-bf16", "fixed"))
    assert len({line["micro_batch_size"] for line in growing}) > 1
    for key, tolerance in (("loss", 0.01), ("grad_norm", 0.03)):
        found, expected = ([line[key] for line in run] for run in (growing, fixed))
        np.testing.assert_allclose(found, expected, rtol=tolerance)
    np.testing.assert_allclose(losses(toy, "growing-bf16"), losses(toy, "fixed"), rtol=0.2)


def test_one_rank_takes_the_same_steps_as_two(toy: Path) -> None:
    done = python_module("engine.train", *arguments(toy, "one_rank", *GROWING))
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(toy, "one_rank"), losses(toy, "growing0"), rtol=1e-4)


def test_a_resumed_run_ends_bit_identical(toy: Path) -> None:
    """The step at which it stopped lies between two changes of the micro batch."""
    assert summary(toy, "resumed2")["weights_digest"] == summary(toy, "growing2")["weights_digest"]
    assert losses(toy, "resumed2") == losses(toy, "growing2")
