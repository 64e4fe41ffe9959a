"""Whole runs that are interrupted, damaged and taken up again, on the same and on other numbers of ranks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import run_jobs
from run_results import lines, summary

from benchmarks.shared.everything import ALL_AXES_STEPS, CHANGE_OF_SIZE, all_axes
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
AXES_COURSE = ((2, CHANGE_OF_SIZE), (1, 21), (4, ALL_AXES_STEPS))
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


def axes(toy: Path, out: str, *more: str, stage: int = 1) -> dict[str, Any]:
    """The job of a run with schedules of everything at once, which notes what it saw."""
    flags = [*all_axes(toy / "shards"), "--set", f"engine.zero_stage={stage}", *more]
    return {"argv": arguments(toy, out, *flags), "seen": str(toy / f"{out}.seen")}


def axes_jobs(toy: Path, leg: int) -> list[dict[str, Any]]:
    """A run that stays on the ranks of a later leg, and one that comes to them from the run that was broken off."""
    ranks, stop = AXES_COURSE[leg]
    broken_off = toy / "axes broken" / "checkpoints" / f"step-{CHANGE_OF_SIZE:08d}"
    start = ("--resume", str(broken_off)) if leg == 1 else ()
    return [axes(toy, f"axes on {ranks}"), axes(toy, "axes elastic", *start, "--max-steps", str(stop))]


@pytest.fixture(scope="module")
def two_ranks(toy: Path) -> tuple[dict[str, int], str]:
    """Everything on two ranks but the last leg of the elastic courses: exit codes by name, and all that was printed."""
    checkpoints = {name: toy / name / "checkpoints" for name in ("damaged", "changed", "full")}
    often = ("--set", "checkpoint.every=4steps", "--set", "checkpoint.keep_last=2")
    jobs: dict[str, Any] = {"fixed1": arguments(toy, "fixed1")}
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
    jobs["axes"] = axes(toy, "axes")
    jobs["axes broken off"] = axes(toy, "axes broken", "--max-steps", str(CHANGE_OF_SIZE))
    jobs["axes broken"] = axes(toy, "axes broken")
    jobs["axes zero 0"] = axes(toy, "axes zero 0", stage=0)
    # ZeRO-3 comes last: it leaves another ``torch.nn.functional.linear`` in the process, which rounds differently.
    jobs |= elastic_jobs(toy, 0)
    jobs["fixed3"] = arguments(toy, "fixed3", stage=3)
    jobs["axes zero 3"] = axes(toy, "axes zero 3", "--set", "train.ema_decay=null", stage=3)
    codes, printed = run_jobs(2, list(jobs.values()), toy / "two_ranks")
    return dict(zip(jobs, codes, strict=True)), printed


@pytest.fixture(scope="module")
def elastic(toy: Path, two_ranks: tuple[dict[str, int], str]) -> str:
    """The elastic courses run to their end; what was printed."""
    printed = two_ranks[1]
    for leg, (ranks, _) in enumerate(SEVERAL_CHANGES[1:], start=1):
        jobs: list[Any] = list(elastic_jobs(toy, leg).values())
        jobs += axes_jobs(toy, leg) if leg < len(AXES_COURSE) else []
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


def seen(toy: Path, out: str) -> list[list[int]]:
    """Step, row of the global batch and sample id, of all ranks and all starts of the run."""
    return sorted(json.loads(line) for file in toy.glob(f"{out}.seen.*") for line in file.read_text().splitlines())


def test_a_run_on_all_axes_that_stops_in_mid_epoch_where_the_size_changes_ends_with_the_same_weights(
    toy: Path, two_ranks: tuple[dict[str, int], str]
) -> None:
    assert {code for name, code in two_ranks[0].items() if name.startswith("axes")} == {0}
    assert losses(toy, "axes broken", ALL_AXES_STEPS) == losses(toy, "axes", ALL_AXES_STEPS)
    for digest in ("weights_digest", "ema_digest"):
        assert summary(toy, "axes broken")[digest] == summary(toy, "axes")[digest]
    assert seen(toy, "axes broken") == seen(toy, "axes")


def test_all_axes_are_on_their_way_where_it_stops(toy: Path, two_ranks: tuple[dict[str, int], str]) -> None:
    train = lines(toy, "axes", "train")
    before, after = train[CHANGE_OF_SIZE - 1 : CHANGE_OF_SIZE + 1]
    assert before["epoch"] == after["epoch"] == 2
    assert (before["image_size"], after["image_size"]) == (12, 16)
    for epoch, num_steps, num_samples in ((0, 6, 96), (2, 6, 96), (3, 12, 192)):
        of_epoch = {line["step"] for line in train if line["epoch"] == epoch}
        assert len(of_epoch) == num_steps
        assert len({one for step, _, one in seen(toy, "axes") if step in of_epoch}) == num_samples
    whole = [(line["image_size"], line["patch_size"], line["num_kept"]) for line in train[-6:]]
    assert whole == [(16, 4, 16)] * 6, "the cooldown"
    assert {line["patch_size"] for line in train[:-6]} == {2, 4}
    for line in train:
        rows = [size for size in (2, 4, 8) if size * (line["num_kept"] + 1) <= 70]
        assert line["micro_batch_size"] == max(rows, default=2)


@pytest.mark.parametrize("out", ["axes zero 0", "axes zero 3", "axes on 1", "axes on 4"])
def test_a_run_on_all_axes_sees_the_same_and_has_the_same_losses_on_other_ranks_and_zero_stages(
    toy: Path, elastic: str, out: str
) -> None:
    assert seen(toy, out) == seen(toy, "axes")
    expected = losses(toy, "axes", ALL_AXES_STEPS)
    np.testing.assert_allclose(losses(toy, out, ALL_AXES_STEPS), expected, rtol=1e-4)


def test_a_run_on_all_axes_goes_on_from_two_ranks_to_one_and_to_four(toy: Path, elastic: str) -> None:
    whole = seen(toy, "axes")
    assert seen(toy, "axes elastic") == [one for one in whole if one[0] >= CHANGE_OF_SIZE]
    found = {line["step"]: line["loss"] for line in lines(toy, "axes elastic", "train")}
    assert list(found) == list(range(CHANGE_OF_SIZE, ALL_AXES_STEPS))
    expected = losses(toy, "axes", ALL_AXES_STEPS)[CHANGE_OF_SIZE:]
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-4)
    for step, ranks in ((CHANGE_OF_SIZE, 2), (21, 1)):
        assert f"step-{step:08d} at step {step}, written by {ranks} rank(s)" in elastic


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
