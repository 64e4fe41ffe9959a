"""How predicted times are held against runs."""

from pathlib import Path
from typing import Any

import pytest
from saved_profiles import write_profile

from benchmarks.predicted_times.__main__ import (
    FITTED_NAME,
    FULL,
    FULL_NAME,
    NUM_SAMPLES,
    SCHEDULES,
    compare,
    compare_fit,
    courses,
    proposed,
)
from benchmarks.predicted_times.course import Stretch, configured, laid_out, pooled, stretches
from engine.config import load_config
from engine.run_plan import build_schedule
from pipeline.plan.schedule import PatchSchedule
from tools.profile.saved import SavedProfile, read_profile

MEASURED = (9, 19, 29, 39, 49)
STEPS = 60


def schedule_of(name: str) -> PatchSchedule:
    return build_schedule(configured(SCHEDULES[name], STEPS), NUM_SAMPLES)


def profile(path: Path, **times: Any) -> SavedProfile:
    config = configured(FULL, STEPS)
    return read_profile(write_profile(path, config, MEASURED, **{"step_s": lambda kept: 1e-3 * kept, **times}))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_stages_that_the_profile_did_not_see(name: str) -> None:
    stages = schedule_of(name).stages()
    assert {stage.shape for stage in stages} - {(kept, 28, 4) for kept in MEASURED}
    assert all(9 <= stage.num_kept <= 49 for stage in stages)


def test_a_course_goes_through_all_schedules_step_by_step() -> None:
    one_by_one = [schedule_of(name) for name in SCHEDULES]
    config = load_config("configs/fashion_mnist.yaml", laid_out(one_by_one)[1::2])
    course = build_schedule(config, NUM_SAMPLES)
    assert course.total_steps == STEPS * len(SCHEDULES)
    assert config.eval.every is config.checkpoint.every is None
    for place, own in enumerate(one_by_one):
        assert [course.stage(place * STEPS + step) for step in range(STEPS)] == [own.stage(s) for s in range(STEPS)]


def test_only_a_course_of_sizes_schedules_them() -> None:
    order, sized = courses()
    keys = {name: set(laid_out([schedule_of(name)])[1::2]) for name in SCHEDULES}
    has_sizes = {name for name, told in keys.items() if any("_size=" in one for one in told)}
    assert has_sizes == set(sized)
    assert not has_sizes & set(order)


def test_a_stretch_takes_what_its_lines_say() -> None:
    def line(step: int, steps: int, step_s: float) -> dict[str, Any]:
        return {"event": "train", "step": step, "interval_steps": steps, "step_s": step_s, "cpu_s": 2 * step_s}

    lines = [line(9, 10, 1.0), line(12, 3, 2.0), line(19, 7, 1.0), line(39, 20, 0.5), {"event": "eval", "step": 40}]
    assert stretches(lines, 20) == [Stretch(23.0, 46.0), Stretch(10.0, 20.0)]
    with pytest.raises(ValueError, match="a stretch has a multiple of 10 steps, got 25"):
        configured(FULL, 25)


def test_the_repeats_of_all_profiles_count(tmp_path: Path) -> None:
    one, other = (profile(tmp_path / f"{noise}.json", noise=(noise, 1.0)) for noise in (2.0, 3.0))
    assert pooled([one, other]).stages[0].both_s == pytest.approx((0.018, 0.009, 0.027, 0.009))


def test_a_run_as_fast_as_told_does_not_differ_and_one_disturbed_stretch_does_not_decide(tmp_path: Path) -> None:
    own = [Stretch(STEPS * 1e-3 * 14, 1.0)] * 2
    found = compare(SCHEDULES["constant 0.3"], profile(tmp_path / "p.json"), STEPS, [*own, Stretch(99.0, 1.0)])
    assert found["difference"] == pytest.approx(0, abs=0.01)


def test_a_fitted_schedule_is_held_against_full_patches_beside_it() -> None:
    order, sized = courses()
    assert sorted({*order, *sized}) == sorted({*SCHEDULES, FITTED_NAME, FULL_NAME})
    assert [order[place + 1] for place, name in enumerate(order) if name == FITTED_NAME] == [FULL_NAME] * 2
    slow = [Stretch(10.0, 1.0), Stretch(20.0, 1.0), Stretch(5.2, 1.0)], [Stretch(20.0, 2.0), Stretch(40.0, 2.0)]
    found = compare_fit(slow[0], [*slow[1], Stretch(10.0, 2.0)])
    assert found["off_the_budget"] == pytest.approx(0)
    assert found["measured_cpu_share"]["median"] == 0.5


def test_what_is_proposed_can_be_laid_out(tmp_path: Path) -> None:
    schedule, share = proposed(profile(tmp_path / "p.json"), 100)
    assert 0.495 <= share <= 0.5
    assert laid_out([build_schedule(configured(schedule, 100), NUM_SAMPLES)])
