import json
from pathlib import Path
from typing import Any

import pytest
from metric_lines import metrics_line
from worlds import ALONE, SECOND_OF_TWO

from engine.metrics import IntervalClock, MetricsFile, read_metrics, stage_table, train_wall_s
from engine.timing.laps import HostMark, Laps
from pipeline.loader import Read


def train_line(step: int, keep_rate: float = 1.0, step_s: float = 0.5, interval_steps: int = 1) -> dict[str, Any]:
    return metrics_line(
        "train",
        step,
        keep_rate=keep_rate,
        num_kept=round(49 * keep_rate),
        step_s=step_s,
        loader_wait_s=0.1 * step_s,
        device_busy_s=0.8 * step_s,
        device_idle_s=0.2 * step_s,
        images_per_s=128 / step_s,
        bytes_per_image=100.0,
        interval_steps=interval_steps,
    )


def test_a_resumed_file_holds_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0, ALONE)
    for step in range(7):
        first.write(train_line(step))
    first.write(metrics_line("eval", 5, top1=0.5))
    first.write(metrics_line("checkpoint", 5, stall_s=0.1))
    first.write(metrics_line("eval", 7, top1=0.6))
    first.write(metrics_line("checkpoint", 7, stall_s=0.1))
    first.sync()
    first.close()
    second = MetricsFile(path, 5, ALONE)
    for step in range(5, 9):
        second.write(train_line(step))
    second.close()
    lines = read_metrics(path)
    assert [line["step"] for line in lines if line["event"] == "train"] == list(range(9))
    assert [line["step"] for line in lines if line["event"] == "eval"] == [5]
    assert [line["step"] for line in lines if line["event"] == "checkpoint"] == [5]


def test_other_ranks_write_no_metrics_and_read_none(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    silent = MetricsFile(path, 0, SECOND_OF_TWO)
    silent.write(train_line(0))
    silent.sync()
    assert not path.exists()
    MetricsFile(path, 0, ALONE).write(train_line(0))
    assert silent.read() == []
    silent.close()
    assert [line["step"] for line in MetricsFile(path, 1, ALONE).read()] == [0]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(train_line(0)) + "\n" + json.dumps(train_line(1))[:20])
    assert [line["step"] for line in read_metrics(path)] == [0]


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_stages_are_told_by_their_median_interval() -> None:
    lines = [train_line(0, 0.2, step_s=9.0)] + [train_line(s, 0.2, step_s=0.1) for s in (1, 2)] + [train_line(3)]
    low, full = stage_table([*lines, {"event": "eval", "step": 3}])
    assert (low["keep_rate"], low["num_steps"], low["step_s"]) == (0.2, 3, 0.1)
    assert low["images_per_s"] == pytest.approx(1280)
    assert full["loader_wait_share"] == pytest.approx(0.1)
    assert (full["device_busy_s"], full["device_idle_s"]) == (0.4, 0.1)


def test_a_stage_tells_what_is_read_unless_an_earlier_version_has_a_part_in_it() -> None:
    lines = [{**train_line(step), "bytes_read_per_image": 10.0 * step, "pages_read_per_image": step} for step in (1, 4)]
    [found] = stage_table(lines)
    assert (found["bytes_read_per_image"], found["pages_read_per_image"]) == (25.0, 2.5)
    old = {name: value for name, value in train_line(0).items() if "read" not in name}
    [found] = stage_table([old, *lines])
    assert (found["bytes_read_per_image"], found["pages_read_per_image"]) == (None, None)


def test_what_is_read_for_an_image_is_a_mean_over_the_interval() -> None:
    clock = IntervalClock(Laps(HostMark))
    clock.num_steps = 2
    first = clock.per_step(3.0, Read(num_images=16, num_bytes=800, num_pages=40))
    assert (first.bytes_read_per_image, first.pages_read_per_image) == (50.0, 2.5)
    assert first.loader_wait_s == 1.5
    clock.reset(3.0, Read(16, 800, 40))
    clock.num_steps = 1
    second = clock.per_step(3.5, Read(24, 808, 40))
    assert (second.bytes_read_per_image, second.pages_read_per_image) == (1.0, 0.0)
    assert (second.num_steps, second.loader_wait_s) == (1, 0.5)


def test_the_devices_times_are_those_of_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("engine.timing.laps.time.perf_counter", lambda: now)
    clock, read = IntervalClock(Laps(HostMark)), Read(8, 0, 0)
    for waits_s in ((5.0, 1.0), (3.0, 1.0)):  # for the two micro batches of a step
        for wait_s in waits_s:
            now += wait_s
            clock.work_begins()
            now += 4.0
            clock.work_ends()
        clock.num_steps += 1
    found = clock.per_step(0.0, read)
    assert (found.device_busy_s, found.device_idle_s) == (8.0, 5.0)
    now += 100.0  # a validation
    clock.reset(0.0, None)
    now += 1.0
    clock.work_begins()
    clock.num_steps = 1
    assert clock.per_step(0.0, read).device_idle_s == 1.0


def test_training_time_adds_up_over_intervals() -> None:
    assert (
        train_wall_s([train_line(9, step_s=0.5, interval_steps=10), train_line(12, step_s=1.0, interval_steps=3)])
        == 8.0
    )
