import tracemalloc
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import SampleTable, samples

from pipeline.config import AugmentConfig, DataConfig
from pipeline.plan.rows import rank_rows, steps_per_epoch
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig, Stage
from pipeline.plan.step import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig

WORLD_SIZES = (1, 2, 3, 4, 6, 8, 12)


def data_config(**others: Any) -> DataConfig:
    return DataConfig(**{"train": "a", "val": "a", "num_classes": 10, "image_size": 32, "patch_size": 8, **others})


def train_planner(
    num_samples: int = 100,
    global_batch_size: int = 24,
    *,
    rule: str = "random",
    temperature: float = 0.0,
    seed: int = 0,
    num_epochs: int = 3,
    schedule: ScheduleConfig | None = None,
    **data: Any,
) -> TrainPlanner:
    per_epoch = num_samples // global_batch_size
    config = schedule or ScheduleConfig(kind="linear", keep_rate=[0.2, 1.0])
    return TrainPlanner(
        samples=samples(num_samples),
        data=data_config(**data),
        selection=SelectionConfig(rule=rule, temperature=temperature),
        schedule=PatchSchedule(config, 16, num_epochs * per_epoch, per_epoch, global_batch_size, seed),
        global_batch_size=global_batch_size,
        seed=seed,
    )


def validation_planner(num_samples: int = 50, micro_batch_size: int = 8, *, rule: str = "random") -> ValidationPlanner:
    return ValidationPlanner(
        samples(num_samples),
        data_config(),
        SelectionConfig(rule=rule),
        0.6,
        micro_batch_size,
        seed=5,
    )


ARRAYS = [f.name for f in fields(StepPlan) if f.type in (np.ndarray, "np.ndarray")]
VALUES = [f.name for f in fields(StepPlan) if f.name not in (*ARRAYS, "first_row")]


def assert_same_rows(part: StepPlan, whole: StepPlan, first_row: int) -> None:
    """``part`` holds, in everything it says, the rows of ``whole`` from ``first_row`` on."""
    assert part.first_row == whole.first_row + first_row
    for name in VALUES:
        assert getattr(part, name) == getattr(whole, name), name
    for name in ARRAYS:
        rows = getattr(whole, name)[first_row : first_row + part.num_rows]
        assert getattr(part, name).dtype == rows.dtype, name
        assert np.array_equal(getattr(part, name), rows), name


# Training: who takes what


