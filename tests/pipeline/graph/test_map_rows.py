"""Loaders under the rule ``map``: which patches are kept follows from plan and map, and everything else from that."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from PIL import Image
from pixels import full_images, train_planner

from benchmarks.shared.bad_images import HEIGHT, LATER_DAMAGE, SOUND_OUTSIDE, WIDTH, overwrite, write_photo_shards
from benchmarks.shared.photographs import photograph
from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.score_maps import map_scores
from pipeline.jpeg.addressable import units_of
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig, perturbed
from pipeline.selection.maps import NoMapError, map_path, write_maps
from pipeline.selection.patches import gather_patches
from pipeline.shards.index import ShardIndex
from pipeline.shards.units import write_units
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(120)

MAP = SelectionConfig(rule="map", map="mine")
BATCH, NUM_STEPS = 16, 3
AUGMENTS: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "mixed and warped": {"mixup": 0.8, "cutmix": 1.0, "auto": {"kind": "randaugment"}},
    "pad": {"crop": "pad", "pad_pixels": 4},
}


def grids_of(index: ShardIndex) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(index.shard), 16, 16), dtype=np.uint8)


def with_maps(index: ShardIndex) -> ShardIndex:
    for number, shard in enumerate(index.shards):
        grids = np.ascontiguousarray(grids_of(index)[index.shard == number])
        write_maps(index.folder / shard.name, "mine", shard.digest, grids, kind="mine", made_by={}, unscored=[])
    return index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return with_maps(write_photo_shards(tmp_path_factory.mktemp("maps")))


@pytest.fixture(scope="module")
def addressable(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Large enough that single units can be left out."""
    images = {}
    for number in range(48):
        sink = io.BytesIO()
        image = Image.fromarray(photograph(number, 320, 240))
        image.save(sink, "JPEG", restart_marker_blocks=1, optimize=True, quality=90)
        images[number] = sink.getvalue()
    index = write_photo_shards(tmp_path_factory.mktemp("addressable"), images)
    for number, shard in enumerate(index.shards):
        units = [units_of(images[sample_id]) for sample_id in np.flatnonzero(index.shard == number).tolist()]
        write_units(index.folder / shard.name, shard.digest, units)
    return with_maps(index)


def data_of(index: ShardIndex, augment: dict[str, Any] | None = None, **settings: Any) -> DataConfig:
    options = {"image_size": 32, "patch_size": 8, "augment": AugmentConfig.model_validate(augment or {})} | settings
    return DataConfig(train=index.folder, val=index.folder, num_classes=100, **options)


def planner_of(
    index: ShardIndex, data: DataConfig, selection: SelectionConfig = MAP, rate: float = 0.4
) -> TrainPlanner:
    schedule = ScheduleConfig(kind="constant", keep_rate=rate)
    return train_planner(
        index, data, selection=selection, schedule=schedule, global_batch_size=BATCH, total_steps=NUM_STEPS
    )


def run(planner: TrainPlanner, *, size: int = BATCH, rank: int = 0, world_size: int = 1, **how: Any) -> list[Batch]:
    plans = TrainPlans(
        planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=size, rank=rank, world_size=world_size
    )
    with PatchLoader(planner, plans, batch_size=size, num_threads=1, **how) as loader:
        return list(loader)


def expected_ids(
    index: ShardIndex, batch: Batch, data: DataConfig, selection: SelectionConfig = MAP
) -> list[list[int]]:
    plan = batch.plan
    sizes = np.stack([index.height[plan.sample_ids], index.width[plan.sample_ids]], axis=1)
    scores = map_scores(plan, grids_of(index)[plan.sample_ids], sizes, data, data.augment.crop)
    return [reference.top_k(row, plan.stage.num_kept) for row in perturbed(scores, plan.noise, selection.temperature)]


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
@pytest.mark.parametrize("route", ["resample_first", "auto"])
def test_kept_are_the_patches_of_the_highest_scores_and_no_pixel_differs(
    index: ShardIndex, augment: str, route: str
) -> None:
    data = data_of(index, AUGMENTS[augment], route=route)
    for batch in run(planner_of(index, data)):
        ids = batch.ids_keep.numpy()
        assert ids.tolist() == expected_ids(index, batch, data)
        images = full_images(index, batch.plan, data)
        for row in range(BATCH):
            kept = gather_patches(images[row], ids[row], data.patch_size)
            np.testing.assert_array_equal(batch.patches[row].numpy(), kept)


def test_a_temperature_samples_by_the_planned_noise(index: ShardIndex) -> None:
    data, selection = data_of(index), SelectionConfig(rule="map", map="mine", temperature=0.2)
    batches = run(planner_of(index, data, selection))
    for batch in batches:
        assert batch.ids_keep.tolist() == expected_ids(index, batch, data, selection)
    best = [batch.ids_keep.tolist() for batch in run(planner_of(index, data))]
    assert [batch.ids_keep.tolist() for batch in batches] != best


