import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pixels import full_images, train_planner

from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig, select
from pipeline.selection.magnitude import EmbeddingSnapshot, MagnitudeScorer
from pipeline.selection.snapshots import SnapshotBoard, SnapshotMoments, fixed_board
from pipeline.shards.index import ShardIndex, open_index
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(60)  # a loader that hangs is a failure

MAGNITUDE = SelectionConfig(rule="magnitude")
NUM_STEPS = 12
MEAN, STD = (0.3, 0.3, 0.3), (0.3, 0.3, 0.3)


def schedule(total_steps: int, steps_per_epoch: int, kind: str = "cyclic") -> PatchSchedule:
    rates: dict = {"constant": 0.4, "steps": [(0, 0.2), (0.4, 0.6)], "choice": [(0.2, 1), (0.6, 1)]}
    config = ScheduleConfig(kind=kind, keep_rate=rates.get(kind, [0.2, 1.0]))
    return PatchSchedule(config, 49, total_steps, steps_per_epoch, 8)


@given(
    st.sampled_from(["constant", "linear", "cyclic", "steps", "choice"]),
    st.integers(1, 60),
    st.integers(1, 25),
    st.data(),
)
def test_a_stage_moment_is_the_last_step_up_to_here_at_which_the_stage_changed(
    kind: str, total_steps: int, steps_per_epoch: int, data: st.DataObject
) -> None:
    laid = schedule(total_steps, steps_per_epoch, kind)
    moments = SnapshotMoments("stage", laid)
    for step in data.draw(st.lists(st.integers(0, total_steps - 1), min_size=1, max_size=12)):
        wanted = step
        while wanted > 0 and laid.stage(wanted - 1).num_kept == laid.stage(step).num_kept:
            wanted -= 1
        assert moments.of(step) == wanted


def test_an_epoch_moment_is_the_first_step_of_its_epoch_where_some_are_shorter() -> None:
    config = ScheduleConfig.model_validate({"examples": {"rule": "random", "keep": 0.5}})
    laid = PatchSchedule(config, 49, 3 * 5 + 10, 10, 8)
    moments = SnapshotMoments("epoch", laid)
    assert [moments.of(step) for step in range(25)] == [0] * 5 + [5] * 5 + [10] * 5 + [15] * 10


def test_stage_moments_of_a_long_run_are_found_wherever_one_begins_to_look() -> None:
    laid = schedule(50_000, 10, "linear")
    in_order, changes = SnapshotMoments("stage", laid), []
    for step in range(0, 50_000, 7):
        moment = in_order.of(step)
        changes += [moment] if moment not in changes else []
        assert SnapshotMoments("stage", laid).of(step) == moment
    assert len(changes) == 5


def test_epoch_and_start_moments_are_what_they_say() -> None:
    laid = schedule(40, 10)
    assert [SnapshotMoments("epoch", laid).of(step) for step in (0, 9, 10, 39)] == [0, 0, 10, 30]
    assert {SnapshotMoments("start", laid).of(step) for step in range(40)} == {0}


# The loader under snapshots


def snapshot(step: int) -> EmbeddingSnapshot:
    """Another embedding for every step, different enough that it keeps other patches."""
    rng = np.random.default_rng(step)
    kernel, bias, positions = rng.standard_normal((8, 48)), rng.standard_normal(8), rng.standard_normal((49, 8))
    return EmbeddingSnapshot.of(step, kernel, bias, 3 * positions, mean=MEAN, std=STD)


@pytest.fixture(scope="module")
def garments(garment_shards: Path) -> ShardIndex:
    return open_index(garment_shards, "train")


@pytest.fixture(scope="module")
def data(garments: ShardIndex) -> DataConfig:
    return DataConfig(
        train=garments.folder,
        val=garments.folder,
        num_classes=10,
        image_size=28,
        patch_size=4,
        augment=AugmentConfig(crop="pad"),
        prefetch_batches=3,
    )


@pytest.fixture(scope="module")
def planner(garments: ShardIndex, data: DataConfig) -> TrainPlanner:
    rising = ScheduleConfig(kind="linear", keep_rate=[0.2, 1.0])
    return train_planner(
        garments, data, selection=MAGNITUDE, schedule=rising, global_batch_size=8, total_steps=NUM_STEPS
    )