@settings(max_examples=80, deadline=None)
@given(
    num_samples=st.integers(1, 400),
    batches=st.integers(1, 12),
    world_size=st.sampled_from(WORLD_SIZES),
    shuffle=st.sampled_from(["global", "window"]),
    window_shards=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_an_epoch_visits_no_sample_twice_on_any_number_of_ranks(
    num_samples: int, batches: int, world_size: int, shuffle: str, window_shards: int, seed: int
) -> None:
    global_batch_size = batches * world_size
    if global_batch_size > num_samples:
        return
    planner = train_planner(
        num_samples, global_batch_size, seed=seed, num_epochs=2, shuffle=shuffle, window_shards=window_shards
    )
    steps = planner.steps_per_epoch
    for epoch in (0, 1):
        visited: list[int] = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            plans = [planner.plan(step, rank, world_size) for rank in range(world_size)]
            assert {plan.epoch for plan in plans} == {epoch}
            union = [int(sample) for plan in plans for sample in plan.sample_ids]
            assert union == planner.plan(step).sample_ids.tolist(), "the ranks together see what one rank would see"
            visited += union
        assert len(visited) == len(set(visited)) == steps * global_batch_size
        assert set(visited) <= set(range(num_samples))
        if num_samples % global_batch_size == 0:
            assert len(visited) == num_samples


@pytest.mark.parametrize(
    ("rule", "temperature", "augment"),
    [
        ("random", 0.0, AugmentConfig()),
        ("grid", 0.0, AugmentConfig(crop="pad")),
        ("contrast", 0.0, AugmentConfig()),
        ("contrast", 0.5, AugmentConfig(crop="pad", flip_probability=0.1)),
    ],
)
@pytest.mark.parametrize("shuffle", ["global", "window"])
def test_a_rank_plans_the_rows_that_one_rank_alone_would_plan(
    rule: str, temperature: float, augment: AugmentConfig, shuffle: str
) -> None:
    planner = train_planner(rule=rule, temperature=temperature, augment=augment, shuffle=shuffle, window_shards=2)
    for step in range(12):
        whole = planner.plan(step)
        for world_size in WORLD_SIZES:
            for rank in range(world_size):
                assert_same_rows(planner.plan(step, rank, world_size), whole, rank * 24 // world_size)


def test_steps_may_be_planned_in_any_order_by_any_planner() -> None:
    forwards = [train_planner().plan(step) for step in range(12)]
    planner = train_planner()
    for step in reversed(range(12)):
        assert_same_rows(planner.plan(step), forwards[step], 0)


def test_a_longer_run_plans_the_same_samples_crops_and_noise() -> None:
    shorter, longer = train_planner(num_epochs=2), train_planner(num_epochs=9)
    for step in range(8):
        a, b = shorter.plan(step), longer.plan(step)
        for name in ARRAYS:
            assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_every_step_and_every_seed_has_its_own_randomness() -> None:
    plans = [train_planner(seed=seed).plan(step) for seed in (0, 1) for step in (0, 1, 4)]
    for name in ("sample_ids", "crops", "flips", "noise"):
        assert len({getattr(plan, name).tobytes() for plan in plans}) == len(plans), name


# Training: what a plan says


def test_a_training_plan_has_the_stated_types_and_shapes() -> None:
    planner = train_planner()
    plan = planner.plan(5, rank=1, world_size=3)
    assert (plan.step, plan.epoch, plan.first_row, plan.num_rows, planner.crop) == (5, 1, 8, 8, "resized")
    assert plan.stage == Stage(0.6, 9)
    described = {name: (getattr(plan, name).dtype, getattr(plan, name).shape) for name in ARRAYS}
    assert described == {
        "sample_ids": (np.dtype(np.int64), (8,)),
        "labels": (np.dtype(np.int64), (8,)),
        "crops": (np.dtype(np.float32), (8, 4)),
        "flips": (np.dtype(bool), (8,)),
        "noise": (np.dtype(np.float32), (8, 16)),
        "counted": (np.dtype(bool), (8,)),
    }
    assert plan.counted.all()


@pytest.mark.parametrize(
    ("rule", "temperature", "columns"), [("random", 0, 16), ("grid", 0, 1), ("contrast", 0, 0), ("contrast", 0.1, 16)]
)
def test_a_rule_gets_as_much_noise_as_it_needs(rule: str, temperature: float, columns: int) -> None:
    assert train_planner(rule=rule, temperature=temperature).plan(0).noise.shape == (24, columns)


def test_labels_and_crops_belong_to_their_samples() -> None:
    planner = train_planner()
    for step in range(12):
        plan = planner.plan(step)
        assert np.array_equal(plan.labels, plan.sample_ids)
        top, left, bottom, right = plan.crops.T
        assert ((top >= 0) & (top < bottom) & (bottom <= planner.samples.height[plan.sample_ids])).all()
        assert ((left >= 0) & (left < right) & (right <= planner.samples.width[plan.sample_ids])).all()


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
def test_images_are_mirrored_as_often_as_asked(probability: float) -> None:
    planner = train_planner(2400, 1200, augment=AugmentConfig(flip_probability=probability))
    flips = np.concatenate([planner.plan(step).flips for step in range(6)])
    assert abs(flips.mean() - probability) <= 4.5 * np.sqrt(probability * (1 - probability) / len(flips))


def test_a_pad_crop_is_planned_in_pixels_of_the_output() -> None:
    planner = train_planner(augment=AugmentConfig(crop="pad", pad_pixels=3))
    plan = planner.plan(0)
    assert planner.crop == "pad"
    assert (plan.crops[:, 2:] - plan.crops[:, :2] == 32).all()
    assert set(plan.crops[:, :2].ravel()) <= set(range(-3, 4))


def test_crop_flip_and_noise_of_an_image_are_independent() -> None:
    planner = train_planner(4800, 2400, augment=AugmentConfig(crop="pad"))
    plans = [planner.plan(step) for step in range(6)]
    columns = np.concatenate([np.c_[plan.crops[:, :2], plan.flips, plan.noise[:, :3]] for plan in plans])
    correlations = np.corrcoef(columns.T)[np.triu_indices(6, 1)]
    assert (np.abs(correlations) < 4.5 / np.sqrt(len(columns))).all()


def test_a_plan_follows_the_schedule() -> None:
    planner = train_planner(schedule=ScheduleConfig(kind="choice", keep_rate=[[0.4, 1], [1.0, 1]]))
    for step in range(12):
        assert planner.plan(step, 1, 2).stage == planner.schedule.stage(step)


@pytest.mark.parametrize("shuffle", ["global", "window"])
def test_a_plan_over_a_billion_samples_needs_little_memory(shuffle: str) -> None:
    def column(value: int) -> np.ndarray:
        return np.broadcast_to(np.int32(value), (10**9,))

    table = SampleTable(np.full(100_000, 10_000), column(3), column(500), column(375))
    schedule = PatchSchedule(ScheduleConfig(), 196, 10**7, 10**9 // 1024, 1024)
    tracemalloc.start()
    try:
        planner = TrainPlanner(
            table,
            data_config(image_size=224, patch_size=16, shuffle=shuffle),
            SelectionConfig(),
            schedule,
            1024,
            seed=1,
        )
        plan = planner.plan(9_000_000, rank=3, world_size=8)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.num_rows == len(np.unique(plan.sample_ids)) == 128
    assert peak_bytes < 16e6


# Rows, ranks and micro batches


def test_rows_of_a_plan_are_the_same_plan_for_fewer_images() -> None:
    plan = train_planner().plan(2, rank=1, world_size=2)
    assert_same_rows(plan.rows(3, 7), plan, 3)
    assert plan.rows(3, 7).num_rows == 4


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, 6, 12])
def test_micro_batches_are_the_plan_cut_into_equal_parts(micro_batch_size: int) -> None:
    plan = train_planner().plan(2, rank=1, world_size=2)
    parts = list(plan.micro_batches(micro_batch_size))
    assert len(parts) == 12 // micro_batch_size
    for i, part in enumerate(parts):
        assert part.num_rows == micro_batch_size
        assert_same_rows(part, plan, i * micro_batch_size)


@given(st.integers(1, 64), st.integers(1, 64))
def test_ranks_take_equal_consecutive_parts(world_size: int, rows_per_rank: int) -> None:
    parts = [rank_rows(world_size * rows_per_rank, rank, world_size) for rank in range(world_size)]
    assert parts == [(rank * rows_per_rank, rows_per_rank) for rank in range(world_size)]


def test_ranks_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="global_batch_size 24 is not divided by 5 ranks; choose a multiple of 5"):
        train_planner().plan(0, 0, 5)


