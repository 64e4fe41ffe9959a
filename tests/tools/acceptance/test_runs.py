"""Which runs the acceptance makes."""

from itertools import combinations
from pathlib import Path

import pytest

from engine.config import load_config
from tools.acceptance.runs import (
    ALL_TASKS,
    RESUMED,
    RUNS,
    Task,
    lanes_of,
    smoke_config,
    tasks_of,
    thread_counts,
    write_config,
)
from tools.acceptance.sizes import SIZES

VALUES = (("fp32", "bf16"), (0, 1, 2), ("cpu", "gpu"), ("random", "contrast", "magnitude"))


@pytest.mark.parametrize(("one", "other"), combinations(range(4), 2))
def test_every_value_meets_every_value_of_the_others(one: int, other: int) -> None:
    met = {(run[one], run[other]) for run in RUNS}
    assert met == {(a, b) for a in VALUES[one] for b in VALUES[other]}


def test_bf16_stands_beside_float32_at_each_stage_of_zero() -> None:
    exact = {(run.device, run.rule) for run in RUNS if run.precision == "fp32"}
    compared = {run.zero_stage for run in RUNS if run.precision == "bf16" and (run.device, run.rule) in exact}
    assert compared == {0, 1, 2}


def test_runs_that_go_on_are_of_both_precisions_and_devices() -> None:
    assert {run.precision for run in RESUMED} == {"fp32", "bf16"}
    assert {run.device for run in RESUMED} == {"cpu", "gpu"}


def test_no_two_tasks_share_a_name() -> None:
    assert len({task.name for task in ALL_TASKS}) == len(ALL_TASKS)


@pytest.mark.parametrize("name", ["full", "quick"])
def test_a_gpu_makes_all_runs(name: str) -> None:
    tasks, unable = tasks_of(SIZES[name], on_gpu=True)
    assert [task.run for task in tasks if not task.in_two] == list(RUNS)
    assert any(task.in_two for task in tasks)
    assert unable == []


def test_a_cpu_makes_some_and_names_those_that_need_a_gpu() -> None:
    tasks, unable = tasks_of(SIZES["dry-run"], on_gpu=False)
    assert {task.run.device for task in tasks} == {"cpu"}
    assert {task.run.precision for task in tasks} == {"fp32", "bf16"}
    assert {task.run.device for task in unable} == {"gpu"}
    assert any(task.in_two for task in tasks)


def test_lanes_share_all_tasks_and_none_is_empty() -> None:
    tasks = [Task(run) for run in RUNS]
    lanes = lanes_of(tasks, 3)
    assert sorted(task for lane in lanes for task in lane) == sorted(tasks)
    assert max(map(len, lanes)) - min(map(len, lanes)) <= 1
    assert lanes_of(tasks[:2], 3) == [[tasks[0]], [tasks[1]]]


def test_threads_are_no_more_than_the_cores() -> None:
    assert thread_counts((2, 4, 8, 16), 14) == [2, 4, 8, 14]
    assert thread_counts((2, 4, 8), 1) == [1]


@pytest.mark.parametrize("name", SIZES)
def test_every_run_of_every_size_is_a_configuration_that_can_be_used(name: str, tmp_path: Path) -> None:
    path = write_config(smoke_config(tmp_path / "photographs", SIZES[name]), tmp_path / "smoke.yaml")
    for run in (*RUNS, *RESUMED):
        config = load_config(path, run.settings)
        assert (config.engine.precision, config.engine.zero_stage) == (run.precision, run.zero_stage)
        assert (config.data.device, config.selection.rule) == (run.device, run.rule)
