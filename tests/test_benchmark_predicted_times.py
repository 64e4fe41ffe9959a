"""How predicted times are held against runs."""

from pathlib import Path
from typing import Any

import pytest
from saved_profiles import write_profile

from benchmarks.predicted_times.__main__ import SCHEDULES, compare, configured
from benchmarks.predicted_times.undisturbed import WINDOW_STEPS, fastest_profile, undisturbed_s, windows
from engine.run_plan import build_schedule
from tools.profile.saved import read_profile

MEASURED = (9, 19, 29, 39, 49)


def line(num_kept: int, step_s: float, steps: int = WINDOW_STEPS) -> dict[str, Any]:
    return {"event": "train", "num_kept": num_kept, "interval_steps": steps, "step_s": step_s}


def test_a_disturbed_window_does_not_count() -> None:
    turns = [
        [line(9, 5.0), line(9, 1.0), line(49, 7.0)],
        [line(9, 2.0), line(9, 2.0), line(49, 3.0), {"event": "eval"}],
    ]
    assert undisturbed_s(turns) == pytest.approx(2 * WINDOW_STEPS * 1.0 + WINDOW_STEPS * 3.0)


def test_intervals_of_a_choice_are_put_together_to_a_window() -> None:
    mixed = [line(9, 1.0, 4), line(19, 9.0, 1), line(9, 2.0, 8), line(9, 7.0, 3)]
    assert windows(mixed, 9) == [pytest.approx((4 * 1.0 + 8 * 2.0) / 12)]
    assert windows(mixed, 19) == [9.0]


def test_the_fastest_repeat_of_any_turn_is_the_machines_own(tmp_path: Path) -> None:
    config = configured({})[0]
    quiet, busy = (
        read_profile(write_profile(tmp_path / f"{noise}.json", config, (9, 49), step_s=lambda kept: 1.0, noise=noise))
        for noise in ((1.0, 1.2), (0.9, 3.0))
    )
    assert [stage.both_s for stage in fastest_profile([quiet, busy]).stages] == [pytest.approx((0.9,))] * 2


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_stages_that_the_profile_did_not_see_and_windows_in_each(name: str) -> None:
    stages = build_schedule(configured(SCHEDULES[name])[0], 60_000).stages()
    assert {stage.num_kept for stage in stages} - set(MEASURED)
    assert all(9 <= stage.num_kept <= 49 for stage in stages)
    assert min(stage.num_steps for stage in stages) >= WINDOW_STEPS


def test_a_run_as_fast_as_told_does_not_differ(tmp_path: Path) -> None:
    path = write_profile(tmp_path / "p.json", configured({})[0], MEASURED, step_s=lambda kept: 1e-3 * kept)
    runs = [[line(14, 1e-3 * 14) for _ in range(120 // WINDOW_STEPS)]]
    found = compare(SCHEDULES["constant 0.3"], [read_profile(path)], runs)
    assert found["undisturbed_difference"] == pytest.approx(0, abs=0.01)
    assert found["predicted_s"] == pytest.approx(found["measured_s"], rel=0.01)
