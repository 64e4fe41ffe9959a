"""Sizes of images and patches as schedules of their own."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from sample_tables import samples

from pipeline.config import AugmentConfig, DataConfig
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig, Stage
from pipeline.plan.sizes import SizeScheduleConfig, check_sizes
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig


def size(kind: str, values: Any, rounding: int | None = None) -> SizeScheduleConfig:
    return SizeScheduleConfig(kind=kind, values=values, rounding=rounding)


def of_sizes(total_steps: int = 900, cooldown: str = "0steps", seed: int = 0, **sizes: Any) -> PatchSchedule:
    config = ScheduleConfig(cooldown=cooldown, **sizes)
    return PatchSchedule(config, 196, total_steps, 90, 32, seed, 224, 16)


def all_sizes(of: PatchSchedule) -> tuple[list[int], list[int]]:
    steps = np.arange(of.total_steps)
    return of.image_sizes(steps).tolist(), of.patch_sizes(steps).tolist()


def data_of(**settings: Any) -> DataConfig:
    return DataConfig(train=Path(), val=Path(), num_classes=10, **({"image_size": 224} | settings))


# What a step is told


def test_without_a_schedule_of_their_own_sizes_are_those_of_the_data() -> None:
    made = of_sizes(keep_rate=0.4)
    assert made.stage(0) == Stage(0.4, 78, 224, 16)
    assert [(stage.image_size, stage.patch_size) for stage in made.stages()] == [(224, 16)]


def test_a_schedule_that_knows_no_pixels_tells_none() -> None:
    assert PatchSchedule(ScheduleConfig(), 16, 10, 5, 8).stage(0) == Stage(1.0, 16)


def test_steps_take_each_size_from_its_fraction_of_the_run_on() -> None:
    config = ScheduleConfig(image_size=size("steps", [[0, 20], [0.5, 28]]))
    made = PatchSchedule(config, 49, 10, 5, 8, 0, 28, 4)
    assert all_sizes(made)[0] == [20] * 5 + [28] * 5
    assert [made.stage(step).num_kept for step in (0, 9)] == [25, 49]


@given(st.sampled_from(["linear", "cosine", "cyclic"]), st.integers(1, 300), st.integers(1, 6), st.integers(0, 8))
def test_a_ramp_of_sizes_runs_as_one_of_keep_rates_does(kind: str, total_steps: int, low: int, more: int) -> None:
    high = low + more
    made = of_sizes(total_steps, image_size=size(kind, [16 * low, 16 * high]))
    rates = ScheduleConfig(kind=kind, keep_rate=[low / high, 1.0], rounding=1 / high)
    as_rates = PatchSchedule(rates, 10**6, total_steps, 90, 32).keep_rates(np.arange(total_steps))
    assert all_sizes(made)[0] == (16 * np.rint(high * as_rates)).astype(int).tolist()


def test_a_ramp_of_four_sizes_has_a_short_first_stage_and_equal_others() -> None:
    made = of_sizes(700, image_size=size("linear", [96, 192], 32))
    assert [(stage.image_size, stage.num_steps) for stage in made.stages()] == [
        (96, 100),
        (128, 200),
        (160, 200),
        (192, 200),
    ]


def test_a_choice_is_keyed_and_each_axis_draws_for_itself() -> None:
    sizes = {"image_size": size("choice", [[112, 1], [224, 1]]), "patch_size": size("choice", [[8, 1], [16, 1]])}
    images, patches = all_sizes(of_sizes(**sizes))
    assert (images, patches) == all_sizes(of_sizes(**sizes))
    assert images != all_sizes(of_sizes(**sizes, seed=1))[0]
    assert {(image, patch) for image, patch in zip(images, patches, strict=True)} == {
        (112, 8),
        (112, 16),
        (224, 8),
        (224, 16),
    }
    assert 0.4 < np.mean(np.array(images) == 112) < 0.6


def test_the_cooldown_is_at_full_size_and_full_patches() -> None:
    made = of_sizes(100, "10steps", image_size=size("constant", 96), patch_size=size("constant", 32))
    assert made.stage(89) == Stage(1.0, 9, 96, 32)
    assert made.stage(90) == made.full_stage() == Stage(1.0, 196, 224, 16)


@given(st.integers(0, 4), st.sampled_from([0.2, 0.4, 0.6, 0.8, 1.0]))
def test_num_kept_is_of_the_steps_own_grid(seed: int, keep_rate: float) -> None:
    made = PatchSchedule(
        ScheduleConfig(keep_rate=keep_rate, image_size=size("choice", [[96, 1], [160, 1], [224, 2]])),
        196,
        30,
        10,
        8,
        seed,
        224,
        16,
    )
    for step in range(30):
        stage = made.stage(step)
        assert stage.image_size is not None
        num_patches = (stage.image_size // 16) ** 2
        assert stage.num_kept == reference.num_kept(Fraction(keep_rate).limit_denominator(10), num_patches)


def test_stages_are_told_apart_by_sizes_where_as_many_patches_are_kept() -> None:
    sizes = {"image_size": size("steps", [[0, 112], [0.5, 224]]), "patch_size": size("steps", [[0, 8], [0.5, 16]])}
    stages = of_sizes(100, **sizes).stages()
    assert [(stage.num_kept, stage.image_size, stage.patch_size) for stage in stages] == [(196, 112, 8), (196, 224, 16)]
    assert [(stage.first_step, stage.last_step, stage.share) for stage in stages] == [(0, 49, 0.5), (50, 99, 0.5)]


# What is refused


@pytest.mark.parametrize(
    ("kind", "values", "what"),
    [
        ("linear", 96, r"values for 'linear' is \[low, high\], such as \[96, 224\]; got 96"),
        ("linear", [224, 96], r"values for 'linear' is \[low, high\], got \[224, 96\]"),
        ("constant", 96.5, "values: a size is a whole number of pixels from 1 to 1,000,000, got 96.5"),
        ("constant", 0, "values: a size is a whole number of pixels from 1 to 1,000,000, got 0"),
        ("steps", [[0.5, 96]], r"steps are \[fraction of the run, size\] pairs whose fractions rise from 0"),
        ("choice", [[96, 0]], "choice weights are finite, at least 0 and not all 0"),
        ("spiral", 96, "Input should be 'constant', 'linear'"),
    ],
)
def test_values_that_make_no_schedule_are_refused(kind: str, values: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        size(kind, values)


@pytest.mark.parametrize(
    ("sizes", "what"),
    [
        ({"image_size": size("steps", [[0, 100], [0.5, 224]])}, "image_size: patches of 16 pixels do not tile"),
        ({"image_size": size("linear", [100, 224])}, "image_size: 100 pixels is not on the rounding grid of 16"),
        ({"image_size": size("linear", [96, 224], 8)}, "image_size: patches of 16 pixels do not tile an image of 104"),
        ({"patch_size": size("constant", 15)}, "patch_size: patches of 15 pixels do not tile an image of 224"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_the_data_are_refused_with_their_key(
    sizes: dict[str, SizeScheduleConfig], what: str
) -> None:
    with pytest.raises(ValueError, match=f"schedule.{what}"):
        check_sizes(sizes, data_of(), scored_by=None, task="classify")  # type: ignore[arg-type]


def test_sizes_that_come_together_and_do_not_fit_are_refused_with_their_step() -> None:
    image_size = size("steps", [[0, 96], [0.5, 224]])
    made = of_sizes(100, image_size=image_size, patch_size=size("steps", [[0, 48], [0.5, 16]]))
    assert [stage.num_kept for stage in made.stages()] == [4, 196]
    with pytest.raises(ValueError, match="schedule: at step 50 patches of 48 pixels do not tile an image of 224"):
        of_sizes(100, image_size=image_size, patch_size=size("steps", [[0, 48], [0.75, 16]]))


def test_a_size_at_which_a_rate_keeps_no_patch_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"keep rate 0.2 keeps none of the 4 patches of step 0, whose image has 32 pixels"
    ):
        of_sizes(keep_rate=0.2, image_size=size("constant", 32))


# Plans at other sizes


@pytest.mark.parametrize("crop", ["resized", "pad"])
def test_the_plan_of_a_step_is_that_of_a_run_at_its_size_throughout(crop: str) -> None:
    augment = AugmentConfig(crop=crop, cutmix=1.0, mixup=0.5, erase_probability=0.5, auto={"kind": "randaugment"})
    varying = ScheduleConfig(keep_rate=0.6, image_size=size("choice", [[96, 1], [160, 1]]))

    def planner(config: ScheduleConfig, image_size: int) -> TrainPlanner:
        data = data_of(image_size=image_size, augment=augment)
        made = PatchSchedule(config, data.num_patches, 16, 8, 8, 5, image_size, 16)
        return TrainPlanner(samples(64), data, SelectionConfig(rule="random"), made, 8, 5)

    varied = planner(varying, 224)
    seen = set()
    for step in range(16):
        plan = varied.plan(step, 1, 2)
        assert plan.stage.image_size is not None
        seen.add(plan.stage.image_size)
        constant = planner(ScheduleConfig(keep_rate=0.6), plan.stage.image_size).plan(step, 1, 2)
        assert plan.stage == constant.stage
        assert plan.augment is not None
        assert constant.augment is not None
        for name in ("sample_ids", "labels", "crops", "flips", "noise"):
            assert np.array_equal(getattr(plan, name), getattr(constant, name)), name
        for name in ("cut_boxes", "erase_boxes", "erase_keys", "auto_values", "mix_weights"):
            assert np.array_equal(getattr(plan.augment, name), getattr(constant.augment, name)), name
        assert plan.augment.cut_boxes.max() <= plan.stage.image_size
        again = varied.with_samples(plan, plan.sample_ids)
        assert np.array_equal(again.crops, plan.crops)
    assert seen == {96, 160}
