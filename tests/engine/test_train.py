"""Whole runs, on one to four ranks, as a user starts them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import deepspeed, python_module, run_jobs
from run_results import lines, summary

from benchmarks.shared.toy_data import NUM_VAL, top1_of_plain_timm, write_toy_config, write_toy_shards
from engine.prepare import prepare
from engine.ranks.world import World
from engine.run_plan import plan_run
from engine.train import read_request
from pipeline.loader import PatchLoader
from pipeline.shards.index import open_index

ZERO_STAGES = (0, 1, 2, 3)
BAD_INPUTS = {
    "a missing shard folder": (["--set", "data.train=/nowhere/shards"], "/nowhere/shards"),
    "an unknown key": (["--set", "optim.lrr=1"], "did you mean 'lr'"),
    "a patch that does not divide the image": (["--set", "data.patch_size=5"], "patch_size 5 does not divide"),
    "a keep rate above 1": (["--set", "schedule.keep_rate=[0.2,1.5]"], "got 1.5"),
    "a label outside the classes": (["--set", "data.num_classes=3"], "labels are 0 to 2"),
    "a batch that ranks do not divide": (["--set", "train.global_batch_size=17"], "17 is not divided by 2 ranks"),
    "a batch that micro batches do not divide": (["--set", "train.micro_batch_size=3"], "3 does not divide"),
    "micro batches that tear pairs apart": (
        ["--set", "data.augment.mixup=0.5", "--set", "train.micro_batch_size=1"],
        "mix pairs of neighbours",
    ),
    "a batch larger than the data set": (["--set", "train.global_batch_size=400"], "does not fit 200"),
    "an unknown model": (["--set", "model.name=vit_tinny_patch16_224"], "vit_tiny_patch16_224"),
    "a warm-up longer than the run": (["--set", "optim.warmup=24steps"], "shorten it"),
    "an unknown argument": (["--stepps", "3"], "--stepps"),
}
AUGMENT = "{crop: pad, auto: {kind: trivialaugment}, mixup: 0.8, cutmix: 1, erase_probability: 0.3, repeats: 2}"
AUGMENTED = [
    *("--set", f"data.augment={AUGMENT}", "--set", "train.loss=binary_cross_entropy"),
    *("--set", "train.label_smoothing=0.1"),
]


# Learning rates that break the weights at once, which no configuration takes: what is said of a checkpoint that is due
# then, or of the next loss.
BREAKS = {
    "broken": (1e300, ["--max-steps", "10"], "the weights are not finite after step 10"),
    "too large": (1e30, ["--max-steps", "10"], "the weights after step 10 are so large that"),
    "noticed late": (1e300, [], "the loss is nan at step 10"),
}
BROKEN_RUNS = [*(("broken", stage) for stage in ZERO_STAGES), ("too large", 3), ("noticed late", 0)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy shards and toy.yaml."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    return folder


def arguments(toy: Path, out: str, *more: str) -> list[str]:
    return ["--config", str(toy / "toy.yaml"), "--out", str(toy / out), *more]


@pytest.fixture(scope="module")
def two_ranks(toy: Path) -> tuple[dict[str, int], str]:
    """Every run on two ranks that the tests below look at: exit codes by name, and all that was printed."""
    jobs: dict[str, list[str] | dict[str, Any]] = {}
    for stage in ZERO_STAGES:
        zero = ["--set", f"engine.zero_stage={stage}", "--set", "model.drop_path=0.2"]
        jobs[f"zero{stage}"] = arguments(toy, f"zero{stage}", *zero)
        jobs[f"stopped{stage}"] = arguments(toy, f"resumed{stage}", *zero, "--max-steps", "9")
        for name in (name for name, broken_stage in BROKEN_RUNS if broken_stage == stage):
            lr, more, _ = BREAKS[name]
            jobs[f"{name}{stage}"] = {"argv": arguments(toy, f"resumed{stage}", *zero, *more), "lr": lr}
        jobs[f"resumed{stage}"] = arguments(toy, f"resumed{stage}", *zero)
    for stage in (0, 1, 3):
        bf16 = ["--set", "engine.precision=bf16", "--set", f"engine.zero_stage={stage}"]
        jobs[f"bf16-{stage}"] = arguments(toy, f"bf16-{stage}", *bf16)
        jobs[f"bf16-stopped{stage}"] = arguments(toy, f"bf16-resumed{stage}", *bf16, "--max-steps", "9")
        jobs[f"bf16-resumed{stage}"] = arguments(toy, f"bf16-resumed{stage}", *bf16)
    jobs["plain"] = arguments(toy, "world2")
    accumulated = ["--set", "train.micro_batch_size=2", "--set", "engine.checkpoint_activations=true"]
    jobs["accumulated"] = arguments(toy, "accumulated", *accumulated)
    jobs["augmented"] = arguments(toy, "augmented", *AUGMENTED)
    jobs["augmented, stopped"] = arguments(toy, "augmented-resumed", *AUGMENTED, "--max-steps", "9")
    jobs["augmented, resumed"] = arguments(toy, "augmented-resumed", *AUGMENTED)
    jobs["another model"] = arguments(toy, "world2", "--set", "model.options.depth=3")
    jobs["not a checkpoint"] = arguments(toy, "nothing", "--resume", str(toy / "shards"))
    for name, (override, _) in BAD_INPUTS.items():
        jobs[name] = arguments(toy, "bad", *override)
    codes, printed = run_jobs(2, list(jobs.values()), toy / "two_ranks")
    return dict(zip(jobs, codes, strict=True)), printed


def test_a_command_line_becomes_a_configuration_and_what_it_says_besides(toy: Path) -> None:
    more = ["--max-steps", "9", "--resume", "never", "--allow-change", "seed", "--set", "optim.lr=0.1"]
    request = read_request(arguments(toy, "run", *more))
    assert (request.config.name, request.config.optim.lr) == ("toy", 0.1)
    assert (request.folder, request.resume, request.allowed) == (toy / "run", "never", ("seed",))
    plan = plan_run(request.config, 200, 1)
    assert request.stop_step(plan) == 9
    assert read_request(arguments(toy, "run", "--max-steps", "99")).stop_step(plan) == 24


def test_without_out_and_max_steps_a_run_has_a_folder_by_its_name_and_all_of_its_steps(toy: Path) -> None:
    request = read_request(["--config", str(toy / "toy.yaml"), "--set", "name=mine"])
    assert (request.folder, request.resume, request.allowed) == (Path("runs/mine"), "auto", ())
    assert request.stop_step(plan_run(request.config, 200, 1)) == 24


def test_a_run_of_no_step_is_refused(toy: Path) -> None:
    with pytest.raises(ValueError, match="--max-steps is at least 1, got 0"):
        read_request(arguments(toy, "run", "--max-steps", "0"))


@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_each_zero_stage_learns(toy: Path, two_ranks: tuple[dict[str, int], str], stage: int) -> None:
    assert two_ranks[0][f"zero{stage}"] == 0
    losses = [line["loss"] for line in lines(toy, f"zero{stage}", "train")]
    assert len(losses) == 24
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    assert all(line["grad_norm"] > 0 for line in lines(toy, f"zero{stage}", "train"))


def test_the_zero_stages_compute_the_same(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    losses = [[line["loss"] for line in lines(toy, f"zero{stage}", "train")] for stage in ZERO_STAGES]
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-4)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_bf16_learns_as_fp32_does(toy: Path, two_ranks: tuple[dict[str, int], str], stage: int) -> None:
    assert two_ranks[0][f"bf16-{stage}"] == 0
    losses = [line["loss"] for line in lines(toy, f"bf16-{stage}", "train")]
    np.testing.assert_allclose(losses, [line["loss"] for line in lines(toy, "world2", "train")], rtol=0.05)


# The run left in peace, and what the jobs and the folder of the one that was stopped and resumed begin with.
STOPPED_RUNS = [*((f"zero{stage}", "", stage) for stage in ZERO_STAGES)]
STOPPED_RUNS += [(f"bf16-{stage}", "bf16-", stage) for stage in (0, 1, 3)]


@pytest.mark.parametrize(("whole", "kind", "stage"), STOPPED_RUNS)
def test_a_run_stopped_at_a_checkpoint_and_resumed_ends_bit_identical(
    toy: Path, two_ranks: tuple[dict[str, int], str], whole: str, kind: str, stage: int
) -> None:
    assert two_ranks[0][f"{kind}stopped{stage}"] == two_ranks[0][f"{kind}resumed{stage}"] == 0
    expected, resumed = summary(toy, whole), summary(toy, f"{kind}resumed{stage}")
    assert resumed["weights_digest"] == expected["weights_digest"]
    assert resumed["top1"] == expected["top1"]
    resumed_lines = lines(toy, f"{kind}resumed{stage}", "train")
    assert [line["step"] for line in resumed_lines] == list(range(24))
    assert [line["loss"] for line in resumed_lines] == [line["loss"] for line in lines(toy, whole, "train")]


@pytest.mark.parametrize(("name", "stage"), BROKEN_RUNS)
def test_broken_weights_end_a_run_with_code_4_and_the_last_good_checkpoint_holds(
    toy: Path, two_ranks: tuple[dict[str, int], str], name: str, stage: int
) -> None:
    """From that checkpoint the run went on to the same weights as one that was never broken, see above."""
    codes, printed = two_ranks
    assert codes[f"{name}{stage}"] == 4
    good = f"the last good checkpoint is {toy}/resumed{stage}/checkpoints/step-00000009, and the same command goes on"
    told = [line for line in printed.splitlines() if line.startswith(f"error: {BREAKS[name][2]}") and good in line]
    assert len(told) == 1
    assert "optim.lr" in told[0]


def test_accumulation_and_activation_checkpointing_change_nothing_but_rounding(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    accumulated = [line["loss"] for line in lines(toy, "accumulated", "train")]
    np.testing.assert_allclose(accumulated, [line["loss"] for line in lines(toy, "world2", "train")], rtol=1e-4)


def test_the_loss_is_that_of_mixed_and_smoothed_labels(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    assert two_ranks[0]["augmented"] == 0
    config = read_request(arguments(toy, "nothing", *AUGMENTED)).config
    prepared = prepare(config, World(0, 1, 0, 1, torch.device("cpu"), ("here",)))
    plan = prepared.planner.plan(0)
    with PatchLoader(prepared.planner, iter([plan]), batch_size=16, num_threads=1) as loader:
        batch = next(loader)
    assert batch.mix_labels is not None
    assert batch.mix_weights is not None
    own, partner = (torch.nn.functional.one_hot(labels, 4) for labels in (batch.labels, batch.mix_labels))
    weights = batch.mix_weights[:, None]
    targets = 0.9 * (weights * own + (1 - weights) * partner) + 0.1 / 4
    probabilities = prepared.model(batch.patches, batch.ids_keep).sigmoid()
    losses = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log())
    assert lines(toy, "augmented", "train")[0]["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)


def test_an_augmented_run_that_was_resumed_ends_bit_identical(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    assert two_ranks[0]["augmented, stopped"] == two_ranks[0]["augmented, resumed"] == 0
    whole, resumed = summary(toy, "augmented"), summary(toy, "augmented-resumed")
    assert resumed["weights_digest"] == whole["weights_digest"]
    assert [line["loss"] for line in lines(toy, "augmented-resumed", "train")] == [
        line["loss"] for line in lines(toy, "augmented", "train")
    ]


def test_a_train_line_says_what_the_step_was(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    first, *_, last = lines(toy, "world2", "train")
    assert (first["step"], first["keep_rate"], first["num_kept"]) == (0, 0.2, 2)
    assert (last["step"], last["keep_rate"], last["num_kept"]) == (23, 1.0, 16)
    patch_bytes, id_bytes, label_bytes = 4 * 4 * 3, 4, 8
    assert first["bytes_per_image"] == 2 * (patch_bytes + id_bytes) + label_bytes
    lengths = open_index(toy / "shards", "train").length
    assert lengths.min() <= first["bytes_read_per_image"] <= lengths.max()
    assert 1 <= first["pages_read_per_image"] <= 2
    for key in ("epoch", "lr", "grad_norm", "step_s", "loader_wait_s", "images_per_s"):
        assert np.isfinite(first[key])


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_gives_one_clear_error(two_ranks: tuple[dict[str, int], str], name: str) -> None:
    codes, printed = two_ranks
    assert codes[name] == 2
    told = [line for line in printed.splitlines() if line.startswith("error: ") and BAD_INPUTS[name][1] in line]
    assert len(told) == 1


def test_a_checkpoint_of_another_model_is_refused_with_both_values(two_ranks: tuple[dict[str, int], str]) -> None:
    codes, printed = two_ranks
    assert codes["another model"] == 2
    assert "'depth': 2" in printed
    assert "'depth': 3" in printed


def test_a_folder_that_is_no_checkpoint_is_refused(two_ranks: tuple[dict[str, int], str]) -> None:
    codes, printed = two_ranks
    assert codes["not a checkpoint"] == 2
    assert "is not a checkpoint" in printed


def test_nothing_is_written_for_a_run_that_cannot_start(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    assert not (toy / "bad").exists()


@pytest.fixture(scope="module")
def one_rank(toy: Path) -> None:
    """The same run without any launcher."""
    done = python_module("engine.train", *arguments(toy, "world1"))
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def four_ranks(toy: Path) -> None:
    done = deepspeed(4, "--module", "engine.train", *arguments(toy, "world4"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("two_ranks", "one_rank", "four_ranks")
def test_one_two_and_four_ranks_reach_the_same_loss(toy: Path) -> None:
    losses = {size: [line["loss"] for line in lines(toy, f"world{size}", "train")] for size in (1, 2, 4)}
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-4)
    np.testing.assert_allclose(losses[4], losses[1], rtol=1e-4)


@pytest.mark.usefixtures("two_ranks", "one_rank", "four_ranks")
def test_every_validation_sample_counts_once_on_any_number_of_ranks(toy: Path) -> None:
    for size in (1, 2, 4):
        for line, reference in zip(lines(toy, f"world{size}", "eval"), lines(toy, "world1", "eval"), strict=True):
            assert line["num_samples"] == NUM_VAL
            assert line["loss"] == pytest.approx(reference["loss"], rel=1e-3)


@pytest.mark.usefixtures("one_rank")
def test_the_export_classifies_with_plain_timm_as_the_run_says(toy: Path) -> None:
    top1 = summary(toy, "world1")["top1"]["1.0"]
    assert top1_of_plain_timm(toy / "world1" / "model") == pytest.approx(top1)
    assert f"| 1.0 | {top1:.2%} |" in (toy / "world1" / "model" / "README.md").read_text()


def test_the_launcher_ends_with_code_2_and_one_error_line(toy: Path) -> None:
    done = deepspeed(2, "--module", "engine.train", *arguments(toy, "bad", "--set", "trane.duration=3epochs"))
    assert done.returncode == 2
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error: ")]
    assert errors == [f"error: {toy}/toy.yaml: unknown key 'trane'; did you mean 'train'?"]
