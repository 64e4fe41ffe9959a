"""How times that are predicted for two hosts are held against runs, and the line between these."""

import json
from pathlib import Path
from typing import Any

import pytest
from saved_profiles import write_profile

from benchmarks.predicted_hosts import __main__ as benchmark
from benchmarks.predicted_hosts.compared import compare
from benchmarks.predicted_hosts.line import bytes_in, shaping
from benchmarks.predicted_hosts.page import predicted_hosts_section
from benchmarks.predicted_hosts.undisturbed import WINDOW_STEPS
from engine.run_plan import build_schedule, plan_run
from tools.profile.saved import SavedProfile, read_profile
from tools.schedule.prediction import num_parameters

MEASURED = (9, 19, 29, 39, 49)
ARGUMENTS = benchmark.trained_on(2, **benchmark.RUN, **benchmark.SCHEDULE)


def line(num_kept: int, step_s: float, steps: int) -> dict[str, Any]:
    return {"event": "train", "num_kept": num_kept, "interval_steps": steps, "step_s": step_s}


def profile_of_one_host(tmp_path: Path) -> SavedProfile:
    config = benchmark.configured(benchmark.trained_on(1))
    return read_profile(write_profile(tmp_path / "p.json", config, MEASURED, step_s=lambda kept: 1e-3 * kept))


def test_a_run_as_fast_as_told_for_its_line_does_not_differ_and_one_of_half_the_rate_does(tmp_path: Path) -> None:
    config, profile = benchmark.configured(ARGUMENTS), profile_of_one_host(tmp_path)
    exchange_s = num_parameters(config) * 4 / 1e9 * 8  # ZeRO 0: two turns of a half, float32, 1 Gbit/s
    stages = build_schedule(config, benchmark.NUM_SAMPLES).stages()
    run = [line(stage.num_kept, 1e-3 * stage.num_kept + exchange_s, stage.num_steps) for stage in stages]
    told = compare(config, profile, 1.0, [run], num_samples=benchmark.NUM_SAMPLES)
    assert told["difference"] == pytest.approx(0, abs=0.01)
    assert [stage["num_kept"] for stage in told["stages"]] == [stage.num_kept for stage in stages]
    assert [stage["predicted_exchange_s"] for stage in told["stages"]] == [pytest.approx(exchange_s)] * len(stages)
    assert [stage["difference"] for stage in told["stages"]] == pytest.approx([0] * len(stages), abs=0.01)
    slower = compare(config, profile, 0.5, [run], num_samples=benchmark.NUM_SAMPLES)
    assert slower["predicted_s"] - told["predicted_s"] == pytest.approx(120 * exchange_s)


def test_the_fastest_windows_of_all_turns_count_and_whole_times_are_told(tmp_path: Path) -> None:
    config, profile = benchmark.configured(ARGUMENTS), profile_of_one_host(tmp_path)
    stages = build_schedule(config, benchmark.NUM_SAMPLES).stages()
    turns = [[line(stage.num_kept, step_s, stage.num_steps) for stage in stages] for step_s in (0.3, 0.2)]
    found = compare(config, profile, 1.0, turns, num_samples=benchmark.NUM_SAMPLES)
    assert found["measured_s"] == pytest.approx(120 * 0.2)
    assert found["measured_s_of_turns"] == pytest.approx([120 * 0.3, 120 * 0.2])


def test_every_stage_of_the_run_lies_between_profiled_ones_and_has_several_windows() -> None:
    stages = build_schedule(benchmark.configured(ARGUMENTS), benchmark.NUM_SAMPLES).stages()
    assert not {stage.num_kept for stage in stages} & set(MEASURED)
    assert all(min(MEASURED) < stage.num_kept < max(MEASURED) for stage in stages)
    assert min(stage.num_steps for stage in stages) >= 3 * WINDOW_STEPS


def test_bytes_are_counted_of_steps_of_two_passes() -> None:
    config = benchmark.configured(benchmark.trained_on(2, **benchmark.COUNTED))
    assert plan_run(config, benchmark.NUM_SAMPLES, 2).micro_batches.steps(config.data.num_patches) == 2


def test_a_rate_is_told_in_bits_and_a_segment_fits_into_what_goes_at_once() -> None:
    segments, rate = shaping(0.25)
    assert rate[rate.index("rate") + 1] == "250000000bit"
    assert int(segments[-1]) <= 32 * 1024


def test_bytes_sent_are_read_off_what_ip_tells() -> None:
    told = [{"ifname": "eth0", "stats64": {"rx": {"bytes": 7}, "tx": {"bytes": 1234, "packets": 5}}}]
    assert bytes_in(json.dumps(told)) == 1234


def test_the_page_tells_every_rate_stage_and_zero_stage() -> None:
    stage = {"num_kept": 14, "predicted_step_s": 0.08, "predicted_exchange_s": 0.0147, "measured_step_s": 0.1}
    run = {"link_gbit_per_s": 0.25, "predicted_s": 9.0, "measured_s": 10.0, "difference": -0.1}
    carried = {"zero_stage": 3, "predicted_bytes": 21_809_784.0, "counted_bytes": 22_261_940.2}
    hardware = {"nvidia-dali-cuda130": "2.4", "cpu": "EPYC", "cores": 2, "memory_gib": 24, "torch": "2", "timm": "1"}
    facts = {"command": "python", "hardware": hardware, "repeats": 4, "load_average_before": 0.1, "turns": 2}
    rates = [{**run, "stages": [{**stage, "difference": -0.2}], "measured_s_of_turns": [10.5, 11.0]}]
    shown = predicted_hosts_section({**facts, "rates": rates, "bytes": [carried]})
    assert "| 0.25 Gbit/s | 14 | 80.0 ms | 14.7 ms | 100.0 ms | -20.0% |" in shown
    assert "| 0.25 Gbit/s | whole run | 9.00 s |  | 10.00 s | -10.0% |" in shown
    assert "0.25 Gbit/s: 10.50, 11.00" in shown
    assert "| 3 | 21,809,784 | 22,261,940 |" in shown


def test_a_machine_of_one_core_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "why_impossible", lambda: None)
    monkeypatch.setattr(benchmark.os, "sched_getaffinity", lambda pid: {3})
    assert benchmark.main([]) == 2
    assert "a processor core of its own" in capsys.readouterr().err


def test_what_makes_two_hosts_impossible_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "why_impossible", lambda: "network namespaces need Linux and root")
    assert benchmark.main([]) == 2
    assert capsys.readouterr().err == "error: two hosts cannot be made: network namespaces need Linux and root\n"
