"""Whole runs that are interrupted, damaged and taken up again, on the same and on other numbers of ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
from launching import run_jobs
from run_results import lines, summary

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.checkpoints.manifest import MANIFEST, steps_in, verify_manifest
from engine.config import load_config
from engine.run_plan import plan_run
from pipeline.plan.step import TrainPlanner
from pipeline.shards.index import open_index

pytestmark = pytest.mark.timeout(900)  # four starts of up to four ranks, on a machine that may be busy

STEPS = 24
# Ranks that train up to a step, one after the other; ZeRO 0 and 2 change once.
SEVERAL_CHANGES = ((2, 6), (1, 12), (4, 18), (2, STEPS))
ONE_CHANGE = ((2, 6), (1, STEPS))
# Three epochs of 6 steps, which see half of the examples, and one of 12; step 15 is in mid epoch.
EXAMPLES = ("--set", "schedule.examples={rule: loss, keep: 0.5}", "--set", "train.duration=4epochs")
EXAMPLES_STEPS, EXAMPLES_BREAK = 30, 15
COURSES = {0: ONE_CHANGE, 1: SEVERAL_CHANGES, 2: ONE_CHANGE, 3: SEVERAL_CHANGES}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "shards").mkdir()
    write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    return folder


def arguments(toy: Path, out: str, *more: str, stage: int = 1) -> list[str]:
    return ["--config", str(toy / "toy.yaml"), "--out", str(toy / out), "--set", f"engine.zero_stage={stage}", *more]


def losses(toy: Path, out: str, steps: int = STEPS) -> list[float]:
    train = lines(toy, out, "train")
    assert [line["step"] for line in train] == list(range(steps)), "each step once"
    return [line["loss"] for line in train]


def elastic_jobs(toy: Path, leg: int) -> dict[str, list[str]]:
    """The jobs of all courses that are on their leg of this number."""
    return {
        f"elastic{stage}, leg {leg}": arguments(toy, f"elastic{stage}", "--max-steps", str(course[leg][1]), stage=stage)
        for stage, course in COURSES.items()
        if leg < len(course)
    }


@pytest.fixture(scope="module")
def two_ranks(toy: Path) -> tuple[dict[str, int], str]:
    """Everything on two ranks but the last leg of the elastic courses: exit codes by name, and all that was printed."""
    checkpoints = {name: toy / name / "checkpoints" for name in ("damaged", "changed", "full")}
    often = ("--set", "checkpoint.every=4steps", "--set", "checkpoint.keep_last=2")
    jobs = {"fixed1": arguments(toy, "fixed1")}
    # Steps 8 (in mid epoch) and 12 (between two epochs) are what is left to go on from.
    jobs["to step 12"] = arguments(toy, "damaged", *often, "--max-steps", "12")
    damaged = checkpoints["damaged"] / "step-00000012" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    jobs["damage 12"] = ["flip-a-byte", str(damaged)]
    jobs["from step 8"] = arguments(toy, "damaged", *often, "--max-steps", "16")
    jobs["interrupt the save of 16"] = ["remove", str(checkpoints["damaged"] / "step-00000016" / MANIFEST)]
    jobs["from step 12"] = arguments(toy, "damaged", *often)
    jobs["a finished run again"] = arguments(toy, "damaged", *often)
    jobs["unchanged"] = arguments(toy, "changed", "--max-steps", "2")
    changes = ("--set", "seed=5", "--set", "optim.weight_decay=0.2", "--max-steps", "4")
    jobs["changed"] = arguments(toy, "changed", *changes)
    allowed = ("--allow-change", "seed", "--allow-change", "optim.weight_decay")
    jobs["changed, one allowed"] = arguments(toy, "changed", *changes, *allowed[:2])
    jobs["no such key"] = arguments(toy, "changed", "--allow-change", "optim.weightdecay")
    jobs["changed, both allowed"] = arguments(toy, "changed", *changes, *allowed)
    jobs["room"] = arguments(toy, "full", "--max-steps", "5")
    jobs["fill the disk of rank 1"] = ["limit-files", "20000", "1"]
    jobs["no room"] = arguments(toy, "full", "--set", "checkpoint.every=7steps")
    jobs["make room"] = ["limit-files", "-1", "1"]
    jobs["room again"] = arguments(toy, "full")
    jobs["examples"] = arguments(toy, "examples", *EXAMPLES)
    for out in ("examples broken", "examples elastic"):
        jobs[f"{out} off"] = arguments(toy, out, *EXAMPLES, "--max-steps", str(EXAMPLES_BREAK))
    jobs["examples broken"] = arguments(toy, "examples broken", *EXAMPLES)
    # ZeRO-3 comes last: it leaves another ``torch.nn.functional.linear`` in the process, which rounds differently.
    jobs |= elastic_jobs(toy, 0)
    jobs["fixed3"] = arguments(toy, "fixed3", stage=3)
    codes, printed = run_jobs(2, list(jobs.values()), toy / "two_ranks")
    return dict(zip(jobs, codes, strict=True)), printed


@pytest.fixture(scope="module")
def elastic(toy: Path, two_ranks: tuple[dict[str, int], str]) -> str:
    """The elastic courses run to their end; what was printed."""
    printed = two_ranks[1]
    for leg, (ranks, _) in enumerate(SEVERAL_CHANGES[1:], start=1):
        jobs = list(elastic_jobs(toy, leg).values())
        if ranks == 1:
            jobs += [arguments(toy, out, *EXAMPLES) for out in ("examples elastic", "examples alone")]
        codes, said = run_jobs(ranks, jobs, toy / f"leg{leg}")
        assert set(codes) == {0}, said
        printed += said
    return printed


def test_a_damaged_and_an_interrupted_checkpoint_cost_steps_but_change_nothing(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    codes, printed = two_ranks
    assert [codes[name] for name in ("to step 12", "from step 8", "from step 12")] == [0, 0, 0]
    folder = toy / "damaged" / "checkpoints"
    assert f"passed over {folder}/step-00000012: the content of its file zero_pp_rank_1_mp_rank_00" in printed
    assert f"going on from {folder}/step-00000008 at step 8\n" in printed
    assert f"passed over {folder}/step-00000016: it has no manifest.json: the save was interrupted" in printed
    assert f"going on from {folder}/step-00000012 at step 12\n" in printed
    assert losses(toy, "damaged") == losses(toy, "fixed1")
    assert summary(toy, "damaged")["weights_digest"] == summary(toy, "fixed1")["weights_digest"]


def test_what_is_left_in_the_end_are_the_checkpoints_to_be_kept(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    folder = toy / "damaged" / "checkpoints"
    assert steps_in(folder) == [20, 24]
    for step in (20, 24):
        assert verify_manifest(folder / f"step-{step:08d}")["step"] == step
    assert json.loads((folder / "latest.json").read_text()) == {"tag": "step-00000024"}
    assert [path.name for path in (folder / "set-aside").iterdir()] == ["step-00000012"]


def test_each_checkpoint_is_in_the_metrics_once_with_what_it_cost(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    events = lines(toy, "damaged", "checkpoint")
    assert [event["step"] for event in events] == [4, 8, 12, 16, 20, 24][: len(events)]
    manifest = verify_manifest(toy / "damaged" / "checkpoints" / "step-00000024")
    assert events[-1]["num_bytes"] == sum(file["num_bytes"] for file in manifest["files"].values())
    assert all(0 < event["stall_s"] <= event["total_s"] for event in events)


def test_a_finished_run_started_again_keeps_its_results(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    assert two_ranks[0]["a finished run again"] == 0
    assert summary(toy, "damaged")["top1"] == summary(toy, "fixed1")["top1"]
    assert [line["step"] for line in lines(toy, "damaged", "eval")][-2:] == [24, 24]


def test_changes_are_refused_unless_they_are_allowed(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    codes, printed = two_ranks
    assert codes["changed"] == codes["changed, one allowed"] == codes["no such key"] == 2
    errors = [line for line in printed.splitlines() if line.startswith("error: the checkpoint")]
    assert "seed: 0 there, 5 here; optim.weight_decay: 0.05 there, 0.2 here" in errors[0]
    assert "seed" not in errors[1]
    assert "did you mean optim.weight_decay" in printed
    assert codes["changed, both allowed"] == 0
    assert "changed since the checkpoint, as allowed: seed: 0 there, 5 here" in printed
    saved = verify_manifest(toy / "changed" / "checkpoints" / "step-00000004")
    assert (saved["identity"]["seed"], saved["config"]["optim"]["weight_decay"]) == (5, 0.2)


def test_a_full_disk_on_another_rank_ends_the_run_in_one_line_and_costs_no_checkpoint(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    codes, printed = two_ranks
    assert codes["no room"] == 74
    errors = [line for line in printed.splitlines() if line.startswith("error: the checkpoint of step 7 could not")]
    assert len(errors) == 1
    assert "rank 1 (" in errors[0]
    assert "zero_pp_rank_1_mp_rank_00_optim_states.pt: File too large" in errors[0]
    assert codes["room again"] == 0
    assert f"going on from {toy}/full/checkpoints/step-00000005 at step 5" in printed
    assert losses(toy, "full") == losses(toy, "fixed1")
    assert summary(toy, "full")["weights_digest"] == summary(toy, "fixed1")["weights_digest"]


@pytest.mark.parametrize("stage", COURSES)
def test_a_run_on_changing_numbers_of_ranks_has_the_losses_of_one_that_stays(
    toy: Path, elastic: str, stage: int
) -> None:
    fixed = losses(toy, "fixed3" if stage == 3 else "fixed1")
    np.testing.assert_allclose(losses(toy, f"elastic{stage}"), fixed, rtol=1e-4)
    for (_, step), (ranks, _) in zip(COURSES[stage][:-1], COURSES[stage][1:], strict=True):
        checkpoint = toy / f"elastic{stage}" / "checkpoints" / f"step-{step:08d}"
        before = next(size for size, until in COURSES[stage] if until == step)
        assert before != ranks
        assert f"going on from {checkpoint} at step {step}, written by {before} rank(s)" in elastic


def test_a_run_that_leaves_examples_out_and_stops_in_mid_epoch_ends_with_the_same_weights(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    assert [code for name, code in two_ranks[0].items() if name.startswith("examples")] == [0, 0, 0, 0]
    assert losses(toy, "examples broken", EXAMPLES_STEPS) == losses(toy, "examples", EXAMPLES_STEPS)
    assert summary(toy, "examples broken")["weights_digest"] == summary(toy, "examples")["weights_digest"]
    epochs = [line["epoch"] for line in lines(toy, "examples", "train")]
    assert [epochs.count(epoch) for epoch in range(4)] == [6, 6, 6, 12]


@pytest.mark.parametrize("out", ["examples elastic", "examples alone"])
def test_a_run_that_leaves_examples_out_has_the_same_losses_on_another_number_of_ranks(
    toy: Path, elastic: str, out: str
) -> None:
    np.testing.assert_allclose(losses(toy, out, EXAMPLES_STEPS), losses(toy, "examples", EXAMPLES_STEPS), rtol=1e-4)


@pytest.mark.parametrize("stage", COURSES)
def test_no_conversion_is_left_behind(toy: Path, elastic: str, stage: int) -> None:
    names = {path.name for path in (toy / f"elastic{stage}" / "checkpoints").iterdir()}
    assert not [name for name in names if "universal" in name]


@pytest.mark.parametrize("course", [SEVERAL_CHANGES, ONE_CHANGE])
def test_the_samples_of_each_step_are_those_of_a_run_that_stays(toy: Path, course: tuple[tuple[int, int], ...]) -> None:
    config, index = load_config(toy / "toy.yaml"), open_index(toy / "shards", "train")
    schedule = plan_run(config, index.num_samples, 1).schedule
    planner = TrainPlanner(index, config.data, config.selection, schedule, config.train.global_batch_size, config.seed)

    def sample_ids(step: int, ranks: int) -> list[int]:
        return [int(i) for rank in range(ranks) for i in planner.plan(step, rank, ranks).sample_ids]

    for step in range(STEPS):
        ranks = next(size for size, until in course if step < until)
        assert sample_ids(step, ranks) == sample_ids(step, 2)
