import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from launching import deepspeed, python_module
from PIL import Image

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.config import load_config
from engine.prepare import prepare
from engine.ranks.world import World
from engine.run.anchor import Held
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig, Stage
from tools.profile import bench
from tools.profile.__main__ import parse_arguments
from tools.profile.bench import plans_at
from tools.profile.measure import stages_to_profile
from tools.profile.output import command
from tools.profile.result import PARTS, LoaderParts, Profile, Rate, StageProfile, describe
from tools.schedule.preview import flops_per_image

HERE = World(0, 1, 0, 1, torch.device("cpu"), ("here",))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "shards").mkdir()
    return write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))


def steady(images_per_s: float) -> Rate:
    return Rate.of([images_per_s] * 3)  # type: ignore[return-value]


def stage(
    keep_rate: float, num_kept: int, share: float, loader: float | None, step: float | None, both: float | None
) -> StageProfile:
    loader_rate, step_rate, both_rate = (None if one is None else steady(one) for one in (loader, step, both))
    parts_ms = (None, None, None) if step is None else (1.0, 2.0, 0.5)
    rates = (loader_rate, step_rate, both_rate)
    loader_parts = None if loader is None else LoaderParts(1.0, -0.5, 5.0, 0.0, 0.5, 0.25)
    parts = (*parts_ms, None if step is None else 0.75, loader_parts)
    return StageProfile(keep_rate, num_kept, share, *rates, *parts, 0.0, 100.0, 1000 * num_kept, None)


def profile(*stages: StageProfile) -> Profile:
    return Profile("made up", 19, 2, list(stages), 1e6, 0)


def test_a_rate_is_the_median_of_its_repeats_with_their_extremes() -> None:
    assert Rate.of([30.0, 10.0, 20.0]) == Rate(20.0, 10.0, 30.0)
    assert Rate.of([30.0, 10.0, 20.0]).spread == 20.0  # type: ignore[union-attr]
    assert Rate.of([]) is None


def test_the_slower_side_limits() -> None:
    assert stage(0.5, 9, 1, 100, 200, 90).limited_by == "loader"
    assert stage(0.5, 9, 1, 200, 100, 90).limited_by == "step"
    assert stage(0.5, 9, 1, None, 100, None).limited_by is None
    assert stage(0.5, 9, 1, 100, None, None).limited_by is None


def test_the_time_ratio_weighs_each_stages_time_per_image() -> None:
    shown = profile(stage(0.5, 9, 0.75, 999, 200, 200), stage(1.0, 19, 0.25, 999, 100, 100))
    # Of 100 images at full patches, 1 s: 75 take 1/200 s and 25 take 1/100 s each.
    assert shown.schedule_time_ratio == pytest.approx(75 / 200 + 25 / 100)
    assert shown.token_ratio == pytest.approx(0.75 * 10 / 20 + 0.25)
    assert shown.share_of_ideal == pytest.approx(1.0)


def test_full_patches_are_compared_with_even_where_the_schedule_has_none() -> None:
    shown = profile(stage(0.5, 9, 1.0, 999, 200, 160), stage(1.0, 19, 0.0, 999, 100, 100))
    assert shown.schedule_time_ratio == pytest.approx(100 / 160)
    assert shown.share_of_ideal == pytest.approx(0.8)  # 1.6 times the speed, where it would ideally be 2 times
    assert shown.token_ratio == pytest.approx(0.5)


def test_there_is_no_time_ratio_without_both_sides_or_without_full_patches() -> None:
    assert profile(stage(1.0, 19, 1.0, None, 100, None)).schedule_time_ratio is None
    assert profile(stage(1.0, 19, 1.0, None, 100, None)).share_of_ideal is None
    assert profile(stage(0.5, 9, 1.0, 300, 200, 200)).schedule_time_ratio is None


def test_the_share_of_the_matrix_product_counts_operations_of_the_step_alone() -> None:
    shown = profile(stage(1.0, 19, 1.0, 5, 10, 5))
    assert shown.matmul_share(shown.stages[0]) == pytest.approx(19_000 * 10 / 1e6)


def test_the_table_names_the_limiting_side_and_what_pays() -> None:
    table = describe(profile(stage(0.5, 9, 0.5, 100, 200, 100), stage(1.0, 19, 0.5, 100, 90, 90)))
    rows = [line for line in table.splitlines() if line.strip().startswith(("0.5", "1 ")) and " | " not in line]
    assert ["loader" in row for row in rows] == [True, False]
    assert "step" in rows[1]
    assert "tokens are 75.0% of those at full patches; its time would be 95.0%: 79% of the ideal speed" in table
    assert "its time lies between 95.0% and 95.0% (95 % interval of 3 repeats)" in table
    assert "pays down to keep rate 0.5" in table
    assert "cannot tell" not in table
    assert "-" in describe(profile(stage(0.5, 9, 1, 100, None, None)))


