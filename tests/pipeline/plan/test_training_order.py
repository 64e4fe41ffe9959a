"""Training on several sources: what each step shows, on any number of ranks and from any step on."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_tables import SampleTable, samples

from pipeline.config import DataConfig
from pipeline.plan.order import SampleOrder
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.plan.training_order import MixedOrder, order_of
from pipeline.selection.config import SelectionConfig


@dataclass(frozen=True)
class Table:
    """A source."""

    name: str
    first_id: int
    index: SampleTable


@dataclass(frozen=True)
class Tables:
    """Several sources as a plan sees them: ids one behind the other."""

    sources: tuple[Table, ...]
    levels: tuple[()] = ()

    def _joined(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(source.index, name) for source in self.sources])

    @property
    def num_samples(self) -> int:
        return sum(source.index.num_samples for source in self.sources)

    shard_sizes = property(lambda self: self._joined("shard_sizes"))
    label = property(lambda self: self._joined("label"))
    width = property(lambda self: self._joined("width"))
    height = property(lambda self: self._joined("height"))

    def sample_ids(self, positions: np.ndarray) -> np.ndarray:
        return positions


def tables(*sizes: int) -> Tables:
    firsts = np.cumsum([0, *sizes]).tolist()
    each = [
        Table(f"source-{i}", first, samples(size)) for i, (first, size) in enumerate(zip(firsts, sizes, strict=False))
    ]
    return Tables(tuple(each))


def data_config(way: str, values: list[float], **others: Any) -> DataConfig:
    train = [{"name": f"source-{i}", "folder": "a", way: value} for i, value in enumerate(values)]
    return DataConfig(train=train, val="a", num_classes=10, image_size=32, patch_size=8, **others)  # type: ignore[arg-type]


def planner(
    sizes: list[int], way: str, values: list[float], *, batch: int, num_epochs: int = 3, seed: int = 0, **data: Any
) -> TrainPlanner:
    known, config = tables(*sizes), data_config(way, values, **data)
    per_epoch = order_of(known, config, batch, seed).epoch_samples // batch
    schedule = PatchSchedule(ScheduleConfig(), 16, num_epochs * per_epoch, per_epoch, batch, seed)
    return TrainPlanner(known, config, SelectionConfig(rule="random"), schedule, batch, seed)  # type: ignore[arg-type]


def shown(made: TrainPlanner, step: int, world_size: int = 1) -> list[int]:
    return np.concatenate([made.plan(step, rank, world_size).sample_ids for rank in range(world_size)]).tolist()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(40, 90), min_size=1, max_size=4),
    batch=st.sampled_from([12, 24]),
    mix_per=st.sampled_from(["batch", "epoch"]),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_ranks_share_the_rows_and_any_step_can_be_asked_for_first(
    sizes: list[int], batch: int, mix_per: str, seed: int, data: st.DataObject
) -> None:
    weights = data.draw(
        st.lists(st.floats(0.1, 9).map(lambda x: round(x, 3)), min_size=len(sizes), max_size=len(sizes))
    )
    made = planner(sizes, "weight", weights, batch=batch, mix_per=mix_per, seed=seed)
    step = data.draw(st.integers(0, made.schedule.total_steps - 1))
    whole = shown(planner(sizes, "weight", weights, batch=batch, mix_per=mix_per, seed=seed), step)
    for before in range(step):
        made.plan(before)
    for world_size in (1, 2, 3, 4, 6):
        assert shown(made, step, world_size) == whole
    assert made.source_rows(step, step + 1) == {
        source.name: sum(source.first_id <= one < source.first_id + size for one in whole)
        for source, size in zip(made.samples.sources, sizes, strict=True)  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("mix_per", ["batch", "epoch"])
def test_a_source_is_passed_through_before_any_of_its_samples_comes_again(mix_per: str) -> None:
    made = planner([37, 90], "share", [0.6, 0.4], batch=10, num_epochs=4, mix_per=mix_per)
    counts, per_epoch = Counter(dict.fromkeys(range(37), 0)), made.steps_per_epoch
    for step in range(made.schedule.total_steps):
        counts.update(one for one in shown(made, step) if one < 37)
        if mix_per == "batch" or (step + 1) % per_epoch == 0:
            assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(counts.values()) == 4 * 72  # of 12 steps of 10 rows an epoch


def test_an_epoch_of_repeats_passes_each_source_so_often() -> None:
    made = planner([24, 48], "repeat", [3, 0.5], batch=12, mix_per="epoch", num_epochs=2)
    assert made.steps_per_epoch == 8
    epochs = [Counter(one for step in range(8) for one in shown(made, 8 * epoch + step)) for epoch in range(2)]
    assert all(counts[one] == 3 for counts in epochs for one in range(24))
    both = epochs[0] + epochs[1]
    assert [both[one] for one in range(24, 72)] == [1] * 48


def test_under_shares_an_epoch_is_as_many_rows_as_there_are_samples() -> None:
    assert planner([30, 70], "share", [0.9, 0.1], batch=10).steps_per_epoch == 10
    assert planner([30, 70], "weight", [9, 1], batch=10).steps_per_epoch == 10
    assert planner([30, 70], "repeat", [2, 1], batch=10).steps_per_epoch == 13


def test_each_source_has_an_order_of_its_own_by_its_name() -> None:
    made = planner([60, 60], "repeat", [1, 1], batch=12)
    seen = [one for step in range(10) for one in shown(made, step)]
    assert sorted(seen) == list(range(120))
    by_source = [[one % 60 for one in seen if one // 60 == number] for number in range(2)]
    assert by_source[0] != by_source[1]


def test_a_single_source_has_the_samples_of_its_folder_once_each_epoch() -> None:
    made = planner([48], "share", [1.0], batch=12)
    for epoch in range(3):
        assert sorted(one for step in range(4) for one in shown(made, 4 * epoch + step)) == list(range(48))


def test_windows_are_kept_within_each_source() -> None:
    made = planner([64, 160], "share", [0.25, 0.75], batch=8, shuffle="window", window_shards=1)
    drawn = [[one - 64 for one in shown(made, step) if one >= 64] for step in range(3)]
    assert len({one // 16 for step in drawn for one in step}) <= 2  # 18 rows out of shards of 16, one after the other


def test_a_substitute_is_of_the_same_source() -> None:
    order = order_of(tables(20, 50), data_config("share", [0.5, 0.5]), 10, seed=3)
    assert isinstance(order, MixedOrder)
    found = {sample: [order.substitute(sample, attempt) for attempt in range(9)] for sample in (4, 19, 20, 69)}
    for sample, substitutes in found.items():
        assert all((one < 20) == (sample < 20) for one in substitutes)
        assert len(set(substitutes)) > 3


def test_a_source_too_small_for_its_rows_of_a_batch_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"data\.train\.source-1 holds 3 samples, but has 5 rows in a global batch"):
        planner([90, 3], "share", [0.5, 0.5], batch=10)
    planner([90, 3], "share", [0.5, 0.5], batch=10, mix_per="epoch")


def test_one_folder_keeps_the_order_that_it_always_had() -> None:
    known = samples(100)
    order = order_of(known, DataConfig(train="a", val="a", num_classes=10), 24, seed=7)  # type: ignore[arg-type]
    rows = np.arange(24)
    np.testing.assert_array_equal(order.ids(2, 3, rows), SampleOrder(known.shard_sizes, 7).sample_ids(2, 72 + rows))
