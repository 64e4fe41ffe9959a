import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from saved_profiles import write_profile

from engine.config import load_config
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from tools.schedule.__main__ import main

BASE: dict[str, Any] = {
    "data": {"train": "nowhere", "val": "nowhere", "num_train_samples": 90_000, "num_classes": 10},
    "schedule": {"kind": "cyclic", "keep_rate": [0.2, 1.0]},
    "model": {"name": "vit_tiny_patch16_224"},
    "train": {"duration": "3epochs", "global_batch_size": 100},
    "optim": {"lr": 1e-3},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "preview.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


def previewed(config: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    arguments = [part for override in overrides for part in ("--set", override)]
    assert main(["--config", str(config), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(("image_size", "kept"), [(224, [38, 78, 117, 157, 196]), (384, [114, 230, 345, 461, 576])])
@pytest.mark.parametrize("kind", ["cyclic", "linear"])
def test_the_papers_stages_are_previewed_without_data(
    config: Path, capsys: pytest.CaptureFixture[str], kind: str, image_size: int, kept: list[int]
) -> None:
    shown = previewed(config, capsys, f"schedule.kind={kind}", f"data.image_size={image_size}")
    assert [stage["num_kept"] for stage in shown["stages"]] == kept
    assert [stage["keep_rate"] for stage in shown["stages"]] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert [stage["share"] for stage in shown["stages"]] == pytest.approx([0.111, 0.222, 0.222, 0.222, 0.222], abs=2e-3)
    assert shown["num_patches"] == kept[-1]


def test_examples_that_are_left_out_make_epochs_shorter(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    override = "schedule.examples={rule: loss, keep: 0.7}"
    shown = previewed(config, capsys, "train.duration=8epochs", override)
    assert shown["total_steps"] == 7 * 630 + 900
    assert shown["examples"] == {
        "rule": "loss",
        "keep": 0.7,
        "num_short_epochs": 7,
        "short_epoch_steps": 630,
        "full_epoch_steps": 900,
        "share_of_full_epochs": pytest.approx(5310 / 7200),
    }
    assert main(["--config", str(config), "--set", "train.duration=8epochs", "--set", override]) == 0
    assert capsys.readouterr().out.endswith(
        "examples by loss: the first 7 epochs see 70.0% of them, in 630 steps each, then all, in 900; 73.8% of the "
        "steps of as many full epochs\n"
    )


def test_the_json_holds_the_schedule_and_nothing_else(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = previewed(config, capsys)
    assert set(shown) == {"total_steps", "num_patches", "mean_keep_rate", "stages", "relative_training_flops"}
    made = PatchSchedule(ScheduleConfig(kind="cyclic", keep_rate=[0.2, 1.0]), 196, 2700, 900, 100, 0, 224, 16)
    assert (shown["total_steps"], shown["num_patches"]) == (2700, 196)
    assert shown["mean_keep_rate"] == pytest.approx(made.mean_keep_rate)
    keys = {"keep_rate", "num_kept", "share", "num_steps", "first_step", "last_step", "image_size", "patch_size"}
    for stage, expected in zip(shown["stages"], made.stages(), strict=True):
        assert set(stage) == keys
        assert stage == {key: getattr(expected, key) for key in keys}


def test_full_patches_cost_what_full_patches_cost(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = previewed(config, capsys, "schedule.kind=constant", "schedule.keep_rate=1.0")
    assert shown["relative_training_flops"] == 1.0
    assert [stage["num_steps"] for stage in shown["stages"]] == [2700]


def test_flops_of_a_run_are_the_mean_of_its_stages(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def relative(keep_rate: float) -> float:
        overrides = ("schedule.kind=constant", f"schedule.keep_rate={keep_rate}")
        return previewed(config, capsys, *overrides)["relative_training_flops"]

    # Attention grows with the square of the tokens, so a fifth of the patches costs less than a fifth.
    assert 0.15 < relative(0.2) < 0.2
    halves = previewed(config, capsys, "schedule.kind=steps", "schedule.keep_rate=[[0, 0.2], [0.5, 0.6]]")
    assert halves["relative_training_flops"] == pytest.approx((relative(0.2) + relative(0.6)) / 2)


def test_sizes_with_a_schedule_stand_in_each_stage_and_in_the_table(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("schedule.kind=constant", "schedule.keep_rate=1.0")
    sizes += ("schedule.image_size={kind: steps, values: [[0, 112], [0.5, 224]]}",)
    shown = previewed(config, capsys, *sizes)
    assert [(stage["num_kept"], stage["image_size"], stage["patch_size"]) for stage in shown["stages"]] == [
        (49, 112, 16),
        (196, 224, 16),
    ]
    quarter = previewed(config, capsys, "schedule.kind=constant", "schedule.keep_rate=0.2525")  # 49 of 196
    assert [stage["num_kept"] for stage in quarter["stages"]] == [49]
    assert shown["relative_training_flops"] == pytest.approx((1 + quarter["relative_training_flops"]) / 2)
    assert main(["--config", str(config), *(part for one in sizes for part in ("--set", one))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "constant, image_size steps (112 to 224 pixels); 196 patches" in lines[0]
    assert [line.split()[:4] for line in lines[3:5]] == [["1", "49", "112", "16"], ["1", "196", "224", "16"]]
    assert lines[-1].endswith("of those at full patches of 224 pixels")


def test_larger_patches_count_with_the_values_they_have(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patches = "schedule.patch_size={kind: constant, values: 32}"
    coarse = previewed(config, capsys, "schedule.kind=constant", "schedule.keep_rate=1.0", patches)
    small = previewed(
        config,
        capsys,
        "schedule.kind=constant",
        "schedule.keep_rate=1.0",
        "schedule.image_size={kind: constant, values: 112}",
    )
    assert coarse["stages"][0]["num_kept"] == small["stages"][0]["num_kept"] == 49
    assert coarse["relative_training_flops"] > small["relative_training_flops"]


def test_strengths_are_shown_and_part_no_stages(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = previewed(config, capsys)
    overrides = (
        "data.augment.auto={kind: randaugment, magnitude: {kind: linear, values: [0, 9]}}",
        "data.augment.mixup={kind: steps, values: [[0, 0], [0.5, 0.8]]}",
    )
    shown = previewed(config, capsys, *overrides)
    assert shown["stages"] == plain["stages"]
    assert "strengths" not in plain
    magnitude = shown["strengths"]["magnitude"]
    assert (magnitude["kind"], magnitude["values"], magnitude["rounding"]) == ("linear", [0, 9], None)
    ends = [magnitude[name] for name in ("first", "last", "mean")]
    assert ends == pytest.approx([9 * 0.5 / 2700, 9 - 9 * 0.5 / 2700, 4.5])
    assert shown["strengths"]["mixup"]["mean"] == pytest.approx(0.4)
    assert main(["--config", str(config), *(part for one in overrides for part in ("--set", one))]) == 0
    told = capsys.readouterr().out
    assert "magnitude linear: 0.001667 at the first step, 8.998 at the last, mean 4.5" in told


def test_the_table_shows_every_stage(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cyclic (0.2 to 1); 196 patches, 2,700 steps of 100 images, 900 steps an epoch" in lines[0]
    assert lines[2].split() == ["keep", "rate", "num_kept", "share", "steps", "first", "step", "last", "step", "FLOPs"]
    assert [line.split()[:2] for line in lines[3:8]] == [
        ["0.2", "38"],
        ["0.4", "78"],
        ["0.6", "117"],
        ["0.8", "157"],
        ["1", "196"],
    ]
    assert lines[-1].startswith("mean keep rate 0.64")


def test_a_schedule_of_many_stages_is_cut_in_the_table_but_not_in_the_json(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), "--set", "schedule.rounding=null"]) == 0
    assert " more stages (all of them with --json)" in capsys.readouterr().out
    assert len(previewed(config, capsys, "schedule.rounding=null")["stages"]) > 100


@pytest.mark.parametrize(
    "overrides",
    [
        ["schedule.cooldown=1epochs"],
        ["schedule.rounding=null"],
        ["schedule.kind=choice", "schedule.keep_rate=[[0.2, 1], [1.0, 2]]"],
        ["schedule.kind=constant", "schedule.keep_rate=0.5", "train.duration=1steps"],
        [
            "schedule.image_size={kind: linear, values: [112, 224]}",
            "schedule.patch_size={kind: choice, values: [[8, 1], [16, 1]]}",
            "data.augment.mixup={kind: choice, values: [[0, 1], [0.8, 1]]}",
            "data.augment.cutmix={kind: constant, values: 0}",
        ],
    ],
)
def test_every_kind_of_schedule_is_drawn(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str]
) -> None:
    arguments = [part for override in overrides for part in ("--set", override)]
    assert main(["--config", str(config), "--png", str(tmp_path / "schedule.png"), *arguments]) == 0
    with Image.open(tmp_path / "schedule.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 400
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10, "something is drawn"


def test_without_a_stated_number_of_samples_the_training_set_is_counted(
    config: Path, photo_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = previewed(
        config,
        capsys,
        "data.num_train_samples=null",
        f"data.train={photo_shards}",
        "train.global_batch_size=4",
        "train.duration=5epochs",
    )
    assert shown["total_steps"] == 5 * 32 // 4


def test_a_training_set_that_is_needed_and_not_there_is_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "shards"
    arguments = ["--config", str(config), "--set", "data.num_train_samples=null", "--set", f"data.train={missing}"]
    assert f"shard folder {missing} does not exist" in error_of(arguments, capsys)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("schedule.keep_rate=[0.0, 1.0]", "a keep rate lies in (0, 1], got 0"),
        ("schedule.kinds=linear", "unknown key 'schedule.kinds'; did you mean 'kind'?"),
        ("data.patch_size=15", "patch_size 15 does not divide image_size 224"),
        ("train.global_batch_size=90001", "global_batch_size 90001 does not fit 90000 training samples"),
        ("train.duration=0steps", "a run has at least one step, got 0"),
        ("schedule.cooldown=4epochs", "the cooldown of 4epochs is longer than the run of 2700 steps"),
        ("model.name=vit_tinny_patch16_224", "timm has no model 'vit_tinny_patch16_224'"),
        ("data.patch_size=112", "keep rate 0.2 keeps none of 4 patches"),
    ],
)
def test_a_faulty_configuration_is_one_line_and_exit_code_2(
    config: Path, capsys: pytest.CaptureFixture[str], override: str, part: str
) -> None:
    assert part in error_of(["--config", str(config), "--set", override], capsys)


def test_a_faulty_command_line_is_one_line_and_exit_code_2(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--config" in error_of([], capsys)
    assert "--rounding" in error_of(["--config", str(config), "--rounding", "0.1"], capsys)
    assert "argument --png: this writes a .png file, got a.pdf" in error_of(
        ["--config", str(config), "--png", "a.pdf"], capsys
    )
    folder = tmp_path / "none"
    assert f"the folder {folder} does not exist" in error_of(
        ["--config", str(config), "--png", str(folder / "a.png")], capsys
    )
    assert "cannot read the configuration" in error_of(["--config", str(tmp_path / "no.yaml")], capsys)


@pytest.fixture
def profile(config: Path, tmp_path: Path) -> Path:
    measured = load_config(config)
    return write_profile(tmp_path / "profile.json", measured, (38, 117, 196), step_s=lambda kept: 1e-3 * (kept + 1))


def test_a_profile_tells_the_time_of_any_schedule_of_the_same_run(
    config: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    override = ("schedule.kind=constant", "schedule.keep_rate=0.6")
    shown = previewed(config, capsys, *override)
    arguments = ["--config", str(config), "--set", override[0], "--set", override[1], "--profile", str(profile)]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {key: told[key] for key in shown} == shown  # what was there stays as it was
    assert told["predicted_s"] == pytest.approx(2700 * 0.118)
    assert told["predicted_s_range"] == pytest.approx([2700 * 0.118] * 2)
    assert told["share_of_full"] == pytest.approx(118 / 197)
    (stage,) = told["predicted_stages"]
    assert (stage["num_kept"], stage["limited_by"], stage["measured"]) == (117, "step", True)
    assert main(arguments) == 0
    assert "predicted: 318.6 s of training steps (318.6 to 318.6), 59.9% of full patches' 531.9 s" in (
        capsys.readouterr().out
    )


def test_hosts_and_their_line_are_told_together_with_a_profile_of_one_host(
    config: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--config", str(config), "--profile", str(profile)]
    line = ["--link-gbit-per-s", "10"]
    assert "share: profile what you want predicted" in error_of([*base, "--hosts", "2", *line], capsys)
    assert "--hosts above 1 and --link-gbit-per-s are given together" in error_of([*base, "--hosts", "2"], capsys)
    assert "--hosts is at least 1, got 0" in error_of([*base, "--hosts", "0"], capsys)
    assert "--link-gbit-per-s is above 0, got 0" in error_of([*base, "--hosts", "2", "--link-gbit-per-s", "0"], capsys)
    assert "for which --profile is needed" in error_of([*base[:2], "--hosts", "2", *line], capsys)
    batch = ["--set", "train.global_batch_size=200", "--hosts", "2", *line]
    assert main([*base, *batch, "--json"]) == 0
    alone_s = 1e-3 * 39
    stage = json.loads(capsys.readouterr().out)["predicted_stages"][0]
    assert stage["step_s"] == pytest.approx(alone_s + stage["exchange_s"])
    assert stage["exchange_s"] > 0


def test_a_profile_of_another_model_is_refused_by_name(
    config: Path, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(config), "--profile", str(profile), "--set", "model.name=vit_small_patch16_224"]
    assert "with model.name vit_tiny_patch16_224, and this run has vit_small_patch16_224" in error_of(arguments, capsys)