def test_dropped_patches_come_as_targets(index: ShardIndex) -> None:
    data = data_of(index)
    for batch in run(planner_of(index, data), targets=True):
        assert batch.ids_target is not None
        together = np.concatenate([batch.ids_keep.numpy(), batch.ids_target.numpy()], axis=1)
        assert (np.sort(together, axis=1) == np.arange(16)).all()


def test_ranks_and_micro_batches_change_nothing(index: ShardIndex) -> None:
    planner = planner_of(index, data_of(index, AUGMENTS["mixed and warped"]))
    whole = [batch.ids_keep.tolist() for batch in run(planner)]
    parts = [run(planner, size=4, rank=rank, world_size=2) for rank in range(2)]
    joined: list[list[list[int]]] = [[] for _ in range(NUM_STEPS)]
    for ranks in parts:
        for batch in ranks:
            joined[batch.plan.step] += batch.ids_keep.tolist()
    assert joined == whole


def test_echoed_and_cached_images_keep_what_their_maps_say(index: ShardIndex) -> None:
    data = data_of(index, {"color_jitter": 0.2}, echo=2, echo_gap=1)
    for batch in run(planner_of(index, data)):
        assert batch.ids_keep.tolist() == expected_ids(index, batch, data)


def test_validation_is_chosen_by_its_maps(index: ShardIndex) -> None:
    data = data_of(index)
    planner = ValidationPlanner(index, data, MAP, 0.4, BATCH, 0)
    with PatchLoader(planner, validation_plans(planner), batch_size=BATCH, num_threads=1) as loader:
        for batch in loader:
            plan = batch.plan
            sizes = np.tile([HEIGHT, WIDTH], (BATCH, 1))
            scores = map_scores(plan, grids_of(index)[plan.sample_ids], sizes, data, "centre")
            assert batch.ids_keep.tolist() == [reference.top_k(row, plan.stage.num_kept) for row in scores]


def test_where_all_patches_are_kept_no_map_is_looked_at(index: ShardIndex) -> None:
    """As the last stage of a schedule: the maps might be cold on a disk."""
    data, missing = data_of(index), SelectionConfig(rule="map", map="nowhere")
    for batch in run(planner_of(index, data, missing, rate=1.0)):
        assert (batch.ids_keep.numpy() == np.arange(16)).all()
    with pytest.raises(NoMapError, match=r"train-00000\d\.nowhere\.map.*maps there: mine"):
        run(planner_of(index, data, missing))


def test_of_an_addressable_image_no_more_is_read_than_the_chosen_patches_need(addressable: ShardIndex) -> None:
    data = data_of(addressable, {"scale": (0.5, 1.0)}, image_size=64)
    batches, looked_at = (
        run(planner_of(addressable, data, rule, rate=0.2)) for rule in (MAP, SelectionConfig(rule="contrast"))
    )
    for batch, whole in zip(batches, looked_at, strict=True):
        assert batch.ids_keep.tolist() == expected_ids(addressable, batch, data)
        assert batch.bytes_read < 0.7 * whole.bytes_read
        images = full_images(addressable, batch.plan, data)
        ids = batch.ids_keep.numpy()
        kept = np.stack([gather_patches(images[row], ids[row], data.patch_size) for row in range(BATCH)])
        np.testing.assert_array_equal(batch.patches.numpy(), kept)


@pytest.mark.parametrize("mix", [{}, {"mixup": 0.8, "cutmix": 1.0}], ids=["alone", "mixed"])
def test_a_substitutes_own_map_chooses_and_that_of_a_mixed_pair(tmp_path: Path, mix: dict[str, Any]) -> None:
    index = with_maps(write_photo_shards(tmp_path, {10: SOUND_OUTSIDE["a truncated PNG"]}))
    overwrite(index, 31, LATER_DAMAGE["garbage"])
    data = data_of(index, mix, on_bad_sample="skip")
    planner, met = planner_of(index, data), 0
    for batch in run(planner):
        met += len(batch.bad)
        assert batch.ids_keep.tolist() == expected_ids(index, batch, data)
        assert not {10, 31} & set(batch.plan.sample_ids.tolist())
        images = full_images(index, batch.plan, data)
        for row, ids in enumerate(batch.ids_keep.numpy()):
            kept = gather_patches(images[row], ids, data.patch_size)
            np.testing.assert_array_equal(batch.patches[row].numpy(), kept)
    assert met == 2
    again = run(replace(planner, data=data.model_copy(update={"prefetch_batches": 1})), size=4)
    whole = np.concatenate([batch.ids_keep.numpy() for batch in run(planner)])
    np.testing.assert_array_equal(np.concatenate([batch.ids_keep.numpy() for batch in again]), whole)


def test_maps_that_go_missing_end_the_loader_by_name(tmp_path: Path) -> None:
    index = with_maps(write_photo_shards(tmp_path))
    map_path(index.folder / index.shards[1].name, "mine").unlink()
    with pytest.raises(NoMapError, match=r"train-000001\.mine\.map"):
        run(planner_of(index, data_of(index)))
