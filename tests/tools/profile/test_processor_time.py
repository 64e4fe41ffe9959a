"""What processor time is counted of a loader."""

import time
from pathlib import Path

import pytest
from pixels import train_planner

from benchmarks.shared.bad_images import write_photo_shards
from pipeline.config import DataConfig
from pipeline.graph.settings import GraphSettings
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from pipeline.train_plans import TrainPlans
from tools.profile.loader import time_loader, time_loader_until

BATCH_SIZE = 8


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    return write_photo_shards(tmp_path)


def planner_of(index: ShardIndex) -> TrainPlanner:
    data = DataConfig(train=index.folder, val=index.folder, num_classes=48, image_size=32, patch_size=16)
    return train_planner(index, data, global_batch_size=BATCH_SIZE)


@pytest.mark.parametrize("num_warmup", [0, 5])
def test_a_loader_is_timed_over_the_batches_after_the_warm_up(index: ShardIndex, num_warmup: int) -> None:
    planner = planner_of(index)
    plans = TrainPlans(planner, first_step=0, stop_step=20, micro_batch_size=BATCH_SIZE)
    with PatchLoader(planner, plans, batch_size=BATCH_SIZE, num_threads=1) as loader:
        found = time_loader(loader, iter(loader), num_warmup, 6)
        assert found.last.plan.step == num_warmup + 5
    assert found.elapsed_s > 0
    assert found.cpu_ms_per_image > 0
    assert found.thread_us_per_image > 0


def test_a_loader_that_has_everything_ready_is_timed_by_all_that_it_has_made(index: ShardIndex) -> None:
    planner = planner_of(index)
    plans = TrainPlans(planner, first_step=0, stop_step=3, micro_batch_size=BATCH_SIZE)
    with PatchLoader(planner, plans, batch_size=BATCH_SIZE, num_threads=1) as loader:
        while loader.work.num_images < 3 * BATCH_SIZE:
            time.sleep(0.01)
        found = time_loader(loader, iter(loader), 1, 2)
        assert found.thread_us_per_image == pytest.approx(1e6 * loader.work.thread_cpu_s / (3 * BATCH_SIZE))


def test_a_loader_that_ends_early_is_timed_by_the_clock_that_is_asked_for(index: ShardIndex) -> None:
    planner = planner_of(index)
    settings = GraphSettings(planner.data, SelectionConfig(), "resized", BATCH_SIZE, num_threads=1)
    ticks = iter((100.0, 107.0))
    plans = (planner.plan(step) for step in range(100))
    taken = time_loader_until(
        "decode", plans, 2, index=index, settings=settings, substitutes=None, clock=lambda: next(ticks)
    )
    assert taken == 7.0
