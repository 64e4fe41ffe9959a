"""Scores out of maps: the mean over what a patch shows of the stored image, patch by patch, and what a picture says."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_tables import samples

from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.kernels import chain
from pipeline.graph.rows import levels_of, mixing_of
from pipeline.graph.score_maps import map_scores, regions_of
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig

ROWS = 4
MIXES: list[dict[str, Any]] = [{}, {"mixup": 0.8, "cutmix": 1.0, "cutmix_share": 0.5}, {"mixup": 0.8}, {"cutmix": 1.0}]
WARPS: list[dict[str, Any]] = [{}, {"auto": {"kind": "randaugment"}}]
MOST_OFF = 2**-12  # shares of cells are whole numbers of 1 / 2**15


def data_of(size: int = 48, patch: int = 8, **augment: Any) -> DataConfig:
    options = AugmentConfig.model_validate({"scale": (0.05, 1.0), **augment})
    return DataConfig(train="t", val="v", num_classes=500, image_size=size, patch_size=patch, augment=options)


def plan_of(data: DataConfig, step: int = 0) -> tuple[StepPlan, np.ndarray]:
    table = samples(64)
    schedule = PatchSchedule(ScheduleConfig(), data.num_patches, 100, 64 // ROWS, ROWS, 0)
    plan = TrainPlanner(table, data, SelectionConfig(rule="map", map="m"), schedule, ROWS, 0).plan(step)
    return plan, np.stack([table.height[plan.sample_ids], table.width[plan.sample_ids]], axis=1)


def grids_of(seed: int, grid: int = 16, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, grid, grid), dtype=np.uint8)


def mean_between(cells: np.ndarray, rows: tuple[float, float], columns: tuple[float, float]) -> float:
    """The mean of cells between two rows and two columns, by area; 0 where nothing lies there."""
    places = np.arange(len(cells))
    height, width = (
        np.maximum(np.minimum(high, places + 1) - np.maximum(low, places), 0) for low, high in (rows, columns)
    )
    area, whole = height.sum() * width.sum(), (rows[1] - rows[0]) * (columns[1] - columns[0])
    return float((cells * np.outer(height, width)).sum() / area) if area > 1e-6 * whole else 0.0


def own_scores(
    cells: np.ndarray, region: np.ndarray, flipped: bool, levels: np.ndarray, data: DataConfig
) -> np.ndarray:
    """Each patch's mean before images are mixed, 0 to 255."""
    size, side, grid = data.patch_size, data.image_size, len(cells)
    top, left, bottom, right = region * grid
    found = []
    for patch in range(data.num_patches):
        boxes = np.zeros((len(levels) + 1, 4), np.int64)
        row, column = divmod(patch, data.grid_size)
        chain.boxes_of(levels, np.zeros((len(levels), 6), np.int64), side, row * size, column * size, size, boxes)
        y, x, height, width = boxes[0].tolist()
        if flipped:
            x = side - x - width
        rows = (top + y / side * (bottom - top), top + (y + height) / side * (bottom - top))
        columns = (left + x / side * (right - left), left + (x + width) / side * (right - left))
        found.append(mean_between(cells, rows, columns))
    return np.array(found)


def slow_scores(plan: StepPlan, grids: np.ndarray, sizes: np.ndarray, data: DataConfig) -> np.ndarray:
    regions = regions_of(plan, sizes, data, data.augment.crop)
    levels, _ = levels_of(plan.augment, plan.num_rows)
    partner, weights, boxes = mixing_of(plan)
    own = np.stack(
        [own_scores(grids[i], regions[i], bool(plan.flips[i]), levels[i], data) for i in range(plan.num_rows)]
    )
    shares = np.tile(weights[:, None].astype(float), (1, data.num_patches))
    for i, (top, left, bottom, right) in enumerate(boxes):
        inside = np.zeros((data.image_size, data.image_size))
        inside[top:bottom, left:right] = 1
        if inside.any():
            tiles = inside.reshape(data.grid_size, data.patch_size, data.grid_size, data.patch_size)
            shares[i] = 1 - tiles.mean(axis=(1, 3)).reshape(-1)
    return (shares * own + (1 - shares) * own[partner]) / 255


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 99), st.sampled_from(MIXES), st.sampled_from(WARPS), st.sampled_from([16, 16, 1, 5, 33]), st.data()
)
def test_a_score_is_the_mean_over_what_the_patch_shows(
    step: int, mix: dict[str, Any], warp: dict[str, Any], grid: int, draw: st.DataObject
) -> None:
    size, patch = draw.draw(st.sampled_from([(48, 8), (56, 14), (28, 4), (32, 32)]))
    crop = draw.draw(st.sampled_from([{}, {"crop": "pad", "pad_pixels": 9}]))
    data = data_of(size, patch, **mix, **warp, **crop)
    plan, sizes = plan_of(data, step)
    grids = grids_of(step, grid)
    found = map_scores(plan, grids, sizes, data, data.augment.crop)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_scores(plan, grids, sizes, data), atol=MOST_OFF)


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("warp", [{}, {"auto": {"kind": "randaugment"}}], ids=str)
def test_a_constant_map_gives_a_constant_score(mix: dict[str, Any], warp: dict[str, Any]) -> None:
    data = data_of(224, 16, **mix, **warp)
    for step in range(4):
        plan, sizes = plan_of(data, step)
        grids = np.repeat(np.full((ROWS, 1), 77, np.uint8), 256, axis=1).reshape(ROWS, 16, 16)
        found = map_scores(plan, grids, sizes, data, "resized")
        if warp:  # which may bring in what is not of the image, and the partner may have it mixed in
            assert found.max() == np.float32(77 / 255)
            assert mix or set(np.unique(found)) <= {np.float32(77 / 255), np.float32(0)}
        else:
            assert set(np.unique(found)) == {np.float32(77 / 255)}


