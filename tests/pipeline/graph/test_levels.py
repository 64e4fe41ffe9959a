"""What the loader makes of images that stand at several sizes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import encoded, picture
from loaded import content
from PIL import Image
from pixels import train_planner

from benchmarks.shared.shard_files import write_tar
from pipeline.batch import Batch
from pipeline.config import AugmentConfig, AutoAugmentConfig, CacheConfig, DataConfig
from pipeline.graph.pixel_cache import open_cache
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex, build_index
from pipeline.shards.levels import open_with_levels
from pipeline.train_plans import TrainPlans
from tools.shards.levels.resize import resize_levels
from tools.shards.maps.score import MapJob, score_folder

LEVELS, IMAGE_SIZE, BATCH_SIZE, NUM_STEPS = (96, 64), 48, 8, 6
EVERYTHING = AugmentConfig(auto=AutoAugmentConfig(kind="randaugment"), mixup=0.8, cutmix=1.0, erase_probability=0.25)


@pytest.fixture(scope="module", params=[False, True], ids=["ordinary", "addressable"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight photographs of different sizes with two levels and score maps."""
    folder, options = tmp_path_factory.mktemp("levels"), {"quality": 95}
    options |= {"restart_marker_blocks": 1, "optimize": True} if request.param else {}
    for shard in range(2):
        members = []
        for number in range(24 * shard, 24 * shard + 24):
            image = picture(number, 150 + number * 5 % 64, 120 + number * 7 % 90)
            members += [(f"{number:05d}.jpg", encoded(image, **options)), (f"{number:05d}.cls", b"0")]
        write_tar(folder / f"train-{shard}.tar", members)
    build_index(folder, "train", sorted(folder.glob("*.tar")))
    resize_levels(folder, LEVELS, addressable=request.param)
    score_folder(folder, MapJob("contrast"), workers=1)
    return folder


def planner_of(
    folder: Path, levels: tuple[int, ...], rule: str = "random", keep: float = 0.4, **data: object
) -> TrainPlanner:
    config = DataConfig(
        train=folder, val=folder, num_classes=2, image_size=IMAGE_SIZE, patch_size=8, levels=levels, **data
    )
    selection = SelectionConfig.model_validate({"rule": rule} | ({"map": "contrast"} if rule == "map" else {}))
    schedule = ScheduleConfig(kind="constant", keep_rate=keep)
    return train_planner(
        open_with_levels(folder, "train", levels),
        config,
        selection=selection,
        schedule=schedule,
        global_batch_size=BATCH_SIZE,
        total_steps=NUM_STEPS,
    )


def batches_of(
    planner: TrainPlanner, first_step: int = 0, rank: int = 0, world_size: int = 1, **how: object
) -> list[Batch]:
    size = BATCH_SIZE // world_size
    plans = TrainPlans(
        planner, first_step=first_step, stop_step=NUM_STEPS, micro_batch_size=size, rank=rank, world_size=world_size
    )
    with PatchLoader(planner, plans, batch_size=size, num_threads=1, **how) as loader:  # type: ignore[arg-type]
        return list(loader)


def ids_of(batches: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.ids_keep.numpy() for batch in batches])


def patches_of(batches: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.patches.numpy() for batch in batches]).astype(int)


@pytest.mark.parametrize("route", ["auto", "resample_first"])
def test_pixels_are_those_of_the_level_and_near_those_of_the_full_size(folder: Path, route: str) -> None:
    planner = planner_of(folder, LEVELS, keep=1.0, route=route)
    found, full = batches_of(planner), batches_of(planner_of(folder, (), keep=1.0, route=route))
    taken = [batch.plan.levels for batch in found]
    assert set(np.concatenate(taken).tolist()) == {0, 1, 2}
    distances = np.abs(patches_of(found) - patches_of(full)).mean(axis=(1, 2))
    at_full_size = np.concatenate(taken) == 0
    assert distances[at_full_size].max() == 0
    assert distances.mean() < 4


@pytest.mark.parametrize("rule", ["random", "grid", "map"])
@pytest.mark.parametrize("augment", [AugmentConfig(), EVERYTHING], ids=["crop and flip", "everything"])
def test_the_same_patches_are_chosen_as_without_levels(folder: Path, rule: str, augment: AugmentConfig) -> None:
    found = batches_of(planner_of(folder, LEVELS, rule, augment=augment))
    expected = batches_of(planner_of(folder, (), rule, augment=augment))
    np.testing.assert_array_equal(ids_of(found), ids_of(expected))
    assert np.abs(patches_of(found) - patches_of(expected)).mean() < 6
    assert sum(batch.bytes_read for batch in found) < 0.8 * sum(batch.bytes_read for batch in expected)