def test_a_batch_larger_than_the_data_set_is_refused_when_the_planner_is_made() -> None:
    schedule = PatchSchedule(ScheduleConfig(), 16, 10, 1, 24)
    with pytest.raises(ValueError, match="global_batch_size 24 does not fit 23 training samples"):
        TrainPlanner(samples(23), data_config(), SelectionConfig(), schedule, 24, seed=0)


def test_a_step_after_the_last_is_refused() -> None:
    with pytest.raises(ValueError, match="steps of this run are 0 to 11, got 12 to 12"):
        train_planner().plan(12)


@pytest.mark.parametrize(("num_samples", "batch", "steps"), [(24, 24, 1), (47, 24, 1), (48, 24, 2), (60_000, 128, 468)])
def test_an_epoch_has_only_full_batches(num_samples: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(num_samples, batch) == steps


# Substitutes


def test_substitutes_are_spread_evenly_and_differ_from_attempt_to_attempt() -> None:
    planner = train_planner(num_samples=50)
    drawn = np.array([[planner.substitute(i, attempt) for attempt in range(20)] for i in range(50)])
    counts = np.bincount(drawn.reshape(-1), minlength=50)
    assert reference.chi_square(counts, np.full(50, 20.0)) < reference.chi_square_limit(49)
    assert all(len(set(row)) > 10 for row in drawn.tolist())
    assert planner.substitute(7, 3) == drawn[7, 3]
    assert any(train_planner(num_samples=50, seed=1).substitute(i, 0) != drawn[i, 0] for i in range(50))


@pytest.mark.parametrize("crop", ["resized", "pad"])
def test_other_samples_change_their_rows_alone_and_within_these_only_what_is_theirs(crop: str) -> None:
    planner = train_planner(augment=AugmentConfig(crop=crop))
    plan = planner.plan(2, 1, 2)
    ids = plan.sample_ids.copy()
    ids[[3, 7]] = [91, 92]
    changed = planner.with_samples(plan, ids)
    assert changed.labels.tolist() == ids.tolist()
    for name in ("flips", "noise", "counted"):
        assert np.array_equal(getattr(changed, name), getattr(plan, name))
    others = [row for row in range(plan.num_rows) if row not in (3, 7)]
    assert np.array_equal(changed.crops[others], plan.crops[others])
    for row in (3, 7):
        assert_same_rows(planner.with_samples(plan.rows(row, row + 1), ids[row : row + 1]), changed, row)
    assert_same_rows(planner.with_samples(plan, plan.sample_ids), plan, 0)


def test_in_validation_a_replaced_row_is_not_counted() -> None:
    planner = validation_planner()
    plan = planner.plan(1)
    ids = plan.sample_ids.copy()
    ids[2] = planner.substitute(int(ids[2]), 0)
    changed = planner.with_samples(plan, ids)
    assert changed.counted.tolist() == [row != 2 for row in range(8)]
    assert changed.labels.tolist() == ids.tolist()


# Validation


@settings(max_examples=120, deadline=None)
@given(
    num_samples=st.integers(1, 300),
    micro_batch_size=st.integers(1, 40),
    world_size=st.sampled_from(WORLD_SIZES),
)
def test_validation_counts_every_sample_exactly_once(num_samples: int, micro_batch_size: int, world_size: int) -> None:
    planner = validation_planner(num_samples, micro_batch_size)
    num_batches = planner.num_batches(world_size)
    counted: list[int] = []
    for rank in range(world_size):
        for batch in range(num_batches):
            plan = planner.plan(batch, rank, world_size)
            assert plan.num_rows == micro_batch_size, "every rank takes batches of one size"
            assert ((plan.sample_ids >= 0) & (plan.sample_ids < num_samples)).all()
            counted += plan.sample_ids[plan.counted].tolist()
    assert sorted(counted) == list(range(num_samples))
    assert (num_batches - 1) * micro_batch_size * world_size < num_samples, "no round is wholly filler"


@pytest.mark.parametrize("rule", ["random", "grid", "contrast"])
def test_a_validation_sample_is_treated_alike_in_any_batch_on_any_rank(rule: str) -> None:
    def treatment(micro_batch_size: int, world_size: int) -> dict[int, bytes]:
        planner = validation_planner(micro_batch_size=micro_batch_size, rule=rule)
        return {
            int(plan.sample_ids[i]): plan.crops[i].tobytes() + plan.noise[i].tobytes()
            for rank in range(world_size)
            for batch in range(planner.num_batches(world_size))
            for plan in [planner.plan(batch, rank, world_size)]
            for i in np.flatnonzero(plan.counted)
        }

    assert treatment(8, 1) == treatment(50, 1) == treatment(7, 3) == treatment(1, 4)


def test_a_validation_plan_has_the_types_and_shapes_of_a_training_plan() -> None:
    train, validation = train_planner().plan(0, 0, 3), validation_planner().plan(6)
    for name in ARRAYS:
        assert getattr(validation, name).dtype == getattr(train, name).dtype, name
        assert getattr(validation, name).shape == getattr(train, name).shape, name
    assert validation.counted.tolist() == [True] * 2 + [False] * 6
    assert validation.stage == Stage(0.6, 9)
    assert not validation.flips.any()
    assert np.array_equal(validation.labels, validation.sample_ids)


def test_validation_noise_is_fixed_and_uniform() -> None:
    planner = validation_planner(2000, 2000)
    noise = planner.plan(0).noise
    assert np.array_equal(noise, planner.plan(0).noise)
    counts = np.histogram(noise, bins=16, range=(0, 1))[0]
    assert reference.chi_square(counts, np.full(16, noise.size / 16)) < reference.chi_square_limit(15)
