from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from nvidia.dali import backend_impl
from pixels import (
    assemble,
    at_keep_rate,
    expected_image,
    expected_validation_image,
    full_images,
    run_graph,
    train_planner,
)

from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import write_tar
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.graph import define_graph
from pipeline.graph.inputs import input_names
from pipeline.graph.settings import GraphSettings
from pipeline.plan.schedule import num_kept_at
from pipeline.plan.step import StepPlan, ValidationPlanner
from pipeline.selection.config import SelectionConfig, select
from pipeline.selection.patches import patchify
from pipeline.shards.index import ShardIndex, build_index, open_index

RULES = [
    SelectionConfig(rule="random"),
    SelectionConfig(rule="grid"),
    SelectionConfig(rule="contrast"),
    SelectionConfig(rule="contrast", temperature=0.05),
]


@pytest.fixture(scope="module")
def photos(photo_shards: Path) -> ShardIndex:
    return open_index(photo_shards, "train")


@pytest.fixture(scope="module")
def garments(garment_shards: Path) -> ShardIndex:
    return open_index(garment_shards, "train")


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Sizes as ImageNet has them: landscape, portrait, odd, long, smaller than the crop, just as large."""
    sizes = [(500, 375), (375, 500), (333, 501), (512, 512), (900, 250), (150, 140), (224, 224), (257, 256), (80, 69)]
    members = []
    for number, size in enumerate(sizes):
        members += [(f"{number}.jpg", jpeg_bytes(number, *size)), (f"{number}.cls", b"0")]
    folder = tmp_path_factory.mktemp("large")
    return build_index(folder, "val", [write_tar(folder / "val-0.tar", members)])


def photo_data(index: ShardIndex, image_size: int = 64, **settings: object) -> DataConfig:
    options: dict = {"patch_size": 16, "num_classes": 5} | settings
    return DataConfig(train=index.folder, val=index.folder, image_size=image_size, **options)


def garment_data(index: ShardIndex, image_size: int = 28) -> DataConfig:
    return photo_data(
        index, image_size, patch_size=4, num_classes=10, augment=AugmentConfig(crop="pad"), val_crop_fraction=1.0
    )


def validation_plan(index: ShardIndex, data: DataConfig, num_rows: int) -> StepPlan:
    return ValidationPlanner(index, data, SelectionConfig(), 1.0, num_rows, 0).plan(0)


def assert_pixels_agree(got: np.ndarray, want: np.ndarray) -> None:
    """Within one inside, and within 0.3 on average.

    Measured over 300 photographs, the mean difference of an image was 0 to 0.25, the largest 1 inside and 8 in the
    outermost rows and columns, where Pillow leaves out the neighbours that are missing and DALI repeats the last.
    """
    difference = np.abs(got.astype(int) - want)
    assert difference.mean() <= 0.3
    assert difference[1:-1, 1:-1].max() <= 1
    assert difference.max() <= 10


# Pixels


@pytest.mark.parametrize("image_size", [48, 64])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_training_images_are_torchvisions_within_one_inside_and_0_3_on_average(
    photos: ShardIndex, image_size: int, step: int
) -> None:
    data = photo_data(photos, image_size)
    plan = train_planner(photos, data, global_batch_size=32).plan(step)
    for row, got in enumerate(full_images(photos, plan, data)):
        assert_pixels_agree(got, expected_image(photos, plan, row, data))


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
@pytest.mark.parametrize("image_size", [48, 64])
def test_validation_images_are_torchvisions_within_one_inside_and_0_3_on_average(
    photos: ShardIndex, image_size: int, crop_fraction: float
) -> None:
    data = photo_data(photos, image_size, val_crop_fraction=crop_fraction)
    for row, got in enumerate(full_images(photos, validation_plan(photos, data, 32), data, crop="centre")):
        assert_pixels_agree(got, expected_validation_image(photos, row, data))


@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
def test_images_of_imagenets_sizes_at_224_are_torchvisions(large_photos: ShardIndex, crop_fraction: float) -> None:
    data = photo_data(large_photos, 224, val_crop_fraction=crop_fraction)
    for row, got in enumerate(full_images(large_photos, validation_plan(large_photos, data, 9), data, crop="centre")):
        assert_pixels_agree(got, expected_validation_image(large_photos, row, data))
    plan = train_planner(large_photos, data).plan(3)
    for row, got in enumerate(full_images(large_photos, plan, data)):
        assert_pixels_agree(got, expected_image(large_photos, plan, row, data))


def test_a_centre_crop_sees_the_pixels_around_it_as_torchvision_does(large_photos: ShardIndex) -> None:
    data = photo_data(large_photos, 224)
    plan = validation_plan(large_photos, data, 9)
    images = full_images(large_photos, plan, data, crop="centre").astype(int)
    inside = [row for row in range(9) if (plan.crops[row, :2] > 2).all() and (plan.crops[row] % 1).any()]
    assert len(inside) >= 6, "crops of images that shrink and of images that grow, away from the border"
    for row in inside:
        assert np.abs(images[row] - expected_validation_image(large_photos, row, data)).max() <= 1


@pytest.mark.parametrize("uniform_size", [True, False])
def test_pad_crops_of_small_images_are_torchvisions_exactly(garments: ShardIndex, uniform_size: bool) -> None:
    data = garment_data(garments)
    plan = train_planner(garments, data, global_batch_size=32).plan(1)
    assert plan.flips.any()
    assert plan.crops.min() < 0
    images = full_images(garments, plan, data, uniform_size=uniform_size)
    for row, got in enumerate(images):
        np.testing.assert_array_equal(got, expected_image(garments, plan, row, data))


def test_pad_crops_of_images_of_another_size_are_resized_first(garments: ShardIndex) -> None:
    data = garment_data(garments, image_size=32)
    plan = train_planner(garments, data, global_batch_size=16).plan(0)
    for row, got in enumerate(full_images(garments, plan, data)):
        want = expected_image(garments, plan, row, data)
        assert np.abs(got.astype(int) - want).max() <= 8
        assert np.abs(got.astype(int) - want).mean() <= 0.3


def test_validation_images_that_fit_already_stay_as_they_are(garments: ShardIndex) -> None:
    data = garment_data(garments)
    for row, got in enumerate(full_images(garments, validation_plan(garments, data, 16), data, crop="centre")):
        np.testing.assert_array_equal(got, expected_validation_image(garments, row, data))


# Selection inside the graph


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.rule}-{rule.temperature:g}")
@pytest.mark.parametrize("keep_rate", [0.2, 0.6, 1.0])
def test_the_graph_selects_what_numpy_selects_on_the_same_images(
    garments: ShardIndex, photos: ShardIndex, rule: SelectionConfig, keep_rate: float
) -> None:
    # Selected first, contrast sees a thumbnail instead: see test_select_first.py.
    route = "resample_first" if rule.rule == "contrast" else "select_first"
    for index, data in ((garments, garment_data(garments)), (photos, photo_data(photos, patch_size=8, route=route))):
        plan = train_planner(index, data, selection=rule, global_batch_size=16).plan(0)
        images = full_images(index, plan, data, rule)
        scores = None
        if rule.rule == "contrast":
            scores = np.stack([reference.contrast(image, data.patch_size) for image in images]).astype(np.float32)
        num_kept = num_kept_at(keep_rate, data.num_patches)
        [(patches, ids_keep)] = run_graph(index, [at_keep_rate(plan, num_kept, keep_rate)], data, rule)
        np.testing.assert_array_equal(ids_keep, select(scores, plan.noise, num_kept, data.grid_size, rule))
        whole = patchify(images, data.patch_size)
        np.testing.assert_array_equal(patches, np.take_along_axis(whole, ids_keep[..., None], axis=1))
        assert patches.dtype == np.uint8
        assert ids_keep.dtype == np.int32


def test_among_patches_of_one_colour_the_lower_index_is_kept(garments: ShardIndex) -> None:
    data = garment_data(garments)
    plan = train_planner(garments, data, global_batch_size=16).plan(0)
    scores = [reference.contrast(image, data.patch_size) for image in full_images(garments, plan, data)]
    most_flat = [int((score == 0).sum()) for score in scores]
    assert min(most_flat) > 10, "the test images should have many black patches"
    [(_, ids_keep)] = run_graph(garments, [at_keep_rate(plan, 45, 0.9)], data)
    for kept, score in zip(ids_keep, scores, strict=True):
        assert kept.tolist() == reference.top_k(score.tolist(), 45)
        assert (score[kept] == 0).any(), "too few patches are kept for ties to matter"


def test_batches_with_different_numbers_of_kept_patches_follow_one_another(photos: ShardIndex) -> None:
    data = photo_data(photos)
    planner = train_planner(photos, data)
    plans = [at_keep_rate(planner.plan(step), num_kept, 0.5) for step, num_kept in enumerate([3, 16, 1, 1, 9])]
    batches = run_graph(photos, plans, data)
    assert [patches.shape for patches, _ in batches] == [(8, k, 768) for k in (3, 16, 1, 1, 9)]
    for plan, (patches, ids_keep) in zip(plans, batches, strict=True):
        [(alone, ids_alone)] = run_graph(photos, [plan], data)
        np.testing.assert_array_equal(patches, alone)
        np.testing.assert_array_equal(ids_keep, ids_alone)


# On a GPU


@pytest.mark.parametrize("crop", ["resized", "pad"])
@pytest.mark.parametrize(("uniform_size", "sizes_vary"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("rule", RULES[:3], ids=lambda rule: rule.rule)
def test_every_operator_of_the_gpu_graph_exists_for_its_device(
    photos: ShardIndex, crop: str, uniform_size: bool, sizes_vary: bool, rule: SelectionConfig
) -> None:
    settings = GraphSettings(
        photo_data(photos), rule, crop, 8, 1, uniform_size=uniform_size, device_id=0, sizes_vary=sizes_vary
    )
    graph = define_graph(lambda _: (), settings)
    graph._build_graph()  # all of building that needs no GPU
    backend: Any = backend_impl
    registered = {
        "cpu": set(backend.RegisteredCPUOps()),
        "gpu": set(backend.RegisteredGPUOps()),
        "mixed": set(backend.RegisteredMixedOps()),
    }
    # The list holds the Python function under its public name alone.
    registered["cpu"] |= {"DLTensorPythonFunctionImpl", "NumbaFuncImpl"}
    used = [(operator._op.schema.Name(), operator._op.device) for operator in graph._ops]
    for name, device in used:
        assert name in registered[device], f"{name} has no {device} backend"
    on_gpu = {name for name, device in used if device == "gpu"}
    assert "Flip" in on_gpu
    assert "Resize" in on_gpu or (crop == "pad" and uniform_size)
    assert ("decoders__Image", "mixed") in used
    assert not [name for name, _ in used if "PythonFunction" in name or "Numba" in name]


def test_a_gpu_graph_reads_no_window_because_it_decodes_whole_images(photos: ShardIndex) -> None:
    on_cpu = GraphSettings(photo_data(photos), RULES[0], "resized", 8, 1)
    on_gpu = GraphSettings(photo_data(photos), RULES[0], "resized", 8, 1, device_id=0)
    assert {"start", "shape"} <= set(input_names(on_cpu))
    assert not {"start", "shape"} & set(input_names(on_gpu))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("crop", ["resized", "pad"])
def test_the_gpu_graph_shows_the_images_of_the_cpu_graph(photos: ShardIndex, garments: ShardIndex, crop: str) -> None:
    index, data = (photos, photo_data(photos)) if crop == "resized" else (garments, garment_data(garments))
    plan = train_planner(index, data, global_batch_size=16).plan(0)
    [(images, _)] = run_graph(index, [plan], data, device_id=0)
    difference = np.abs(images.astype(int) - full_images(index, plan, data)).mean(axis=(1, 2, 3))
    # JPEG decoders round differently, and here the resize sees the pixels beyond a crop. PNG is exact everywhere.
    most = 2.0 if crop == "resized" else 0.0
    apart = {f"row {row}": float(mean) for row, mean in enumerate(difference) if mean > most}
    assert apart == {}, f"mean levels apart; {most} are allowed"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_the_gpu_graph_shows_validation_images_of_the_cpu_graph(photos: ShardIndex) -> None:
    data = photo_data(photos)
    plan = validation_plan(photos, data, 16)
    [(images, _)] = run_graph(photos, [plan], data, crop="centre", device_id=0)
    difference = np.abs(images.astype(int) - full_images(photos, plan, data, crop="centre")).mean(axis=(1, 2, 3))
    assert {f"row {row}": float(mean) for row, mean in enumerate(difference) if mean > 2.0} == {}


# Graphs that end early


def test_a_graph_that_ends_early_gives_the_images_as_they_are_there(photos: ShardIndex) -> None:
    plain = photo_data(photos, route="resample_first")
    augmented = photo_data(photos, route="resample_first", augment=AugmentConfig(mixup=0.8, color_jitter=0.4))
    plans = {data: train_planner(photos, settings).plan(3) for data, settings in (("plain", plain), ("all", augmented))}
    [(decoded, _)] = run_graph(photos, [plans["all"]], augmented, last_part="decode")
    [(mixed, _)] = run_graph(photos, [plans["all"]], augmented, last_part="augment")
    np.testing.assert_array_equal(decoded, full_images(photos, plans["plain"], plain))
    np.testing.assert_array_equal(mixed, full_images(photos, plans["all"], augmented))
    assert (mixed != decoded).any()


# The tests' own helper


def test_all_patches_of_an_image_make_the_image(photos: ShardIndex) -> None:
    images = np.stack([expected_validation_image(photos, i, photo_data(photos)) for i in range(2)])
    np.testing.assert_array_equal(assemble(patchify(images, 8), 8), images)
