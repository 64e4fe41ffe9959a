"""Plans that have to wait for what training the steps before them comes to, and a loader that waits with them."""

import threading
from pathlib import Path

import numpy as np
import pytest
from pixels import train_planner

from pipeline.config import DataConfig
from pipeline.loader import PatchLoader
from pipeline.plan.examples import SampleScores
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.snapshots import ScoreBoard
from pipeline.shards.index import open_index
from pipeline.train_plans import NotYetError, TrainPlans

SHORT_STEPS = 6  # of 12, as the garments are 96 in batches of 8; seven short epochs and a full one
FIRST_FULL, TOTAL_STEPS = 7 * SHORT_STEPS, 7 * SHORT_STEPS + 12


@pytest.fixture(scope="module")
def planner(garment_shards: Path) -> TrainPlanner:
    garments = open_index(garment_shards, "train")
    data = DataConfig(train=garments.folder, val=garments.folder, num_classes=10, image_size=28, patch_size=4)
    schedule = ScheduleConfig.model_validate({"examples": {"rule": "loss", "keep": 0.5}})
    return train_planner(garments, data, schedule=schedule, global_batch_size=8, total_steps=TOTAL_STEPS)


def scores_at(step: int) -> SampleScores:
    return SampleScores(step, np.random.default_rng(step).uniform(size=96).astype(np.float32))


def board_of(planner: TrainPlanner) -> ScoreBoard:
    return ScoreBoard(planner.schedule.epochs.first_step)


def test_plans_pause_at_an_epoch_whose_scores_are_not_there_and_go_on_with_it(planner: TrainPlanner) -> None:
    board = board_of(planner)
    plans = TrainPlans(planner, first_step=0, stop_step=TOTAL_STEPS, micro_batch_size=4, scores=board)
    assert [next(plans).step for _ in range(2 * SHORT_STEPS)] == [step for step in range(SHORT_STEPS) for _ in (0, 1)]
    for _ in (0, 1):
        with pytest.raises(NotYetError, match="the scores of step 6 are not there yet"):
            next(plans)
    board.publish(scores_at(SHORT_STEPS))
    np.testing.assert_array_equal(
        next(plans).sample_ids, planner.plan(SHORT_STEPS, scores=scores_at(SHORT_STEPS)).sample_ids[:4]
    )


def test_full_epochs_wait_for_nothing(planner: TrainPlanner) -> None:
    plans = TrainPlans(
        planner, first_step=FIRST_FULL, stop_step=TOTAL_STEPS, micro_batch_size=8, scores=board_of(planner)
    )
    assert len(list(plans)) == TOTAL_STEPS - FIRST_FULL


def test_a_loader_gives_all_batches_before_the_scores_and_then_those_that_follow_from_them(
    planner: TrainPlanner,
) -> None:
    board, seen = board_of(planner), []
    plans = TrainPlans(planner, first_step=0, stop_step=3 * SHORT_STEPS, micro_batch_size=8, scores=board)
    with PatchLoader(planner, plans, batch_size=8, num_threads=1) as loader:
        for step in range(3 * SHORT_STEPS):
            if step and step % SHORT_STEPS == 0:
                late = threading.Timer(0.05, board.publish, [scores_at(step)])
                late.start()
            seen.append(next(loader))
        assert next(loader, None) is None
    for step, batch in enumerate(seen):
        plan = planner.plan(step, scores=scores_at(step - step % SHORT_STEPS))
        assert batch.plan.step == step
        np.testing.assert_array_equal(batch.plan.sample_ids, plan.sample_ids)
        assert batch.weights is not None
        np.testing.assert_array_equal(batch.weights.numpy(), plan.weights)


def test_a_loader_that_waits_for_scores_can_be_closed(planner: TrainPlanner) -> None:
    plans = TrainPlans(
        planner, first_step=SHORT_STEPS, stop_step=TOTAL_STEPS, micro_batch_size=8, scores=board_of(planner)
    )
    loader = PatchLoader(planner, plans, batch_size=8, num_threads=1)
    loader.close()
    assert not loader._thread.is_alive()


def test_scores_that_a_run_does_not_have_end_a_loader_with_what_is_missing(planner: TrainPlanner) -> None:
    plans = TrainPlans(planner, first_step=SHORT_STEPS, stop_step=TOTAL_STEPS, micro_batch_size=8)
    with (
        PatchLoader(planner, plans, batch_size=8, num_threads=1) as loader,
        pytest.raises(ValueError, match="the scores of all samples at step 6, and none are there"),
    ):
        next(loader)
