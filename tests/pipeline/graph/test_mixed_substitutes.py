"""Bad samples where images are mixed in pairs: the substitute shows in its partner's row as well."""

import numpy as np
import pytest
from pixels import run_graph, train_planner

from benchmarks.shared.bad_images import LATER_DAMAGE, SOUND_OUTSIDE, overwrite, write_photo_shards
from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(120)

NUM_STEPS, BATCH = 3, 16  # one epoch of 48 images
BAD = (10, 17, 31)


def planner_of(index: ShardIndex) -> TrainPlanner:
    augment = AugmentConfig(mixup=0.8, cutmix=1.0, erase_probability=0.3)
    data = DataConfig(
        train=index.folder,
        val=index.folder,
        num_classes=100,
        image_size=32,
        patch_size=8,
        augment=augment,
        on_bad_sample="skip",
    )
    return train_planner(index, data, global_batch_size=BATCH, total_steps=NUM_STEPS)


def run(index: ShardIndex, micro_batch_size: int = BATCH, rank: int = 0, world_size: int = 1) -> list[Batch]:
    planner = planner_of(index)
    plans = TrainPlans(
        planner,
        first_step=0,
        stop_step=NUM_STEPS,
        micro_batch_size=micro_batch_size,
        rank=rank,
        world_size=world_size,
    )
    with PatchLoader(
        planner,
        plans,
        batch_size=micro_batch_size,
        num_threads=1,
    ) as loader:
        return list(loader)


def content(batches: list[Batch]) -> list[tuple]:
    rows = []
    for batch in batches:
        assert batch.mix_labels is not None
        values = (batch.patches, batch.labels, batch.mix_labels, batch.mix_weights)
        for row in range(batch.num_images):
            place = (batch.plan.step, batch.plan.first_row + row)
            rows.append((*place, *(value[row].numpy().tobytes() for value in values if value is not None)))
    return rows


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """The label of a sample is its id. Two bad ones fail in the decoder, one is seen from outside."""
    replaced = {10: SOUND_OUTSIDE["a truncated PNG"], 17: SOUND_OUTSIDE["a truncated PNG"]}
    index = write_photo_shards(tmp_path_factory.mktemp("damaged"), replaced)
    overwrite(index, 31, LATER_DAMAGE["garbage"])
    return index


@pytest.fixture(scope="module")
def batches(damaged: ShardIndex) -> list[Batch]:
    return run(damaged)


def test_the_partners_mix_label_is_the_substitutes(damaged: ShardIndex, batches: list[Batch]) -> None:
    planner, met = planner_of(damaged), []
    for step, batch in enumerate(batches):
        plan = planner.plan(step)
        assert plan.augment is not None
        assert batch.mix_labels is not None
        assert batch.mix_weights is not None
        np.testing.assert_array_equal(batch.mix_labels, batch.labels[np.arange(BATCH) ^ 1])
        np.testing.assert_array_equal(batch.mix_weights, plan.augment.mix_weights)
        for bad in batch.bad:
            met.append(bad.sample_id)
            assert batch.labels[bad.row] == batch.mix_labels[bad.row ^ 1] == bad.substitute_id
            assert plan.augment.mix_labels is not None
            assert plan.augment.mix_labels[bad.row ^ 1] == bad.sample_id
    assert sorted(met) == sorted(BAD)


def test_the_partners_pixels_hold_the_substitute(damaged: ShardIndex, batches: list[Batch]) -> None:
    planner = planner_of(damaged)
    for step, batch in enumerate(batches):
        ids = planner.plan(step).sample_ids.copy()
        for bad in batch.bad:
            ids[bad.row] = bad.substitute_id
        [(patches, ids_keep)] = run_graph(
            damaged, [planner.with_samples(planner.plan(step), ids)], planner.data, SelectionConfig()
        )
        np.testing.assert_array_equal(batch.patches, patches)
        np.testing.assert_array_equal(batch.ids_keep, ids_keep)


def test_the_number_of_ranks_and_the_micro_batches_change_nothing(damaged: ShardIndex, batches: list[Batch]) -> None:
    assert content(run(damaged, micro_batch_size=2)) == content(batches)
    parts = [content(run(damaged, 4, rank, 4)) for rank in range(4)]
    assert sorted(row for part in parts for row in part) == content(batches)