def test_rows_of_several_sizes_say_them_and_what_pays_is_told_of_the_full_images() -> None:
    small = replace(stage(1.0, 9, 0.5, 100, 200, 200), image_size=12, patch_size=4)
    full = replace(stage(1.0, 19, 0.5, 100, 90, 90), image_size=16, patch_size=4)
    table = describe(profile(small, full))
    rows = [line for line in table.splitlines() if line.strip().startswith("1 ")]
    assert [row.endswith(("   12 / 4", "   16 / 4")) for row in rows] == [True] * 4
    assert "pixels: sides of the image and of a patch" in table
    assert "cannot tell" not in table
    assert "pays down to keep rate 1 of those measured\n" in table
    assert "pixels" not in describe(profile(full))


def test_repeats_that_spread_too_far_give_no_verdict() -> None:
    noisy = replace(stage(0.5, 9, 0.5, None, None, 100), end_to_end=Rate.of([60.0, 100.0, 170.0, 95.0, 110.0]))
    full = replace(stage(1.0, 19, 0.5, None, None, 90), end_to_end=Rate.of([90.0, 91.0, 89.0, 90.0, 92.0]))
    shown = profile(noisy, full)
    table = describe(shown)
    assert "pays down to" not in table
    assert "cannot tell with this spread whether keep rate 0.5 is faster than 1: 5 repeats put the ratio at 0." in table
    assert "cannot tell with this spread whether its time is another than full patches': 5 repeats put" in table
    assert "run with --repeats" in table
    told = shown.as_json()
    assert (told["pays_down_to"], told["pays_undecided"]) == (1.0, [0.5])
    low, high = told["schedule_time_ratio_interval"]
    assert low < 1 < high


def test_one_repeat_is_too_few_for_a_verdict() -> None:
    one, full = stage(0.5, 9, 0.5, 100, 200, 200), stage(1.0, 19, 0.5, 100, 90, 90)
    single = {side: Rate.of([100.0]) for side in ("loader", "step", "end_to_end")}
    table = describe(profile(replace(one, **single), replace(full, **single)))
    assert "whether keep rate 0.5 is faster than 1: 1 repeat(s) are too few; run with --repeats 5" in table
    assert "step?" in table
    assert "?: with this spread the repeats cannot tell which side is the slower one" in table


def test_the_table_splits_the_loader_and_the_step() -> None:
    def parts(*sides: float | None) -> str:
        (row,) = [line for line in describe(profile(stage(0.5, 9, 1, *sides))).splitlines() if " | " in line][1:]
        return row

    loader, step = ["1.0", "-0.5", "5.0", "0.0", "0.5", "0.2"], ["1.0", "2.0", "0.5", "0.8"]
    assert parts(100, 200, 100).split() == ["0.5", *loader, "|", *step]
    assert parts(None, 200, None).split() == ["0.5", *"------", "|", *step]
    assert parts(100, None, None).split() == ["0.5", *loader, "|", *"----"]


def test_the_table_and_the_json_tell_what_is_read_of_the_shards() -> None:
    told = replace(stage(0.5, 9, 1, 100, None, None), bytes_read_per_image=12345.6, pages_read_per_image=4.25)
    (row,) = [
        line for line in describe(profile(told)).splitlines() if line.strip().startswith("0.5") and " | " not in line
    ]
    assert row.split()[-6:-4] == ["12,346", "4.2"]
    (one,) = profile(told).as_json()["stages"]
    assert (one["bytes_read_per_image"], one["pages_read_per_image"]) == (12345.6, 4.25)
    (none,) = profile(stage(0.5, 9, 1, None, 100, None)).as_json()["stages"]
    assert (none["bytes_read_per_image"], none["pages_read_per_image"]) == (None, None)


