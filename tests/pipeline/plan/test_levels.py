"""Which level a crop is taken from, against arithmetic in fractions, and that plans depend on nothing else."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import SampleTable, samples

from pipeline.config import AugmentConfig, DataConfig
from pipeline.plan.levels import scaled_crops, smallest_levels
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig

LEVELS, IMAGE_SIZE = (128, 64), 40


def shrunk(height: int, width: int, pixels: int) -> tuple[int, int]:
    """The size of an image whose shorter side is made ``pixels``, if it is longer."""
    scale = min(Fraction(pixels, min(height, width)), Fraction(1))
    return round(height * scale), round(width * scale)


def table_with_levels(num_samples: int = 100) -> SampleTable:
    table = samples(num_samples)
    smaller = []
    for pixels in LEVELS:
        sizes = [shrunk(*size, pixels) for size in zip(table.height.tolist(), table.width.tolist(), strict=True)]
        heights, widths = np.array(sizes, dtype=np.int32).T
        smaller.append(replace(table, height=heights, width=widths))
    return replace(table, levels=tuple(smaller))


def planner(table: SampleTable, **options: Any) -> TrainPlanner:
    data = DataConfig(
        train="a",
        val="a",
        num_classes=10,
        **({"image_size": IMAGE_SIZE, "patch_size": 10, "levels": LEVELS if table.levels else ()} | options),
    )
    schedule = PatchSchedule(ScheduleConfig(kind="linear", keep_rate=[0.2, 1.0]), 16, 12, 4, 24, 0)
    return TrainPlanner(table, data, SelectionConfig(rule="random"), schedule, 24, 7)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.lists(st.integers(1, 600), min_size=1, max_size=4, unique=True),
    st.integers(1, 300),
    st.data(),
)
def test_the_smallest_level_is_taken_in_which_the_crop_has_the_pixels(
    height: int, width: int, pixels: list[int], image_size: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    sizes = [shrunk(height, width, one) for one in sorted(pixels, reverse=True)]
    expected = 0
    for level, (level_height, level_width) in enumerate(sizes, 1):
        crop_height = (bottom - top) * Fraction(level_height, height)
        crop_width = (right - left) * Fraction(level_width, width)
        if crop_height >= image_size and crop_width >= image_size:
            expected = level
    crop = np.array([[top, left, bottom, right]], dtype=np.float32)
    found = smallest_levels(crop, np.array([[height, width]]), np.array(sizes)[:, None, :], image_size)
    assert found.tolist() == [expected]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 2000), st.data())
def test_a_crop_keeps_its_share_of_the_image_and_stays_inside(
    height: int, width: int, level_height: int, level_width: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    crop = np.array([[top, left, bottom, right]], dtype=np.float32)
    [found] = scaled_crops(crop, np.array([[height, width]]), np.array([[level_height, level_width]])).tolist()
    scales = (Fraction(level_height, height), Fraction(level_width, width)) * 2
    expected = [edge * scale for edge, scale in zip((top, left, bottom, right), scales, strict=True)]
    assert found == [float(np.float32(float(edge))) for edge in expected]
    assert 0 <= found[0] < found[2] <= level_height
    assert 0 <= found[1] < found[3] <= level_width
    if (bottom, right) == (height, width):
        assert found[2:] == [level_height, level_width]


def test_what_is_planned_beside_the_level_is_the_same_as_without_levels() -> None:
    table = table_with_levels()
    with_levels, without = planner(table), planner(replace(table, levels=()))
    taken = set()
    for step in range(12):
        plan, expected = with_levels.plan(step), without.plan(step)
        assert plan.levels is not None
        taken |= set(plan.levels.tolist())
        assert expected.levels is expected.level_crops is None
        for name in ("sample_ids", "labels", "crops", "flips", "noise", "counted"):
            np.testing.assert_array_equal(getattr(plan, name), getattr(expected, name))
    assert taken == {0, 1, 2}


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_rank_plans_the_levels_that_one_rank_alone_would_plan(world_size: int) -> None:
    one = planner(table_with_levels())
    for step in (5, 0, 11):
        whole = one.plan(step)
        parts = [one.plan(step, rank, world_size) for rank in range(world_size)]
        for name in ("levels", "level_crops"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, name))
            np.testing.assert_array_equal(getattr(whole.rows(3, 9), name), getattr(whole, name)[3:9])


def test_a_substitute_gets_a_level_of_its_own() -> None:
    one = planner(table_with_levels())
    plan = one.plan(3)
    ids = plan.sample_ids.copy()
    ids[0] = (ids[0] + 1) % 100
    replaced = one.with_samples(plan, ids)
    assert replaced.levels is not None
    assert replaced.level_crops is not None
    assert plan.levels is not None
    assert plan.level_crops is not None
    np.testing.assert_array_equal(replaced.levels[1:], plan.levels[1:])
    np.testing.assert_array_equal(replaced.level_crops[1:], plan.level_crops[1:])
    every = (one.samples, *one.samples.levels)
    sizes = [np.array([[table.height[ids[0]], table.width[ids[0]]]]) for table in every]
    level = int(smallest_levels(replaced.crops[:1], sizes[0], np.stack(sizes[1:]), IMAGE_SIZE)[0])
    assert replaced.levels[0] == level
    np.testing.assert_array_equal(replaced.level_crops[:1], scaled_crops(replaced.crops[:1], sizes[0], sizes[level]))


@pytest.mark.parametrize("levels", [(128, 256), (128, 128), (0,)])
def test_levels_are_named_from_the_largest_to_the_smallest(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="levels"):
        DataConfig(train="a", val="a", num_classes=10, levels=levels)


def test_levels_serve_resized_crops_alone() -> None:
    with pytest.raises(ValueError, match=r"augment\.crop is pad; leave levels out"):
        DataConfig(train="a", val="a", num_classes=10, levels=(128,), augment=AugmentConfig(crop="pad"))