@pytest.mark.parametrize("augment", [*MIXES, {"auto": {"kind": "randaugment"}, "mixup": 0.8}], ids=str)
def test_scores_do_not_depend_on_the_rest_of_the_batch(augment: dict[str, Any]) -> None:
    data = data_of(**augment)
    plan, sizes = plan_of(data)
    grids = grids_of(0)
    whole = map_scores(plan, grids, sizes, data, "resized")
    for start in range(0, ROWS, 2):
        rows = slice(start, start + 2)
        part = map_scores(plan.rows(start, start + 2), grids[rows], sizes[rows], data, "resized")
        assert part.tobytes() == whole[rows].tobytes()


def test_cells_that_are_seen_in_the_same_way_score_alike() -> None:
    """A tie is a tie: rows of equal cells give rows of equal scores, and the kept patches are the first of them."""
    data = replace_crop(data_of(224, 16))
    plan, sizes = plan_of(data)
    plan = replace(plan, crops=np.concatenate([0 * sizes, sizes], axis=1).astype(np.float32))
    grids = np.repeat(grids_of(1, 16)[:, :, :1], 16, axis=2).copy()
    found = map_scores(plan, grids, sizes, data, "resized").reshape(ROWS, 14, 14)
    assert (found == found[:, :, :1]).all()


def replace_crop(data: DataConfig) -> DataConfig:
    return data.model_copy(update={"augment": data.augment.model_copy(update={"flip_probability": 0.0})})


@pytest.mark.parametrize("flipped", [False, True])
def test_a_map_that_is_drawn_as_an_image_says_what_its_patches_show(flipped: bool) -> None:
    """Independent of what the maps are scored by: Pillow cuts and resizes the picture of the map."""
    data = data_of(224, 16)
    plan, _ = plan_of(data, 3)
    cells, sizes = grids_of(5), np.full((ROWS, 2), 16 * 32)
    crops = np.array([[32.0, 64, 32 + 224, 64 + 448]] * ROWS, np.float32)
    plan = replace(plan, crops=crops, flips=np.full(ROWS, flipped))
    found = map_scores(plan, cells, sizes, data, "resized")
    for row in range(ROWS):
        picture = Image.fromarray(np.repeat(np.repeat(cells[row], 32, axis=0), 32, axis=1))
        shown = np.asarray(picture.resize((224, 224), Image.Resampling.BOX, box=(64, 32, 64 + 448, 32 + 224)), float)
        if flipped:
            shown = shown[:, ::-1]
        means = shown.reshape(14, 16, 14, 16).mean(axis=(1, 3)).reshape(-1)
        np.testing.assert_allclose(255 * found[row], means, atol=0.6)


def test_validation_sees_the_centre_of_the_map() -> None:
    data, table = data_of(224, 16), samples(ROWS)
    plan = ValidationPlanner(table, data, SelectionConfig(rule="map", map="m"), 0.5, ROWS, 0).plan(0)
    sizes = np.stack([table.height, table.width], axis=1)
    plan_at_224 = replace(plan, crops=np.tile(np.array([16, 16, 240, 240], np.float32), (ROWS, 1)))
    cells = grids_of(2)
    found = map_scores(plan_at_224, cells, np.full((ROWS, 2), 256), data, "centre").reshape(ROWS, 14, 14)
    np.testing.assert_array_equal(found, np.float32(cells[:, 1:15, 1:15] / np.float64(255)))
    assert map_scores(plan, cells, sizes, data, "centre").shape == (ROWS, 196)


def test_what_a_pad_crop_brings_in_does_not_count() -> None:
    data = data_of(32, 8, crop="pad", pad_pixels=8)
    plan, sizes = plan_of(data)
    crops = np.tile(np.array([-8, -8, 24, 24], np.float32), (ROWS, 1))
    plan = replace(plan, crops=crops, flips=np.zeros(ROWS, bool))
    found = map_scores(plan, np.full((ROWS, 16, 16), 51, np.uint8), sizes, data, "pad").reshape(ROWS, 4, 4)
    assert not found[:, 0].any()
    assert not found[:, :, 0].any()
    assert (found[:, 1:, 1:] == np.float32(Fraction(1, 5))).all()
