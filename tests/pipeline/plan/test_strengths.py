"""Strengths of augmentation that follow a schedule, against a slow reference and against runs of one number."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import samples

from pipeline.config import AugmentConfig, DataConfig
from pipeline.plan import keyed
from pipeline.plan.augmentation import AugmentPlan
from pipeline.plan.keyed import Stream
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig, Stage
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig

STREAMS = {"magnitude": Stream.MAGNITUDE, "mixup": Stream.MIXUP, "cutmix": Stream.CUTMIX}
GROWING = {
    "auto": {"kind": "randaugment", "magnitude": {"kind": "linear", "values": [0, 9]}},
    "mixup": {"kind": "steps", "values": [[0, 0], [0.5, 0.8]]},
    "cutmix": {"kind": "choice", "values": [[0, 1], [1.0, 1]]},
}


def reference_strength(kind: str, values: Any, step: int, ramp_steps: int, epoch_steps: int, draw: float) -> float:
    """One strength at one step, from the words of the documentation."""
    into_run = (step + 0.5) / ramp_steps if step < ramp_steps else 1.0
    into_epoch = (step % epoch_steps + 0.5) / epoch_steps
    if kind == "constant":
        return values
    if kind == "steps":
        begun = [value for fraction, value in values if step >= fraction * ramp_steps - 1e-9]
        return begun[-1]
    if kind == "choice":
        edge, total = 0.0, sum(weight for _, weight in values)
        for value, weight in values:
            edge += weight / total
            if draw < edge:
                return value
        return values[-1][0]
    progress = {
        "linear": into_run,
        "cosine": (1 - math.cos(math.pi * into_run)) / 2,
        "cyclic": 2 * into_epoch if into_epoch <= 0.5 else 2 - 2 * into_epoch,
    }[kind]
    low, high = values
    return low + progress * (high - low)


strength = st.integers(0, 20).map(lambda tenths: tenths / 2)
VALUES = {
    "constant": strength,
    **dict.fromkeys(("linear", "cosine", "cyclic"), st.tuples(strength, strength).map(sorted)),
    "steps": st.lists(st.tuples(st.integers(1, 9), strength), max_size=4, unique_by=lambda pair: pair[0]).map(
        lambda pairs: [(0.0, 3.0), *((tenth / 10, value) for tenth, value in sorted(pairs))]
    ),
    "choice": st.lists(st.tuples(strength, st.integers(1, 4)), min_size=1, max_size=4),
}


def augment_of(name: str, section: dict[str, Any]) -> AugmentConfig:
    if name == "magnitude":
        return AugmentConfig(auto={"kind": "randaugment", "magnitude": section})  # type: ignore[arg-type]
    return AugmentConfig(**{name: section})


def laid(augment: AugmentConfig, total_steps: int = 40, cooldown: int = 0, epoch_steps: int = 10) -> PatchSchedule:
    config = ScheduleConfig(cooldown=f"{cooldown}steps")  # type: ignore[arg-type]
    return PatchSchedule(config, 16, total_steps, epoch_steps, 8, 7, 64, 16, augment.schedules)


def planner_of(augment: AugmentConfig, total_steps: int = 16) -> TrainPlanner:
    data = DataConfig(train=Path(), val=Path(), num_classes=10, image_size=64, patch_size=16, augment=augment)
    return TrainPlanner(samples(80), data, SelectionConfig(), laid(augment, total_steps), 8, 7)


# What a step is told


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(sorted(STREAMS)), st.sampled_from(sorted(VALUES)), st.integers(1, 60))
def test_every_kind_gives_each_step_what_the_slow_way_gives(
    data: st.DataObject, name: Any, kind: str, total_steps: int
) -> None:
    values, cooldown = data.draw(VALUES[kind]), data.draw(st.integers(0, total_steps))
    epoch_steps = data.draw(st.integers(1, 20))
    made = laid(augment_of(name, {"kind": kind, "values": values}), total_steps, cooldown, epoch_steps)
    draws = keyed.uniform(7, STREAMS[name], 0, first_row=0, num_rows=total_steps, num_columns=1)[:, 0]
    want = [
        reference_strength(kind, values, step, total_steps - cooldown, epoch_steps, draws[step])
        for step in range(total_steps)
    ]
    np.testing.assert_allclose(made.strengths_over(name, np.arange(total_steps)), want, atol=1e-8)
    step = data.draw(st.integers(0, total_steps - 1))
    assert made.stage(step).strengths == {name: pytest.approx(want[step], abs=1e-8)}


def test_a_magnitude_that_grows_from_0_to_9_stays_at_9_in_the_cooldown() -> None:
    section = {"kind": "linear", "values": [0, 9]}
    found = laid(augment_of("magnitude", section), 12, 3, 4).strengths_over("magnitude", np.arange(12))
    assert found.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.0, 9.0, 9.0]


def test_a_rounded_strength_takes_the_values_of_its_grid_alone() -> None:
    section = {"kind": "linear", "values": [0, 0.8], "rounding": 0.2}
    found = laid(augment_of("mixup", section), 90).strengths_over("mixup", np.arange(90))
    values, counts = np.unique(found, return_counts=True)
    np.testing.assert_allclose(values, [0, 0.2, 0.4, 0.6, 0.8])
    assert counts.tolist() == [10, 20, 20, 20, 20]


def test_each_strength_draws_for_itself() -> None:
    section = {"kind": "choice", "values": [[0, 1], [1, 1]]}
    found = laid(AugmentConfig(mixup=section, cutmix=section), 200)  # type: ignore[arg-type]
    steps = np.arange(200)
    assert found.strengths_over("mixup", steps).tolist() != found.strengths_over("cutmix", steps).tolist()


def test_strengths_part_no_stages() -> None:
    made = laid(AugmentConfig(**GROWING))  # type: ignore[arg-type]
    assert len(made.stages()) == 1
    assert made.stage(0) == made.stage(39) == Stage(1.0, 16, 64, 16)
    assert made.stage(0).strengths != made.stage(39).strengths
    assert made.strengths_told() == "magnitude linear (0 to 9), mixup steps (0 to 0.8), cutmix choice (0 to 1)"


# What is planned


def assert_same(got: StepPlan, want: StepPlan) -> None:
    for field in fields(StepPlan):
        if field.name != "augment":
            np.testing.assert_array_equal(getattr(got, field.name), getattr(want, field.name), err_msg=field.name)
    assert got.augment is not None
    assert want.augment is not None
    for field in fields(AugmentPlan):
        np.testing.assert_array_equal(getattr(got.augment, field.name), getattr(want.augment, field.name), field.name)


@pytest.mark.parametrize("seen_by", [(0, 1), (1, 2), (3, 4)])
def test_a_step_is_planned_as_in_a_run_that_has_its_numbers_throughout(seen_by: tuple[int, int]) -> None:
    growing = planner_of(AugmentConfig(**GROWING))  # type: ignore[arg-type]
    for step in range(16):
        plan = growing.plan(step, *seen_by)
        magnitude, alphas = (
            plan.stage.strengths["magnitude"],
            (plan.stage.strengths["mixup"], plan.stage.strengths["cutmix"]),
        )
        auto = {"kind": "randaugment", "magnitude": magnitude}
        numbers = AugmentConfig(auto=auto, mixup=alphas[0], cutmix=alphas[1])  # type: ignore[arg-type]
        want = planner_of(numbers).plan(step, *seen_by)
        if alphas == (0, 0):
            assert plan.augment is not None
            assert (plan.augment.mix_weights == 1).all()  # type: ignore[union-attr]
            assert not plan.augment.cut_boxes.any()  # type: ignore[union-attr]
            unmixed = replace(plan.augment, mix_labels=None, mix_weights=None, cut_boxes=None)
            plan = replace(plan, augment=unmixed)
        assert_same(plan, want)


def test_both_alphas_are_0_at_some_step_and_not_at_others() -> None:
    growing = planner_of(AugmentConfig(**GROWING))  # type: ignore[arg-type]
    pairs = [(one["mixup"], one["cutmix"]) for one in (growing.plan(step).stage.strengths for step in range(16))]
    assert {(0.0, 0.0), (0.0, 1.0), (0.8, 1.0)} <= set(pairs)


def test_any_step_is_planned_the_same_whatever_was_asked_before() -> None:
    whole = planner_of(AugmentConfig(**GROWING))  # type: ignore[arg-type]
    in_order = [whole.plan(step) for step in range(16)]
    for step in (15, 7, 0, 8):
        assert_same(planner_of(AugmentConfig(**GROWING)).plan(step), in_order[step])  # type: ignore[arg-type]


def test_another_stage_in_place_of_the_schedules_leaves_the_step_its_strengths() -> None:
    growing = planner_of(AugmentConfig(**GROWING))  # type: ignore[arg-type]
    plan = growing.plan_at(Stage(0.5, 8), 12)
    assert plan.stage.strengths == growing.schedule.stage(12).strengths
    assert plan.augment is not None
    np.testing.assert_array_equal(plan.augment.auto_values, growing.plan(12).augment.auto_values)  # type: ignore[union-attr]


def test_a_view_of_an_echoed_image_has_the_strength_of_the_step_that_shows_it() -> None:
    augment = {"kind": "randaugment", "magnitude_std": 0, "magnitude": {"kind": "linear", "values": [0, 8]}}
    made = planner_of(AugmentConfig(auto=augment))  # type: ignore[arg-type]
    echoed = replace(made, data=made.data.model_copy(update={"echo": 4}))
    for step in range(16):
        planned = echoed.plan(step).augment
        assert planned is not None
        assert planned.auto_magnitudes is not None
        np.testing.assert_allclose(np.abs(planned.auto_magnitudes), 8 * (step + 0.5) / 16, rtol=1e-6)


def test_a_schedule_that_does_not_know_the_strengths_of_the_data_is_refused() -> None:
    made = planner_of(AugmentConfig(**GROWING))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="does not know data's strengths"):
        replace(made, schedule=laid(AugmentConfig()))
