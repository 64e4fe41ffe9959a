"""A loader for a GPU, which decodes there or gets pinned patches, beside one for a CPU: the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loaded import content, garment_data
from pixels import train_planner

from pipeline.batch import Batch
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.magnitude import EmbeddingSnapshot
from pipeline.selection.snapshots import SnapshotBoard, fixed_board
from pipeline.shards.index import ShardIndex, open_index
from pipeline.train_plans import TrainPlans

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
    pytest.mark.timeout(300),  # a loader that hangs is a failure; the first one may compile its kernels
]

SELECTION = SelectionConfig(rule="contrast", temperature=0.05)
GPU = torch.device("cuda", 0)
A_SECOND = 2_000_000_000  # of a GPU's clock, or more
# Where images are decoded and patches made: what crosses is pinned patches, or images and plans.
both_routes = pytest.mark.parametrize("route", ["cpu", "gpu"])


@pytest.fixture(scope="module")
def garments(garment_shards: Path) -> ShardIndex:
    return open_index(garment_shards, "train")


def planner_of(index: ShardIndex, schedule: ScheduleConfig, total_steps: int) -> TrainPlanner:
    data = garment_data(index.folder)
    return train_planner(
        index, data, selection=SELECTION, schedule=schedule, global_batch_size=8, total_steps=total_steps
    )


@pytest.fixture(scope="module")
def rising(garments: ShardIndex) -> TrainPlanner:
    return planner_of(garments, ScheduleConfig(kind="linear", keep_rate=[0.2, 1.0]), 10)


@pytest.fixture(scope="module")
def steady(garments: ShardIndex) -> TrainPlanner:
    """Of steps that all keep as many patches, so that after some of them nothing needs new memory."""
    return planner_of(garments, ScheduleConfig(kind="constant", keep_rate=0.4), 40)


def open_for(
    planner: TrainPlanner, stop_step: int, *, route: str | None = None, snapshots: SnapshotBoard | None = None
) -> PatchLoader:
    """A loader of the first steps, by a route for a GPU, or for a CPU."""
    data = garment_data(planner.data.train, device=route or "cpu", prefetch_batches=1)
    return PatchLoader(
        replace(planner, data=data),
        TrainPlans(planner, first_step=0, stop_step=stop_step, micro_batch_size=8),
        batch_size=8,
        num_threads=1,
        device_id=0 if route == "gpu" else None,
        device=None if route is None else GPU,
        snapshots=snapshots,
    )


def content_on_cpu(
    planner: TrainPlanner, stop_step: int, snapshots: SnapshotBoard | None = None
) -> list[tuple[int, int, bytes, bytes, bytes]]:
    with open_for(planner, stop_step, snapshots=snapshots) as loader:
        return content(list(loader))


def content_of_gpu(batches: list[Batch]) -> list[tuple[int, int, bytes, bytes, bytes]]:
    assert all(batch.patches.is_cuda for batch in batches)
    return content([batch.to(torch.device("cpu")) for batch in batches])


@both_routes
def test_a_loader_for_a_gpu_gives_what_a_cpu_gets(rising: TrainPlanner, route: str) -> None:
    for _ in range(2):
        with open_for(rising, 10, route=route) as loader:
            assert content_of_gpu(list(loader)) == content_on_cpu(rising, 10)


@both_routes
def test_a_busy_gpu_changes_no_byte_and_does_not_hold_the_loader_up(steady: TrainPlanner, route: str) -> None:
    expected = content_on_cpu(steady, 30)
    with open_for(steady, 30, route=route) as quiet:  # what a GPU loads at first use it waits for
        assert content_of_gpu(list(quiet)) == expected
    with open_for(steady, 40, route=route) as loader:
        batches = [next(loader).to(GPU) for _ in range(10)]
        torch.cuda._sleep(2 * A_SECOND)
        batches += [next(loader).to(GPU) for _ in range(20)]
        assert not torch.cuda.current_stream().query(), "somebody has waited for what the trainer had to do"
        assert content_of_gpu(batches) == expected


@both_routes
def test_what_the_loaders_own_stream_does_late_is_read_late(steady: TrainPlanner, route: str) -> None:
    """No pinned memory is filled again, and no image of DALI's let go of, before the stream has read it."""
    with open_for(steady, 30, route=route) as loader:
        batches = [next(loader).to(GPU) for _ in range(10)]
        with torch.cuda.stream(loader._finisher._crossing.stream):
            torch.cuda._sleep(A_SECOND)
        batches += [batch.to(GPU) for batch in loader]
        assert content_of_gpu(batches) == content_on_cpu(steady, 30)


@both_routes
@pytest.mark.parametrize("temperature", [0, 100])
def test_magnitude_keeps_the_same_patches_for_a_gpu_equal_ones_too(
    rising: TrainPlanner, route: str, temperature: float
) -> None:
    rng = np.random.default_rng(0)
    # Whole numbers are added without an error in any order.
    kernel, offsets = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((12, 48), (1, 12)))
    board = fixed_board(EmbeddingSnapshot(0, kernel, offsets, np.zeros(48, np.float32)))
    planner = replace(rising, selection=SelectionConfig(rule="magnitude", temperature=temperature))
    with open_for(planner, 10, route=route, snapshots=board) as loader:
        assert content_of_gpu(list(loader)) == content_on_cpu(planner, 10, board)
