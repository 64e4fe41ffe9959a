"""Whole runs with a moving average, of pre-training, and of fine-tuning from it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from launching import run_jobs
from run_results import lines, summary

from benchmarks.shared.toy_data import NUM_VAL, write_toy_config, write_toy_shards
from engine.checkpoints.manifest import step_folder, verify_manifest

pytestmark = pytest.mark.timeout(600)

STEPS, DECAY = 24, 0.95
AVERAGED = ("--set", f"train.ema_decay={DECAY}")
PRETRAIN = (
    *("--set", "task=pretrain", "--set", "selection.rule=random", "--set", "eval.keep_rates=[0.4,0.25]"),
    *("--set", "schedule={kind: constant, keep_rate: 0.4}"),
    *("--set", "pretrain={decoder_dim: 32, decoder_depth: 1, decoder_heads: 2}"),
)
ZERO_1, ZERO_3 = ("--set", "engine.zero_stage=1"), ("--set", "engine.zero_stage=3")
BF16 = ("--set", "engine.precision=bf16", *ZERO_1)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    return folder


def arguments(toy: Path, out: str, *more: str) -> list[str]:
    return ["--config", str(toy / "toy.yaml"), "--out", str(toy / out), *more]


def losses(toy: Path, out: str) -> list[float]:
    return [line["loss"] for line in lines(toy, out, "train")]


@pytest.fixture(scope="module")
def two_ranks(toy: Path) -> tuple[dict[str, int], str]:
    """Exit codes by name, and all that was printed."""
    each_step = ("--set", "checkpoint.every=1steps", "--set", "checkpoint.keep_last=9")
    jobs = {
        "plain": arguments(toy, "plain", *ZERO_1),
        "each step": arguments(toy, "each-step", *AVERAGED, *each_step, "--max-steps", "4"),
        "average": arguments(toy, "average", *AVERAGED, *ZERO_1),
        "average of a divided model": arguments(toy, "refused", *AVERAGED, *ZERO_3),
        "average in bf16": arguments(toy, "average-bf16", *AVERAGED, *BF16),
        "pretrain": arguments(toy, "pretrain", *PRETRAIN, *ZERO_1, *AVERAGED),
        "pretrain to 9": arguments(toy, "pretrain-again", *PRETRAIN, *ZERO_1, *AVERAGED, "--max-steps", "9"),
        "pretrain from 9": arguments(toy, "pretrain-again", *PRETRAIN, *ZERO_1, *AVERAGED),
        "pretrain to 9, then on one rank": arguments(toy, "elastic", *PRETRAIN, *ZERO_1, *AVERAGED, "--max-steps", "9"),
        "pretrain in bf16": arguments(toy, "pretrain-bf16", *PRETRAIN, *BF16),
        "fine-tune": arguments(toy, "fine-tune", "--set", f"model.pretrained=local-dir:{toy / 'pretrain' / 'model'}"),
        # ZeRO-3 comes last: it leaves another ``torch.nn.functional.linear`` in the process, which rounds differently.
        "pretrain a divided model": arguments(toy, "pretrain-zero3", *PRETRAIN, *ZERO_3),
    }
    codes, printed = run_jobs(2, list(jobs.values()), toy / "two_ranks")
    return dict(zip(jobs, codes, strict=True)), printed


@pytest.fixture(scope="module")
def one_rank(toy: Path, two_ranks: tuple[dict[str, int], str]) -> str:
    """The elastic run brought to its end on one rank; what was printed."""
    codes, printed = run_jobs(1, [arguments(toy, "elastic", *PRETRAIN, *ZERO_1, *AVERAGED)], toy / "one_rank")
    assert codes == [0], printed
    return printed


def test_all_runs_end_as_they_should(two_ranks: tuple[dict[str, int], str]) -> None:
    codes, printed = two_ranks
    assert {name for name, code in codes.items() if code} == {"average of a divided model"}, printed
    assert codes["average of a divided model"] == 2
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "train.ema_decay needs whole weights on every rank, which engine.zero_stage 3 divides" in errors[0]


# The average


def test_the_average_in_a_checkpoint_is_that_of_the_weights_after_each_step(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    averages, weights = [], []
    for step in range(1, 5):
        folder = step_folder(toy / "each-step" / "checkpoints", step)
        assert "average.pt" in verify_manifest(folder)["files"]
        averages.append(torch.load(folder / "average.pt", weights_only=True))
        weights.append(torch.load(folder / "mp_rank_00_model_states.pt", weights_only=False)["module"])
    assert averages[0].keys() == weights[0].keys()
    for name in weights[0]:
        for before, after, weight in zip(averages[:-1], averages[1:], weights[1:], strict=True):
            torch.testing.assert_close(after[name], DECAY * before[name] + (1 - DECAY) * weight[name])


def test_an_average_changes_what_is_evaluated_but_not_what_is_trained(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    plain, average = summary(toy, "plain"), summary(toy, "average")
    assert average["weights_digest"] == plain["weights_digest"]
    assert average["ema_digest"] != plain["weights_digest"]
    assert "ema_digest" not in plain
    assert losses(toy, "average") == losses(toy, "plain")
    for of_average, of_weights in zip(lines(toy, "average", "eval"), lines(toy, "plain", "eval"), strict=True):
        assert of_average["weights"] == "ema"
        assert "weights" not in of_weights
        assert of_average["loss"] != of_weights["loss"]


def test_a_resumed_run_ends_bit_identical_average_included(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    assert losses(toy, "pretrain-again") == losses(toy, "pretrain")
    whole, resumed = summary(toy, "pretrain"), summary(toy, "pretrain-again")
    for key in ("weights_digest", "ema_digest", "reconstruction_loss"):
        assert resumed[key] == whole[key]


def test_on_another_number_of_ranks_the_average_goes_on(
    toy: Path, two_ranks: tuple[dict[str, int], str], one_rank: str
) -> None:
    assert "written by 2 rank(s)" in one_rank
    assert "holds no average" not in one_rank
    np.testing.assert_allclose(losses(toy, "elastic"), losses(toy, "pretrain"), rtol=1e-4)
    elastic, whole = summary(toy, "elastic"), summary(toy, "pretrain")
    for rate, loss in whole["reconstruction_loss"].items():
        assert elastic["reconstruction_loss"][rate] == pytest.approx(loss, rel=1e-4)


# Pre-training


@pytest.mark.parametrize("out", ["pretrain", "pretrain-bf16", "pretrain-zero3"])
def test_pretraining_learns_to_reconstruct(toy: Path, two_ranks: tuple[dict[str, int], str], out: str) -> None:
    course = losses(toy, out)
    assert len(course) == STEPS
    assert np.mean(course[-4:]) < 0.6 * np.mean(course[:4])
    np.testing.assert_allclose(course, losses(toy, "pretrain"), rtol=0.05)


def test_the_reconstruction_of_every_validation_sample_counts_once(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    evaluations = lines(toy, "pretrain", "eval")
    assert [line["keep_rate"] for line in evaluations] == [0.4, 0.25]
    for line in evaluations:
        assert line["num_samples"] == NUM_VAL
        assert "top1" not in line
    end = summary(toy, "pretrain")
    assert end["reconstruction_loss"] == {str(line["keep_rate"]): line["loss"] for line in evaluations}
    assert "top1" not in end


def test_a_step_sends_every_patch_once(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    patch_bytes, id_bytes, label_bytes = 4 * 4 * 3, 4, 8
    assert lines(toy, "pretrain", "train")[0]["bytes_per_image"] == 16 * (patch_bytes + id_bytes) + label_bytes


def test_fine_tuning_loads_the_whole_encoder_and_learns(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    _, printed = two_ranks
    [report] = [line for line in printed.splitlines() if line.startswith("pretrained weights from")]
    num_parameters = len(torch.load(toy_checkpoint(toy, "plain"), weights_only=False)["module"])
    assert report.endswith(f"pretrain/model: {num_parameters} parameters loaded")
    assert np.mean(losses(toy, "fine-tune")[-4:]) < 0.9 * np.mean(losses(toy, "fine-tune")[:4])


def toy_checkpoint(toy: Path, out: str) -> Path:
    return step_folder(toy / out / "checkpoints", STEPS) / "mp_rank_00_model_states.pt"