def test_the_help_tells_the_parts_of_the_loader(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name, what in PARTS.items():
        assert f" {name} {what}" in told


def test_the_table_and_the_json_tell_the_loaders_processor_time() -> None:
    told = replace(
        stage(0.5, 9, 1, 100, None, None), loader_thread_us_per_image=21.44, behind_decode_cpu_ms_per_image=0.256
    )
    (row,) = [
        line for line in describe(profile(told)).splitlines() if line.strip().startswith("0.5") and " | " not in line
    ]
    assert row.split()[-2:] == ["21.4", "0.26"]
    (one,) = profile(told).as_json()["stages"]
    assert (one["loader_thread_us_per_image"], one["behind_decode_cpu_ms_per_image"]) == (21.44, 0.256)
    (none,) = profile(stage(0.5, 9, 1, None, 100, None)).as_json()["stages"]
    assert (none["loader_thread_us_per_image"], none["behind_decode_cpu_ms_per_image"]) == (None, None)


def test_full_patches_are_profiled_once_and_only_where_they_may_be() -> None:
    def kept(rate: float, full_patches: bool) -> list[tuple[int, float]]:
        schedule = PatchSchedule(ScheduleConfig(kind="constant", keep_rate=rate), 19, 10, 5, 4)
        return [(one.num_kept, share) for one, share in stages_to_profile(schedule, full_patches=full_patches)]

    assert kept(0.5, True) == [(9, 1.0), (19, 0.0)]
    assert kept(0.5, False) == [(9, 1.0)]
    assert kept(1.0, True) == [(19, 1.0)]


def test_plans_are_the_runs_own_but_for_the_stage_and_never_end(config: Path) -> None:
    planner = prepare(load_config(config), HERE).planner
    plans = plans_at(planner, Stage(0.6, 9), 22, 8, HERE)
    for step in (22, 23, 0, 1):
        own = planner.plan(step)
        for first_row in (0, 8):
            plan = next(plans)
            assert (plan.step, plan.first_row, plan.stage) == (step, first_row, Stage(0.6, 9))
            np.testing.assert_array_equal(plan.sample_ids, own.sample_ids[first_row : first_row + 8])


def test_plans_of_epochs_that_leave_examples_out_need_no_run_to_know_which(config: Path) -> None:
    sets = ["schedule.examples={rule: loss, keep: 0.5}", "train.duration=4epochs"]
    planner = prepare(load_config(config, sets), HERE).planner
    first = planner.schedule.epochs.short_steps - 1
    plans = plans_at(planner, Stage(0.6, 9), first, 16, HERE)
    shown = [next(plans) for _ in range(planner.schedule.epochs.short_steps + 1)]
    assert [plan.step for plan in shown] == list(range(first, first + len(shown)))
    assert planner.needs_scores(shown[1].step)
    seen = [sample for plan in shown[1:] for sample in plan.sample_ids.tolist()]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--seconds", "0"], "--seconds is above 0"),
        (["--seconds", "nan"], "--seconds is above 0"),
        (["--repeats", "0"], "--repeats is at least 1"),
        (["--loader-only", "--step-only"], "not allowed with"),
        (["--png", "picture.svg"], "writes a .png file"),
        (["--json", "nowhere/profile.json"], "--json: the folder nowhere does not exist"),
        (["--trace", "nowhere/trace.json"], "--trace: the folder nowhere does not exist"),
        (["--trace", "trace.json", "--loader-only"], "--trace shows training steps"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_arguments(["--config", "run.yaml", *arguments])


def test_the_command_of_a_result_starts_the_same_ranks() -> None:
    assert command(["--config", "a b.yaml"], HERE) == "python -m tools.profile --config 'a b.yaml'"
    two = World(0, 2, 0, 2, torch.device("cpu"), ("here", "here"))
    assert command(["--config", "c"], two) == (
        "deepspeed --no_local_rank --num_accelerators 2 --module tools.profile --config c"
    )


def test_a_step_on_the_bench_pulls_weights_to_their_anchor_before_their_update(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("build_engine", "set_learning_rate", "training_loss", "begin_pass", "backward_pass"):
        monkeypatch.setattr(bench, name, MagicMock())
    monkeypatch.setattr(bench, "dist", MagicMock())
    monkeypatch.setattr(bench, "update_weights", lambda *_, measure: done.append("update"))
    pulls = SimpleNamespace(pull=lambda *, measure: done.append("pull"))
    monkeypatch.setattr(bench, "Anchor", lambda engine, held, stage: pulls)
    prepared = prepare(load_config(config), HERE)
    batch = MagicMock(plan=SimpleNamespace(stage=prepared.plan.schedule.stage(0)))
    bench.Bench(prepared, HERE, trains=True).time_steps(batch, 1)
    assert done == ["update"]
    held = Held({}, {}, (), "")
    bench.Bench(replace(prepared, anchored_to=held), HERE, trains=True).time_steps(batch, 2)
    assert done[1:] == ["pull", "update"] * 2


def profiled(config: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A process of its own, as a user starts it: one that has met other ranks cannot do so again."""
    return python_module("tools.profile", "--config", config, *arguments, timeout_s=300)


def test_a_profile_of_the_toy_run_is_consistent(config: Path, tmp_path: Path) -> None:
    arguments = ("--seconds", "0.001", "--repeats", "2", "--json", tmp_path / "p.json", "--png", tmp_path / "p.png")
    arguments += ("--trace", tmp_path / "trace.json")
    # The paper's rule and small micro batches, so that a snapshot and accumulation take part.
    overrides = (
        "--set",
        "selection.rule=magnitude",
        "--set",
        "train.micro_batch_size=8",
        "--set",
        "train.ema_decay=0.9",
        "--set",
        "data.augment.color_jitter=0.1",
    )
    done = profiled(config, *overrides, *arguments)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((tmp_path / "p.json").read_text())
    stages, lengths = result["stages"], prepare(load_config(config), HERE).train_index.length
    assert (result["world_size"], result["num_patches"]) == (1, 16)
    assert result["hardware"]["cores"] >= 1
    assert result["command"].startswith("python -m tools.profile --config")
    assert [one["num_kept"] for one in stages] == [2, 6, 9, 13, 16]
    assert sum(one["share"] for one in stages) == pytest.approx(1)
    # Patches of 4 x 4 x 3 bytes with an int32 each, and an int64 label.
    assert [one["bytes_per_image"] for one in stages] == [52 * one["num_kept"] + 8 for one in stages]
    assert [one["flops_per_image"] for one in stages] == flops_per_image(load_config(config), [2, 6, 9, 13, 16])
    for one in stages:
        for side in ("loader", "step", "end_to_end"):
            low, high = one[f"{side}_images_per_s_range"]
            assert 0 < low <= one[f"{side}_images_per_s"] <= high
        slower = min(("loader", "step"), key=lambda side: one[f"{side}_images_per_s"])
        assert one["limited_by"] == slower
        assert min(one[part] for part in ("forward_ms", "backward_ms", "optimizer_ms", "matmul_share")) > 0
        assert 0 <= one["loader_wait_share"] <= 1
        # On a CPU the two clocks are one, and taking a batch is a little more than waiting for it.
        assert one["loader_wait_share"] <= one["device_idle_share"] <= 1
        assert one["communication_ms"] == 0  # there is nobody to exchange anything with
        parts = [one[f"{part}_ms"] for part in PARTS]
        assert sum(parts) == pytest.approx(1000 * 16 / one["loader_images_per_s"])
        assert parts[:4] == [stages[0][f"{part}_ms"] for part in ("read", "splice", "decode", "augment")]
        assert parts[0] > 0
        assert parts[1] == 0  # there are no addressable JPEGs among the toy's images
        assert lengths.min() <= one["bytes_read_per_image"] <= lengths.max()
        assert 1 <= one["pages_read_per_image"] <= 2
        assert one["loader_thread_us_per_image"] > 0
        assert isinstance(one["behind_decode_cpu_ms_per_image"], float)
    full = stages[-1]["end_to_end_images_per_s"]
    times = [one["share"] * full / one["end_to_end_images_per_s"] for one in stages]
    assert result["schedule_time_ratio"] == pytest.approx(sum(times))
    assert result["token_ratio"] == pytest.approx(sum(one["share"] * (one["num_kept"] + 1) / 17 for one in stages))
    assert result["pays_down_to"] in [one["keep_rate"] for one in stages]
    assert "limited by" in done.stdout
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 500
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    threads = {event["name"]: event["tid"] for event in events if event.get("ph") == "X"}
    assert {f"keep rate {one['keep_rate']:g}" for one in stages} <= threads.keys()
    assert {"loader", "forward", "backward", "optimizer", "loader: graph", "loader: copy"} <= threads.keys()
    assert threads["loader: graph"] != threads["forward"]


def test_ranks_see_the_time_of_their_exchange_within_the_step(config: Path, tmp_path: Path) -> None:
    arguments = ("--seconds", "0.001", "--repeats", "2", "--step-only", "--trace", tmp_path / "trace.json")
    settings = ("--set", "schedule.kind=constant", "--set", "schedule.keep_rate=1", "--json", tmp_path / "p.json")
    zero = ("--set", "engine.zero_stage=2")
    done = deepspeed(2, "--module", "tools.profile", "--config", config, *arguments, *settings, *zero)
    assert done.returncode == 0, done.stdout + done.stderr
    (one,) = json.loads((tmp_path / "p.json").read_text())["stages"]
    assert one["communication_ms"] > 0
    assert one["read_ms"] is one["splice_ms"] is one["bytes_read_per_image"] is None
    assert one["loader_thread_us_per_image"] is None
    names = {event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert any(name.startswith("gloo:") for name in names)


def test_a_wrong_configuration_ends_in_one_line(config: Path) -> None:
    done = profiled(config, "--set", "train.global_batch_size=1000")
    assert done.returncode == 2
    assert done.stdout.count("error") == 0
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("error: global_batch_size 1000 does not fit 200 training samples")
    assert "Traceback" not in done.stderr
