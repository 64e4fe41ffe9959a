"""Patches selected on the decoded crop and resampled alone, against the whole image resampled first."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pixels import at_keep_rate, expected_image, expected_validation_image, full_images, run_graph, train_planner

from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.inputs import input_names
from pipeline.graph.settings import GraphSettings
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex, open_index
from pipeline.train_plans import TrainPlans

ROUTES = ("resample_first", "select_first")
MIXES: list[dict[str, Any]] = [{}, {"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}]
CONTRAST = SelectionConfig(rule="contrast")


@pytest.fixture(scope="module")
def photos(photo_shards: Path) -> ShardIndex:
    return open_index(photo_shards, "train")


def photo_data(index: ShardIndex, route: str, **settings: Any) -> DataConfig:
    augment = {name: settings.pop(name) for name in list(settings) if name in AugmentConfig.model_fields}
    options: dict[str, Any] = {"image_size": 96, "patch_size": 16, "num_classes": 5} | settings
    return DataConfig(train=index.folder, val=index.folder, route=route, augment=AugmentConfig(**augment), **options)


def assert_close(first: np.ndarray, second: np.ndarray) -> None:
    """Images of the two routes: within 2 inside and 10 at the border, which DALI extends and Pillow does not."""
    difference = np.abs(first.astype(int) - second)
    assert difference.mean() <= 0.4
    assert difference[:, 1:-1, 1:-1].max() <= 2
    assert difference.max() <= 10


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: " and ".join(mix) or "plain")
@pytest.mark.parametrize("patch_size", [4, 16])
def test_all_patches_together_are_the_image_of_the_other_route(photos: ShardIndex, mix: dict, patch_size: int) -> None:
    """Photographs of all sizes, small ones that grow and flat ones among them."""
    images = []
    for route in ROUTES:
        data = photo_data(photos, route, patch_size=patch_size, **mix)
        plan = train_planner(photos, data, global_batch_size=32).plan(2)
        images.append(full_images(photos, plan, data))
    assert_close(*images)


def test_validation_images_are_those_of_the_other_route_and_torchvisions(photos: ShardIndex) -> None:
    images = []
    for route in ROUTES:
        data = photo_data(photos, route)
        plan = ValidationPlanner(photos, data, SelectionConfig(), 1.0, 16, 0).plan(0)
        images.append(full_images(photos, plan, data, crop="centre"))
    assert_close(*images)
    for row, got in enumerate(images[1]):
        difference = np.abs(got.astype(int) - expected_validation_image(photos, row, data))
        assert difference.max() <= 1 or difference[1:-1, 1:-1].max() <= 1


def test_training_images_are_torchvisions_within_one_to_the_border(photos: ShardIndex) -> None:
    """Plain JPEG, PNG and WebP alike; only how the decoders differ can add to that."""
    data = photo_data(photos, "select_first")
    plan = train_planner(photos, data, global_batch_size=32).plan(1)
    for row, got in enumerate(full_images(photos, plan, data)):
        assert np.abs(got.astype(int) - expected_image(photos, plan, row, data)).max() <= 1


@pytest.mark.parametrize("mix", MIXES[::3], ids=["plain", "mixed"])
@pytest.mark.parametrize("rule", ["random", "grid", "contrast"])
def test_kept_patches_are_those_of_the_whole_image_at_the_same_ids(photos: ShardIndex, rule: str, mix: dict) -> None:
    selection = SelectionConfig(rule=rule)
    data = photo_data(photos, "select_first", **mix)
    plan = train_planner(photos, data, selection=selection, global_batch_size=16).plan(0)
    [(everything, all_ids)] = run_graph(photos, [at_keep_rate(plan, 36, 1.0)], data, selection)
    assert (all_ids == np.arange(36)).all()
    for num_kept in (1, 7, 35):
        [(patches, ids)] = run_graph(photos, [at_keep_rate(plan, num_kept, 0.5)], data, selection)
        assert (np.diff(ids, axis=1) > 0).all()
        np.testing.assert_array_equal(patches, np.take_along_axis(everything, ids[..., None], axis=1))


@pytest.mark.parametrize("rule", ["random", "grid"])
def test_rules_that_look_at_no_image_keep_the_same_patches_on_both_routes(photos: ShardIndex, rule: str) -> None:
    selection = SelectionConfig(rule=rule)
    ids = []
    for route in ROUTES:
        data = photo_data(photos, route)
        plan = train_planner(photos, data, selection=selection, global_batch_size=16).plan(0)
        ids.append(run_graph(photos, [at_keep_rate(plan, 11, 0.3)], data, selection)[0][1])
    np.testing.assert_array_equal(*ids)


@pytest.mark.parametrize("mix", MIXES[:3], ids=lambda mix: " and ".join(mix) or "plain")
@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_contrast_keeps_nearly_the_same_patches_on_both_routes(
    photos: ShardIndex, mix: dict, temperature: float
) -> None:
    selection = SelectionConfig(rule="contrast", temperature=temperature)
    ids = []
    for route in ROUTES:
        data = photo_data(photos, route, **mix)
        plan = train_planner(photos, data, selection=selection, global_batch_size=32).plan(0)
        ids.append(run_graph(photos, [at_keep_rate(plan, 14, 0.4)], data, selection)[0][1])
    shared = [len(set(a) & set(b)) / 14 for a, b in zip(*ids, strict=True)]
    assert np.mean(shared) >= 0.85, "two patches taken at random share 0.4"


def content(batches: list[Batch]) -> list[tuple]:
    return [
        (
            batch.plan.step,
            batch.plan.first_row + row,
            batch.patches[row].numpy().tobytes(),
            batch.ids_keep[row].tolist(),
        )
        for batch in batches
        for row in range(batch.num_images)
    ]


def load(planner: TrainPlanner, index: ShardIndex, rank: int = 0, ranks: int = 1, threads: int = 1) -> list[tuple]:
    rows = 16 // ranks // 2
    plans = TrainPlans(planner, first_step=0, stop_step=2, micro_batch_size=rows, rank=rank, world_size=ranks)
    with PatchLoader(planner, plans, batch_size=rows, num_threads=threads) as loader:
        return content(list(loader))


def test_ranks_micro_batches_and_threads_do_not_change_a_byte(photos: ShardIndex) -> None:
    data = photo_data(photos, "select_first", **MIXES[3])
    planner = train_planner(photos, data, selection=CONTRAST, global_batch_size=16)
    whole = load(planner, photos)
    assert load(planner, photos, threads=3) == whole
    assert sorted(row for rank in range(4) for row in load(planner, photos, rank, 4)) == whole


def test_only_what_the_route_uses_enters_the_graph(photos: ShardIndex) -> None:
    def names(selection: SelectionConfig, crop: str = "resized", **mix: Any) -> set[str]:
        data, training = photo_data(photos, "auto", **mix), crop != "centre"
        return set(input_names(GraphSettings(data, selection, crop, 8, 1, training=training)))

    plain = {"encoded", "start", "shape", "planned", "sizes"}
    assert names(SelectionConfig(rule="random")) == plain
    assert names(CONTRAST) == plain
    assert names(CONTRAST, mixup=0.8) == plain | {"side", "partner"}
    assert names(CONTRAST, "centre", mixup=0.8) == plain
