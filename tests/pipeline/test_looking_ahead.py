"""What is fetched ahead follows from the plan alone."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import samples

from pipeline.config import DataConfig
from pipeline.looking_ahead import LookAhead, bytes_needed, check_cache_fits
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig

SHARD, BATCH = 16, 8


class Keeper:
    """In place of the open shards: remembers what it was told to have."""

    def __init__(self, num_shards: int, max_bytes: int | None) -> None:
        self.remote = SimpleNamespace(sizes=[1] * num_shards, settings=SimpleNamespace(max_bytes=max_bytes))
        self.wanted: list[int] = []

    def want(self, numbers: list[int]) -> None:
        self.wanted = list(numbers)


def planner_of(num_shards: int, **data: Any) -> TrainPlanner:
    values = {"train": "a", "val": "a", "num_classes": 10, "image_size": 32, "patch_size": 8, "shuffle": "window"}
    per_epoch = num_shards * SHARD // BATCH
    schedule = PatchSchedule(ScheduleConfig(), 16, 3 * per_epoch, per_epoch, BATCH, 0, 32, 8)
    config = DataConfig(**values | data)
    return TrainPlanner(samples(num_shards * SHARD, SHARD), config, SelectionConfig(), schedule, BATCH, 0)


def looking(planner: TrainPlanner, max_bytes: int | None) -> tuple[LookAhead, Keeper, np.ndarray]:
    num_shards = len(planner.samples.shard_sizes)
    shard_of = np.repeat(np.arange(num_shards), SHARD)
    keeper = Keeper(num_shards, max_bytes)
    index: Any = SimpleNamespace(shard=shard_of, folders=[keeper])
    return LookAhead(planner, index, keeper, 1), keeper, shard_of  # type: ignore[arg-type]


@given(
    num_shards=st.integers(6, 40), window=st.integers(1, 3), echo=st.sampled_from([1, 2]), ranks=st.sampled_from([1, 2])
)
@settings(max_examples=30, deadline=None)
def test_a_step_finds_its_shards_wanted_and_each_comes_once_an_epoch(
    num_shards: int, window: int, echo: int, ranks: int
) -> None:
    planner = planner_of(num_shards, window_shards=window, echo=echo)
    room = 2 * window + 1
    ahead, keeper, shard_of = looking(planner, room)
    fetched, held = [], set[int]()
    for step in range(planner.schedule.total_steps):
        ahead.go_to(step)
        for rank in range(ranks):
            assert set(shard_of[planner.plan(step, rank, ranks).sample_ids]) <= set(keeper.wanted)
        assert len(keeper.wanted) <= room + window
        fetched += [shard for shard in keeper.wanted if shard not in held]
        held = set(keeper.wanted)
    if echo == 1:
        assert max(np.bincount(fetched)) <= 3  # epochs


def test_the_next_shards_are_wanted_in_the_order_of_their_use() -> None:
    planner = planner_of(30, window_shards=1)
    ahead, keeper, shard_of = looking(planner, 5)
    ahead.go_to(0)
    used = [shard_of[planner.plan(step).sample_ids] for step in range(12)]
    assert keeper.wanted == list(dict.fromkeys(np.concatenate(used).tolist()))[:5]


def test_a_loader_that_goes_back_wants_what_it_reads_again() -> None:
    planner = planner_of(30, window_shards=1)
    ahead, keeper, _ = looking(planner, 5)
    ahead.go_to(0)
    first = list(keeper.wanted)
    for step in range(1, 40):
        ahead.go_to(step)
    assert keeper.wanted != first
    ahead.go_to(0)
    assert keeper.wanted == first


def test_nothing_is_wanted_past_the_run_and_a_validation_goes_from_shard_to_shard() -> None:
    planner = planner_of(4, window_shards=1)
    ahead, keeper, _ = looking(planner, None)
    ahead.go_to(planner.schedule.total_steps - 1)
    assert len(keeper.wanted) == 1
    validation = ValidationPlanner(samples(40, SHARD), planner.data, SelectionConfig(), 1.0, 8, 0)
    assert [validation.ids_ahead(batch, 2).tolist() for batch in range(2)] == [list(range(16)), list(range(16, 32))]
    assert validation.ids_ahead(3, 2) is None


def of_sizes(*sizes: int) -> Any:
    """An index in a store, of one folder."""
    return mixed_of(list(sizes))


def mixed_of(*folders: list[int] | None) -> Any:
    """An index of several folders, None for one on a disk."""
    remotes = [None if sizes is None else SimpleNamespace(sizes=sizes) for sizes in folders]
    return SimpleNamespace(folders=[SimpleNamespace(remote=remote) for remote in remotes])


def test_a_cache_must_hold_two_windows_or_all_that_is_shuffled_at_once() -> None:
    values = {"train": "s3://b/x", "val": "s3://b/x", "num_classes": 2, "cache_folder": "/tmp/c", "window_shards": 1}
    window = DataConfig(**values, shuffle="window", cache_max_bytes=10)
    assert bytes_needed([1, 5, 2, 4], window, training=True) == 11
    assert bytes_needed([1, 5, 2, 4], window, training=False) == 9
    check_cache_fits(window, of_sizes(1, 2, 1, 2), {"data.val": of_sizes(1, 1)})
    with pytest.raises(ValueError, match=r"10, but 20 are needed.*11 for data\.train, 9 for data\.val.*window_shards"):
        check_cache_fits(window, of_sizes(1, 5, 2, 4), {"data.val": of_sizes(4, 5)})
    wide = DataConfig(**values | {"window_shards": 200}, shuffle="window")
    with pytest.raises(ValueError, match="at most 128 are shuffled together"):
        check_cache_fits(wide, of_sizes(1), {"data.val": of_sizes(1)})
    whole = DataConfig(**values, shuffle="global", cache_max_bytes=10)
    with pytest.raises(ValueError, match=r"data\.shuffle to window"):
        check_cache_fits(whole, of_sizes(1, 5, 2, 4), {"data.val": mixed_of(None)})
    check_cache_fits(whole, of_sizes(1, 5, 2), {"data.val": mixed_of(None)})


def test_of_several_sources_each_in_a_store_has_its_windows_and_one_validation_set_is_read_at_a_time() -> None:
    values = {"train": "s3://b/x", "val": "s3://b/x", "num_classes": 2, "cache_folder": "/tmp/c", "window_shards": 1}
    window = DataConfig(**values, shuffle="window", cache_max_bytes=26)
    train, vals = (
        mixed_of([1, 5, 2, 4], None, [3, 3, 3, 3]),
        {"data.val.a": of_sizes(1, 1), "data.val.b": of_sizes(3, 3)},
    )
    check_cache_fits(window, train, vals)
    with pytest.raises(ValueError, match=r"25, but 26 are needed.*20 for data\.train, 6 for data\.val\.b\)"):
        check_cache_fits(window.model_copy(update={"cache_max_bytes": 25}), train, vals)
    with pytest.raises(ValueError, match="at most 64 of each of 2 sources are shuffled together"):
        check_cache_fits(window.model_copy(update={"window_shards": 65}), train, vals)
