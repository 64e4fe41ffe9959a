"""What each step shows of a training set that has grown, beside runs over what it was and over what it is."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import SampleTable, samples

from pipeline.config import DataConfig
from pipeline.plan.order import SampleOrder
from pipeline.plan.rows import earlier_epochs
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.plan.training_order import PlainOrder
from pipeline.selection.config import SelectionConfig

Shuffle = Literal["global", "window"]
SEED = 11


def table(sizes: list[int]) -> SampleTable:
    return replace(samples(sum(sizes)), shard_sizes=np.array(sizes))


def planner(sizes: list[int], batch: int, shuffle: Shuffle, growth: list[tuple[int, int]]) -> TrainPlanner:
    """Of a run over shards of these sizes. growth: (before this epoch, so many of them)."""
    grown = [{"before_epoch": at, "shards": num, "samples": sum(sizes[:num])} for at, num in growth]
    values: dict[str, Any] = {"train": "a", "val": "a", "num_classes": 10, "image_size": 32, "patch_size": 8}
    data = DataConfig(**values, shuffle=shuffle, window_shards=2, growth=grown)
    earlier = earlier_epochs(data.growth, batch)
    schedule = PatchSchedule(ScheduleConfig(), 16, 10_000, sum(sizes) // batch, batch, SEED, earlier=earlier)
    return TrainPlanner(table(sizes), data, SelectionConfig(), schedule, batch, SEED)


def shown(made: TrainPlanner, step: int, world_size: int = 1) -> list[int]:
    return [int(i) for rank in range(world_size) for i in made.plan(step, rank, world_size).sample_ids]


@dataclass(frozen=True)
class Case:
    sizes: list[int]
    batch: int
    growth: list[tuple[int, int]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Sets of up to eight shards that have grown once or twice, after some epochs each time."""
    batch = draw(st.sampled_from([4, 8]))
    sizes = draw(st.lists(st.integers(1, 13), min_size=3, max_size=8).map(lambda sizes: [batch, *sizes]))
    nums = draw(st.lists(st.integers(1, len(sizes) - 1), min_size=1, max_size=2, unique=True).map(sorted))
    epochs = draw(st.lists(st.integers(1, 4), min_size=len(nums), max_size=len(nums), unique=True).map(sorted))
    return Case(sizes, batch, list(zip(epochs, nums, strict=True)))


@settings(deadline=None, max_examples=60)
@given(case=cases(), shuffle=st.sampled_from(["global", "window"]))
def test_epochs_before_it_grew_see_what_was_there_and_those_after_see_all(case: Case, shuffle: Shuffle) -> None:
    made = planner(case.sizes, case.batch, shuffle, case.growth)
    step = 0
    for epoch in range(case.growth[-1][0] + 2):
        num = next((num for at, num in case.growth if epoch < at), len(case.sizes))
        there = case.sizes[:num]
        order = SampleOrder(np.array(there), SEED, shuffle, 2)
        num_steps = sum(there) // case.batch
        expected = order.sample_ids(epoch, np.arange(num_steps * case.batch)).tolist()
        found = [one for at in range(step, step + num_steps) for one in shown(made, at)]
        assert found == expected
        assert len(set(found)) == len(found)
        assert max(found) < sum(there)
        assert {made.plan(at).epoch for at in range(step, step + num_steps)} == {epoch}
        step += num_steps
    if sum(case.sizes) % case.batch == 0:
        assert sorted(found) == list(range(sum(case.sizes)))


@settings(deadline=None, max_examples=25)
@given(case=cases(), shuffle=st.sampled_from(["global", "window"]), data=st.data())
def test_any_step_may_be_asked_for_by_any_number_of_ranks(case: Case, shuffle: Shuffle, data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=6))
    made = planner(case.sizes, case.batch, shuffle, case.growth)
    for step in steps:
        whole = shown(planner(case.sizes, case.batch, shuffle, case.growth), step)
        for world_size in (1, 2, 4):
            assert shown(made, step, world_size) == whole
        assert np.array_equal(made.ids_ahead(step), whole)


def test_up_to_its_growth_a_run_sees_what_a_run_over_the_smaller_set_sees() -> None:
    old, grown = planner([16, 16], 8, "global", []), planner([16, 16, 8, 9], 8, "global", [(3, 2)])
    assert [shown(old, step) for step in range(12)] == [shown(grown, step) for step in range(12)]
    assert {one for step in range(12, 18) for one in shown(grown, step)} > set(range(32, 40))


def test_what_stands_in_for_a_sample_stays_the_same_when_others_come() -> None:
    old, grown = planner([16, 16], 8, "global", []), planner([16, 16, 8, 9], 8, "global", [(3, 2)])
    for sample in range(32):
        drawn = [old.substitute(sample, attempt) for attempt in range(5)]
        assert [grown.substitute(sample, attempt) for attempt in range(5)] == drawn
    assert max(grown.substitute(sample, attempt) for sample in range(32, 49) for attempt in range(5)) >= 32


@pytest.mark.parametrize(("shards", "num_samples"), [(2, 31), (1, 32), (4, 49), (5, 49)])
def test_a_set_that_has_not_grown_so_is_refused(shards: int, num_samples: int) -> None:
    growth = [{"before_epoch": 3, "shards": shards, "samples": num_samples}]
    data = DataConfig(train="a", val="a", num_classes=10, growth=growth)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"had {shards} shards of {num_samples} samples before epoch 3; now it has 4"):
        PlainOrder(table([16, 16, 8, 9]), data, 8, 0)
