"""The dropped patches, where a reconstruction is trained on them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pixels import full_images, train_planner

from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.on_device import gather_on_device
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.patches import ids_dropped, patchify
from pipeline.shards.index import ShardIndex, open_index
from pipeline.train_plans import TrainPlans

RANDOM = SelectionConfig(rule="random")
NUM_STEPS, GLOBAL_BATCH = 6, 8


@given(st.data())
def test_kept_and_dropped_ids_are_all_patches_once(data: st.DataObject) -> None:
    num_patches = data.draw(st.integers(1, 60))
    num_kept = data.draw(st.integers(0, num_patches))
    rows = [data.draw(st.permutations(range(num_patches))) for _ in range(3)]
    ids_keep = np.array([row[:num_kept] for row in rows], dtype=np.int32)
    dropped = ids_dropped(ids_keep, num_patches)
    assert dropped.shape == (3, num_patches - num_kept)
    assert dropped.dtype == np.int32
    assert dropped.tolist() == [sorted(row[num_kept:]) for row in rows]


@pytest.fixture(scope="module")
def garments(garment_shards: Path) -> ShardIndex:
    return open_index(garment_shards, "train")


@pytest.fixture(scope="module")
def data(garments: ShardIndex) -> DataConfig:
    folder = garments.folder
    augment = AugmentConfig(crop="pad")
    return DataConfig(train=folder, val=folder, num_classes=10, image_size=28, patch_size=4, augment=augment)


@pytest.fixture(scope="module")
def planner(garments: ShardIndex, data: DataConfig) -> TrainPlanner:
    rising = ScheduleConfig(kind="linear", keep_rate=[0.2, 0.6])
    return train_planner(
        garments, data, selection=RANDOM, schedule=rising, global_batch_size=GLOBAL_BATCH, total_steps=NUM_STEPS
    )


def batches_of(
    planner: TrainPlanner, index: ShardIndex, data: DataConfig, *, rank: int = 0, world_size: int = 1
) -> list[Batch]:
    rows = GLOBAL_BATCH // world_size
    plans = TrainPlans(
        planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=rows, rank=rank, world_size=world_size
    )
    with PatchLoader(replace(planner, data=data), plans, batch_size=rows, num_threads=1, targets=True) as loader:
        return list(loader)


@pytest.fixture(scope="module")
def batches(planner: TrainPlanner, garments: ShardIndex, data: DataConfig) -> list[Batch]:
    return batches_of(planner, garments, data)


def test_kept_and_target_patches_are_the_whole_image_each_patch_once(
    planner: TrainPlanner, garments: ShardIndex, data: DataConfig, batches: list[Batch]
) -> None:
    for step, batch in enumerate(batches):
        assert batch.target_patches is not None
        assert batch.ids_target is not None
        whole = patchify(full_images(garments, planner.plan(step), data), data.patch_size)
        assert batch.target_patches.dtype == torch.uint8
        assert batch.ids_target.dtype == torch.int32
        assert batch.ids_target.shape[1] == data.num_patches - batch.plan.stage.num_kept
        assert (batch.ids_target.diff(dim=1) > 0).all()
        ids = torch.cat([batch.ids_keep, batch.ids_target], dim=1).numpy()
        patches = torch.cat([batch.patches, batch.target_patches], dim=1).numpy()
        np.testing.assert_array_equal(np.sort(ids, axis=1), np.tile(np.arange(data.num_patches), (GLOBAL_BATCH, 1)))
        np.testing.assert_array_equal(patches, np.take_along_axis(whole, ids[..., None], axis=1))


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_targets_are_the_same_on_any_number_of_ranks(
    planner: TrainPlanner, garments: ShardIndex, data: DataConfig, batches: list[Batch], world_size: int
) -> None:
    parts = [batches_of(planner, garments, data, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, whole in enumerate(batches):
        for name in ("patches", "ids_keep", "target_patches", "ids_target"):
            assert torch.equal(torch.cat([getattr(part[step], name) for part in parts]), getattr(whole, name))


def test_targets_move_and_count_with_the_batch(batches: list[Batch]) -> None:
    batch = batches[0]
    moved = batch.to(torch.device("meta"))
    assert moved.target_patches is not None
    assert moved.ids_target is not None
    assert moved.target_patches.device.type == moved.ids_target.device.type == "meta"
    patch_bytes, id_bytes, label_bytes = 4 * 4 * 3, 4, 8
    assert batch.num_bytes == GLOBAL_BATCH * (49 * (patch_bytes + id_bytes) + label_bytes)


def test_targets_gathered_on_a_device_are_those_gathered_in_the_graph(
    planner: TrainPlanner, garments: ShardIndex, data: DataConfig, batches: list[Batch]
) -> None:
    images = torch.from_numpy(full_images(garments, planner.plan(0), data))
    assert batches[0].ids_target is not None
    gathered = gather_on_device(images, batches[0].ids_target, data.patch_size)
    assert torch.equal(gathered, batches[0].target_patches)


def test_a_classifier_gets_no_targets(planner: TrainPlanner, garments: ShardIndex, data: DataConfig) -> None:
    plans = TrainPlans(planner, first_step=0, stop_step=1, micro_batch_size=GLOBAL_BATCH)
    with PatchLoader(replace(planner, data=data), plans, batch_size=GLOBAL_BATCH, num_threads=1) as loader:
        batch = next(loader)
    assert batch.target_patches is batch.ids_target is None