@pytest.mark.parametrize("augment", [AugmentConfig(), EVERYTHING], ids=["crop and flip", "everything"])
@pytest.mark.parametrize(
    "more", [{"cache": CacheConfig(kind="memory", max_bytes=10**8)}, {"echo": 2}], ids=["cache", "echo"]
)
def test_images_that_are_held_or_spliced_decide_nothing(folder: Path, augment: AugmentConfig, more: dict) -> None:
    planner = planner_of(folder, LEVELS, augment=augment, **more)
    # Whole files are decoded where images are held, and where they are not no more than what the patches need.
    plain = replace(planner, data=planner.data.model_copy(update={"cache": None, "echo": 1}))
    index = planner.samples
    assert isinstance(index, ShardIndex)
    plans = [planner.plan(step) for step in range(NUM_STEPS)]
    with PatchLoader(
        planner, iter(plans), batch_size=BATCH_SIZE, num_threads=1, cache=open_cache(planner.data.cache, index, 0, "")
    ) as loader:
        held = list(loader)
    with PatchLoader(plain, iter(plans), batch_size=BATCH_SIZE, num_threads=1) as loader:
        assert content(held) == content(list(loader))


def test_a_cache_on_a_disk_holds_each_size_apart(folder: Path, tmp_path: Path) -> None:
    planner = planner_of(folder, LEVELS, cache=CacheConfig(kind="disk", folder=tmp_path, max_bytes=10**8))
    index, expected = planner.samples, batches_of(planner_of(folder, LEVELS))
    assert isinstance(index, ShardIndex)
    for _ in range(2):
        cached = batches_of(planner, cache=open_cache(planner.data.cache, index, 0, "a decoder"))
        assert content(cached) == content(expected)


def test_ranks_and_resumed_runs_see_the_same(folder: Path) -> None:
    planner = planner_of(folder, LEVELS)
    whole = content(batches_of(planner))
    assert content(batches_of(planner, first_step=3)) == whole[3 * BATCH_SIZE :]
    parts = [content(batches_of(planner, rank=rank, world_size=2)) for rank in range(2)]
    assert sorted(parts[0] + parts[1]) == sorted(whole)


def test_an_image_that_is_damaged_at_a_level_is_named_there_and_replaced(folder: Path) -> None:
    sound = planner_of(folder, LEVELS, on_bad_sample="skip")
    plan = sound.plan(0)
    assert plan.levels is not None
    row = int(np.flatnonzero(plan.levels == 2)[0])
    index = sound.samples
    assert isinstance(index, ShardIndex)
    file = int(plan.file_ids(48)[row])
    path, offset = index.files.folder / index.files.shards[index.files.shard[file]].name, int(index.files.offset[file])
    before = path.read_bytes()
    try:
        tables = before.index(b"\xff\xc4", offset) + 5  # of Huffman codes: the header states the size as ever
        path.write_bytes(before[:tables] + b"\xff" * 16 + before[tables + 16 :])
        planner = planner_of(folder, LEVELS, on_bad_sample="skip")
        with PatchLoader(planner, iter([plan]), batch_size=BATCH_SIZE, num_threads=1) as loader:
            [batch] = list(loader)
            [bad] = loader.take_bad_rows()
    finally:
        path.write_bytes(before)
    assert (bad.row, bad.sample_id) == (row, int(plan.sample_ids[row]))
    assert bad.shard.startswith("level-64/train-")
    assert batch.plan.sample_ids[row] == bad.substitute_id != bad.sample_id
    with PatchLoader(sound, iter([batch.plan]), batch_size=BATCH_SIZE, num_threads=1) as loader:
        assert content(list(loader)) == content([batch])


def test_an_image_as_large_as_asked_for_is_taken_as_it_stands(tmp_path: Path) -> None:
    """The crop is all of the image at a level of the wanted size, so nothing is resampled."""
    images = [picture(number, 192, 192) for number in range(BATCH_SIZE)]
    members = [
        member
        for number, image in enumerate(images)
        for member in ((f"{number}.png", encoded(image, "PNG")), (f"{number}.cls", b"0"))
    ]
    build_index(tmp_path, "train", [write_tar(tmp_path / "train-0.tar", members)])
    resize_levels(tmp_path, [IMAGE_SIZE])
    augment = AugmentConfig(scale=(1, 1), ratio=(1, 1), flip_probability=0)
    [batch, *_] = batches_of(planner_of(tmp_path, (IMAGE_SIZE,), keep=1.0, augment=augment))
    for sample_id, patches in zip(batch.plan.sample_ids, batch.patches.numpy(), strict=True):
        expected = np.asarray(images[sample_id].resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
        tiles = expected.reshape(6, 8, 6, 8, 3).transpose(0, 2, 1, 3, 4).reshape(36, -1)
        np.testing.assert_array_equal(patches, tiles)
