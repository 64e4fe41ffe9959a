"""The page about an acceptance, from folders that are made up here."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.acceptance.page import STAGES, stage_result, write_page

MACHINE = {"cpu": "a processor", "cores": 16, "torch": "2.11.0", "python": "3.12.3"}
ENVIRONMENT = {"machine": MACHINE, "torch": {"name": "NVIDIA H100"}, "driver": {"driver_version": "580.95.05"}}
JUNIT = """<testsuites><testsuite tests="{tests}" skipped="{skipped}" failures="{failures}" errors="0">
<testcase classname="tests.test_a" name="test_one">{inside}</testcase></testsuite></testsuites>"""


def left(folder: Path, stage: str, code: int = 0, **files: Any) -> Path:
    """A stage that ended, with its JSON files."""
    (folder / stage).mkdir(parents=True)
    ended = {"exit_code": code, "seconds": 7, "limit_s": 60}
    for name, content in {"ended": ended, **files}.items():
        (folder / stage / f"{name}.json").write_text(json.dumps(content))
    return folder


def environment(problems: list[str]) -> dict[str, Any]:
    return {**ENVIRONMENT, "left_out": [], "problems": problems}


def test_a_stage_that_was_not_run_says_so_and_fails_nothing(tmp_path: Path) -> None:
    left(tmp_path, "environment", environment=environment([]))
    text, all_holds = write_page(tmp_path)
    assert all_holds
    assert text.startswith("# Acceptance on NVIDIA H100\n")
    assert "Driver 580.95.05; 16 cores of a processor; torch 2.11.0, python 3.12.3." in text
    assert "| environment | passed | 7 |  |" in text
    assert "| smoke | not run |  |  |" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["card"] == "NVIDIA H100"
    assert [stage["outcome"] for stage in summary["stages"]] == ["passed", *["not run"] * (len(STAGES) - 1)]
    assert (tmp_path / "summary.md").read_text() == text + "\n"


def test_nothing_that_was_run_is_no_acceptance(tmp_path: Path) -> None:
    assert not write_page(tmp_path)[1]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write_page(tmp_path / "nowhere")


def test_problems_stand_beside_the_stage_that_found_them(tmp_path: Path) -> None:
    left(tmp_path, "environment", 3, environment=environment(["torch: no GPU", "dali: none"]))
    result = stage_result(tmp_path, "environment")
    assert (result.outcome, result.reason) == ("failed", "torch: no GPU; dali: none")
    assert not write_page(tmp_path)[1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_left_nothing_but_its_exit_code_is_told_by_that(tmp_path: Path, stage: str) -> None:
    left(tmp_path, stage, 1)
    assert stage_result(tmp_path, stage)[1:3] == ("failed", f"exit code 1; see {stage}/log.txt")


def test_a_stage_that_took_too_long_has_failed_with_what_it_has_found(tmp_path: Path) -> None:
    left(tmp_path, "loader", 124, loader={"loader": [], "left_out": [], "problems": ["one of them"]})
    assert stage_result(tmp_path, "loader")[1:3] == ("failed", "over its limit of 60 s; one of them")


@pytest.mark.parametrize(
    ("counts", "inside", "expected"),
    [
        ((3, 1, 0), "", ("passed", "")),
        ((3, 3, 0), "", ("skipped", "needs a GPU")),
        ((3, 0, 1), "<failure/>", ("failed", "tests.test_a.test_one")),
    ],
)
def test_tests_are_counted(tmp_path: Path, counts: tuple, inside: str, expected: tuple) -> None:
    left(tmp_path, "tests", 1 if expected[0] == "failed" else 0)
    tests, skipped, failures = counts
    (tmp_path / "tests" / "junit.xml").write_text(
        JUNIT.format(tests=tests, skipped=skipped, failures=failures, inside=inside)
    )
    result = stage_result(tmp_path, "tests")
    assert (result.outcome, result.reason) == expected
    assert result.figures == [f"{tests - skipped - failures} passed, {skipped} skipped, {failures} failed"]


def test_figures_of_every_other_stage_are_shown(tmp_path: Path) -> None:
    cost = {"operations": 14, "launches": 9, "waits": {"cudaStreamSynchronize": 2}, "host_ms": 0.5, "device_ms": 0.25}
    update = {"run": "bf16, ZeRO 0", "step": cost, "whole": cost}
    updates = {"model": "vit", "parameters": 152, "batch_size": 32, "updates": [update], "judged": True}
    left(tmp_path, "update", update={**updates, "problems": []})
    rate = {"device": "gpu", "threads": 8, "keep_rate": 0.2, "images_per_s": 12345.6}
    left(tmp_path, "loader", loader={"loader": [rate], "left_out": ["gpu"], "problems": []})
    left(tmp_path, "profile")
    (tmp_path / "profile" / "decoded-on-gpu.txt").write_text("[date] [INFO] of a library\nit pays down to 0.4\n")
    step = {"num_kept": 38, "way": "ours", "step_s": {"median": 0.0125}, "speed_over_timm": {"median": 5.5}}
    left(tmp_path, "step", step={"model": "vit", "precision": "bf16", "batch_size": 128, "steps": [step]})
    run = {"run": "bf16-zero0-cpu-random", "seconds": 3.0, "losses": [2.5, 1.5]}
    compared = {"run": "bf16", "beside": "fp32", "mean_apart": 0.001, "most_apart": 0.01}
    went_on = {"run": "bf16-in-two", "exact": True, "most_apart": 0.0}
    smoke = {"runs": [run], "precisions": [compared], "resumed": [went_on], "left_out": [], "problems": []}
    left(tmp_path, "smoke", smoke=smoke)
    text, all_holds = write_page(tmp_path)
    assert all_holds
    for figure in (
        "14        9     2     0.50      0.25",
        "data.device gpu,  8 threads, keep rate 0.2:    12,346 images/s",
        "skipped, needs a GPU: gpu",
        "decoded-on-gpu\nit pays down to 0.4\n",
        "38 patches  ours                 12.5 ms   5.50 x timm",
        "loss 2.5000 to 1.5000",
        "bf16 beside fp32: mean losses 0.10% apart, of a step up to 1.00%",
        "bf16-in-two: stopped and gone on, the same losses to the bit",
    ):
        assert figure in text