def load(
    index: ShardIndex, data: DataConfig, plans: Iterator[StepPlan], board: SnapshotBoard, batch_size: int = 8
) -> PatchLoader:
    planner = train_planner(index, data, selection=MAGNITUDE)
    return PatchLoader(planner, plans, batch_size=batch_size, num_threads=1, snapshots=board)


def expected_ids(index: ShardIndex, plan: StepPlan, data: DataConfig, of_step: int) -> np.ndarray:
    """By a snapshot, from the whole images, which the graph shows under another rule just as well."""
    images = full_images(index, plan, data, SelectionConfig(rule="contrast"))
    scores = MagnitudeScorer(snapshot(of_step), MAGNITUDE, data.grid_size, 0).scores(list(images))
    return select(scores, plan.noise, plan.stage.num_kept, data.grid_size, MAGNITUDE)


@pytest.mark.parametrize("micro_batch_size", [8, 4])
def test_each_step_is_selected_by_the_snapshot_of_its_moment_however_far_the_loader_reads_ahead(
    garments: ShardIndex, data: DataConfig, planner: TrainPlanner, micro_batch_size: int
) -> None:
    def moment_of(step: int) -> int:
        return step - step % 4

    board, seen = SnapshotBoard(moment_of), []
    plans = TrainPlans(planner, first_step=2, stop_step=NUM_STEPS, micro_batch_size=micro_batch_size)
    board.publish(snapshot(0))  # as a resumed run brings it along
    with load(garments, data, plans, board, micro_batch_size) as loader:
        for step in range(2, NUM_STEPS):
            if moment_of(step) == step:
                board.publish(snapshot(step))
            for _ in range(8 // micro_batch_size):
                seen.append(next(loader))
        assert next(loader, None) is None
    assert [batch.plan.step for batch in seen] == [s for s in range(2, NUM_STEPS) for _ in range(8 // micro_batch_size)]
    for batch in seen:
        wanted = expected_ids(garments, batch.plan, data, moment_of(batch.plan.step))
        np.testing.assert_array_equal(batch.ids_keep.numpy(), wanted)


def test_a_loader_waits_for_a_snapshot_and_gives_the_batches_before_it_meanwhile(
    garments: ShardIndex, data: DataConfig, planner: TrainPlanner
) -> None:
    board = SnapshotBoard(lambda step: 0 if step < 3 else 3)
    board.publish(snapshot(0))
    received: list[Batch] = []
    with load(garments, data, TrainPlans(planner, first_step=0, stop_step=6, micro_batch_size=8), board) as loader:
        received += [next(loader) for _ in range(3)]
        late = threading.Timer(0.3, lambda: board.publish(snapshot(3)))
        late.start()
        received += [next(loader)]
        assert loader.wait_s >= 0.2
    assert [batch.plan.step for batch in received] == [0, 1, 2, 3]


def test_a_loader_that_waits_for_a_snapshot_can_be_closed(
    garments: ShardIndex, data: DataConfig, planner: TrainPlanner
) -> None:
    plans = TrainPlans(planner, first_step=0, stop_step=6, micro_batch_size=8)
    loader = load(garments, data, plans, SnapshotBoard(lambda _: 0))
    loader.close()
    assert not loader._thread.is_alive()


def test_a_snapshot_that_is_gone_is_an_error_and_not_a_wait(
    garments: ShardIndex, data: DataConfig, planner: TrainPlanner
) -> None:
    board = SnapshotBoard(lambda _: 0)
    board.publish(snapshot(5))
    plans = TrainPlans(planner, first_step=0, stop_step=6, micro_batch_size=8)
    with load(garments, data, plans, board) as loader, pytest.raises(RuntimeError, match="step 0 is gone"):
        next(loader)


def test_validation_sees_one_snapshot_throughout(garments: ShardIndex, data: DataConfig, planner: TrainPlanner) -> None:
    plans = TrainPlans(planner, first_step=0, stop_step=4, micro_batch_size=8)
    with load(garments, data, plans, fixed_board(snapshot(7))) as loader:
        for batch in loader:
            np.testing.assert_array_equal(batch.ids_keep.numpy(), expected_ids(garments, batch.plan, data, 7))
