import json
import os
import signal
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from launching import python_module
from study_file import study as made_up_study
from toy_study import VARIANTS, command, result, run, started, study, write

from benchmarks.shared.shell import ROOT, environment
from tools.study.result import StudyResult
from tools.study.spec import jobs_of, jobs_of_machine, load_study

__all__ = ["study"]


def test_every_variant_is_trained_with_every_seed_and_compared_with_the_reference(
    study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(study)
    assert run(study) == 0
    assert started(study) == ["full-seed0", "half-seed0", "full-seed1", "half-seed1"]
    found = result(study)
    full, half = found["variants"]
    assert (found["complete"], found["missing"], found["equal_time"]) == (True, [], [])
    assert half["top1_mean"] == pytest.approx({"1.0": statistics.mean([0.85, 0.86]), "0.4": 0.5})
    assert half["top1_stdev"]["1.0"] == pytest.approx(statistics.stdev([0.85, 0.86]))
    assert (full["time_ratio"], half["time_ratio"], half["time_ratio_stdev"]) == (1.0, pytest.approx(0.5), 0.0)
    assert full["runs"][0]["curve"][-1]["top1"] == {"1.0": 0.8}
    assert "85.50 ± 0.71" in capfd.readouterr().out


def test_a_variant_with_seeds_of_its_own_is_trained_with_these_alone(
    study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    variants = {"full": {**VARIANTS["full"], "seeds": [0, 1, 2]}, "half": VARIANTS["half"]}
    write(study, seeds=[1], variants=variants, equal_time={"full": "half"})
    assert run(study) == 0
    assert started(study) == ["full-seed0", "full-seed1", "half-seed1", "full-seed2", "full@half-seed1"]
    found = result(study)
    assert (found["seeds"], found["complete"]) == ([0, 1, 2], True)
    assert [row["num_runs"] for row in (*found["variants"], *found["equal_time"])] == [3, 1, 1]
    half = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("half"))
    assert half.split()[1] == "1"
    assert half.endswith(" -5.00 points"), "against the run of the same seed, without an interval"


def test_differences_are_paired_over_seeds_and_have_an_interval_from_three_seeds_on(
    study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(study, seeds=[0])
    assert run(study) == 0
    write(study, seeds=[0, 1, 2])
    gains, records = [-0.05, -0.03, -0.07], study / "out" / "records"
    for name in ("full", "half"):
        record = json.loads((records / f"{name}-seed0.json").read_text())
        for seed, gain in enumerate(gains):
            record["seed"] = record["config"]["seed"] = seed
            record["top1"]["1.0"] = 0.9 + 0.01 * seed + (gain if name == "half" else 0.0)
            (records / f"{name}-seed{seed}.json").write_text(json.dumps(record))
    capfd.readouterr()
    assert run(study) == 0
    full, half = result(study)["variants"]
    assert half["top1_difference"] == pytest.approx({"1.0": -0.05, "0.4": 0.0})
    # Student's t of two degrees of freedom, 4.303, times the standard error.
    half_width = 4.303 * statistics.stdev(gains) / 3**0.5
    assert half["top1_difference_half_width"] == pytest.approx({"1.0": half_width, "0.4": 0.0})
    assert (half["num_paired"], full["num_paired"], full["top1_difference"]) == (3, 0, {})
    printed = capfd.readouterr().out
    assert "-5.00 points    -9.97 to -0.03" in printed
    assert "95 % interval of the mean of the differences (Student's t, 3 seeds or more)" in printed
    (records / "half-seed2.json").unlink()
    assert run(study, "--show", "--json") == 0
    half = json.loads(capfd.readouterr().out)["variants"][1]
    assert (half["num_paired"], half["top1_difference_half_width"]) == (2, {"1.0": None, "0.4": None})


def test_each_of_several_validation_sets_is_told_by_its_name(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(study)
    assert run(study) == 0
    assert "on old" not in capfd.readouterr().out
    assert result(study)["variants"][0]["val_top1_mean"] == {}
    for path in (study / "out" / "records").glob("*.json"):
        record = json.loads(path.read_text())
        new = {rate: top1 - 0.3 for rate, top1 in record["top1"].items()}
        path.write_text(json.dumps({**record, "val": {"old": {"top1": record["top1"]}, "new": {"top1": new}}}))
    assert run(study) == 0
    shown = capfd.readouterr().out
    assert "on old, as above:" in shown
    on_new = shown.split("on new:")[1].splitlines()
    assert on_new[2].split() == ["full", "60.50", "±", "0.71", "20.00", "±", "0.00"]
    full = result(study)["variants"][0]
    assert full["val_top1_mean"]["new"] == pytest.approx({"1.0": 0.605, "0.4": 0.2})
    assert full["val_top1_stdev"]["old"] == full["top1_stdev"]
    rows = (study / "out" / "study.csv").read_text().splitlines()
    assert rows[0].endswith(",train_cpu_s,val")
    assert [row.split(",")[-1] for row in rows[1:]] == ["old", "old", "new", "new"] * 4


def test_finished_runs_are_kept_though_their_folders_are_gone(study: Path) -> None:
    write(study)
    assert run(study, "--machine", "0/2") == 0
    first = started(study)
    (study / "out" / "runs").rename(study / "elsewhere")
    (study / "out" / "runs").mkdir()
    assert run(study) == 0
    assert first == ["full-seed0", "full-seed1"]
    assert started(study) == ["half-seed0", "half-seed1"]
    assert result(study)["complete"]


def test_an_unfinished_study_compares_runs_of_the_same_seed(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(study)
    assert run(study) == 0
    (study / "out" / "records" / "half-seed0.json").unlink()
    capfd.readouterr()
    assert run(study, "--show") == 0
    half = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("half"))
    assert half.endswith(" -5.00 points")  # of seed 1; means over whatever is there would differ by 4.5


def test_a_variant_is_trained_again_for_the_steps_that_take_the_others_time(study: Path) -> None:
    write(study, equal_time={"full": "half"}, seeds=[0])
    assert run(study, "--machine", "1/3") == 0  # half alone
    assert run(study, "--machine", "2/3") == 0  # full in half's time, which must wait for full
    assert result(study)["missing"] == ["full seed 0", "full@half seed 0"]
    assert run(study) == 0
    (again,) = result(study)["equal_time"]
    assert (again["name"], again["reference"], again["steps"]) == ("full@half", "half", 12)
    assert again["time_ratio"] == pytest.approx(0.5)


def test_times_are_compared_where_the_hardware_is_the_same(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(study)
    assert run(study, "--machine", "0/4") == 0  # full, seed 0
    assert run(study, cpu="b") == 0
    full, half = result(study)["variants"]
    assert (full["num_timed"], half["num_timed"]) == (2, 1)
    assert (half["time_ratio"], half["time_ratio_stdev"]) == (pytest.approx(0.5), None)
    assert half["top1_mean"]["1.0"] == pytest.approx(statistics.mean([0.85, 0.86]))
    assert "trained on other hardware: half (1 of 2)" in capfd.readouterr().out


def test_a_reference_that_is_not_finished_is_no_other_hardware(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(study)
    assert run(study) == 0
    (study / "out" / "records" / "full-seed0.json").unlink()
    capfd.readouterr()
    assert run(study, "--show") == 0
    assert "as full is not finished or was trained on other hardware: half (1 of 2)" in capfd.readouterr().out


def test_steps_in_anothers_time_are_not_guessed_from_other_hardware(
    study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(study, equal_time={"full": "half"}, seeds=[0])
    assert run(study, "--machine", "0/3") == 0
    assert run(study, cpu="b") == 1
    error = capfd.readouterr().err
    assert "full@half-seed0 (full was trained on 1 rank(s), a, 2 core(s), b, half on 1 rank(s), b, " in error
    assert result(study)["missing"] == ["full@half seed 0"]


def test_a_run_that_fails_is_named_and_the_others_are_trained(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(study, seeds=[0], variants={"bad": {"about": "", "set": {"optim.lr": 0.5}}, **VARIANTS})
    assert run(study) == 1
    captured = capfd.readouterr()
    assert "bad-seed0 (exit code 3" in captured.err
    assert "not finished: bad seed 0" in captured.out
    assert [row["name"] for row in result(study)["variants"]] == ["full", "half"]


def test_a_signal_stops_the_run_and_the_study(study: Path) -> None:
    write(study, variants={"full": {"about": "", "set": {"optim.lr": 0.25}}})
    arguments = [sys.executable, "-m", "tools.study", *command(study)]
    with subprocess.Popen(arguments, env=environment(), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (study / "out" / "runs" / "started.txt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGTERM)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "the same command goes on" in printed
    assert started(study) == ["full-seed0"]


def test_a_run_that_was_stopped_without_its_study_stops_the_study(
    study: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(study, variants={"full": {"about": "", "set": {"optim.lr": 0.125}}})
    assert run(study) == 75
    assert "the same command goes on" in capfd.readouterr().err
    assert started(study) == ["full-seed0"]


def test_a_record_of_other_settings_is_refused(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(study, seeds=[0])
    assert run(study) == 0
    write(study, seeds=[0], common={"train.duration": "30steps"})
    assert run(study) == 2
    error = capfd.readouterr().err
    assert "full-seed0.json was made with another configuration" in error
    assert "train.duration is '30steps' here and '24steps' there" in error


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": "whole"}, "reference: 'whole' is none of the variants full, half"),
        ({"equal_time": {"full": "none"}}, "equal_time: 'none' is none of the variants"),
        ({"seeds": [1, 1]}, "a seed is named twice"),
        ({"seed": 1}, "seed: Extra inputs are not permitted"),
        (
            {"variants": {"full": VARIANTS["full"], "half": VARIANTS["half"] | {"seeds": [1, 2]}}},
            "variants.half.seeds: 2 is none of [0, 1], those of the reference full, with which runs are compared",
        ),
        (
            {"variants": {"full": VARIANTS["full"], "half": VARIANTS["half"] | {"seeds": [1, 1]}}},
            "variants.half.seeds: a seed is named twice",
        ),
        (
            {
                "variants": {
                    "full": VARIANTS["full"],
                    "half": VARIANTS["half"] | {"seeds": [0]},
                    "third": VARIANTS["half"] | {"seeds": [1]},
                },
                "equal_time": {"half": "third"},
            },
            "equal_time: half and third have no seed in common",
        ),
        ({"variants": VARIANTS | {"odd": {"about": "", "set": {"schedule.kin": 1}}}}, "variant odd: "),
        ({"variants": VARIANTS | {"a b": {"about": ""}}}, "String should match pattern"),
        ({"base": "nowhere.yaml"}, "cannot read the configuration nowhere.yaml"),
    ],
)
def test_a_study_that_cannot_be_is_told_in_one_line(
    study: Path, changes: dict[str, Any], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write(study, **changes)
    assert run(study) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (study / "out" / "runs" / "started.txt").exists()


@pytest.mark.parametrize("part", ["2/2", "1", "a/b", "-1/2"])
def test_a_part_of_no_machine_is_refused(study: Path, part: str, capfd: pytest.CaptureFixture[str]) -> None:
    write(study)
    assert run(study, f"--machine={part}") == 2
    assert "I/N with I from 0 to N - 1, such as 0/2, or any; got" in capfd.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_the_machines_share_every_job_once(count: int) -> None:
    jobs = jobs_of(load_study(ROOT / "configs" / "studies" / "fashion_mnist.yaml"))
    assert len(jobs) == 33
    parts = [jobs_of_machine(jobs, (index, count)) for index in range(count)]
    assert sorted(job.stem for part in parts for job in part) == sorted(job.stem for job in jobs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_real_runs_are_trained_and_told(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(study, seeds=[0], variants={"full": VARIANTS["full"]}, common={"train.duration": "8steps"})
    told = python_module("tools.study", study / "study.yaml", "--out", study / "out", "--json")
    assert told.returncode == 0, told.stderr
    (row,) = json.loads(told.stdout)["variants"]
    (one,) = row["runs"]
    assert (one["steps"], one["ranks"], row["rule"], row["schedule"]) == (8, 1, "contrast", "constant")
    assert one["train_cpu_s"] > 0
    assert one["curve"][-1]["top1"] == row["top1_mean"] == one["top1"]
    assert one["loss"][-1]["step"] == 8
    assert one["versions"]["torch"]


def test_a_result_is_read_back_as_it_was_written(study: Path) -> None:
    write(study, equal_time={"full": "half"}, seeds=[0])
    assert run(study) == 0
    written = result(study)
    assert [row["name"] for row in written["equal_time"]] == ["full@half"]
    assert StudyResult.from_json(written).as_json() == written


def test_a_file_of_another_version_is_read_by_the_fields_that_both_have() -> None:
    values = made_up_study()
    row = values["variants"][1]
    row["colour"] = "green"
    del row["num_timed"], row["schedule"], values["clock"]
    read = StudyResult.from_json(values)
    linear = read.variants[1]
    assert (linear.name, linear.rule, linear.schedule, linear.num_timed) == ("linear-contrast", "contrast", "-", 3)
    assert (read.clock, read.variants[3].runs, read.variants[3].num_timed) == ("cpu", [], 0)


def test_a_key_that_stands_twice_in_a_study_is_named_with_both_lines(study: Path) -> None:
    path = write(study)
    first = len(path.read_text().splitlines()) + 1
    path.write_text(path.read_text() + "common:\n  optim.lr: 0.1\n  optim.lr: 0.2\n")
    with pytest.raises(ValueError, match=rf"'optim.lr' stands there twice, in lines {first + 1} and {first + 2}"):
        load_study(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim.lr": float("nan")}, "variant full: .*optim.lr: Input should be a finite number"),
        ({"name": date(2026, 1, 1)}, "variant full: name: .*date is not JSON serializable; put text into quotes"),
    ],
)
def test_a_value_that_no_run_can_have_is_an_error_that_names_the_variant(
    study: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        jobs_of(load_study(write(study, common=values)))


def test_ctrl_c_before_anything_is_trained_is_one_line(study: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(study)
    with patch("tools.study.__main__.jobs_of", side_effect=KeyboardInterrupt), pytest.raises(SystemExit) as ended:
        run(study)
    assert ended.value.code == 130
    assert capfd.readouterr().err == "error: interrupted; the same command goes on\n"
