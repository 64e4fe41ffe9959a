"""What a batch says was read for it: bytes out of the shards' files, and pages of a disk that hold them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import addressable_jpeg
from photo_plans import photo_data
from pixels import at_keep_rate, train_planner

from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import write_tar
from pipeline.batch import Batch
from pipeline.graph.pixel_cache import MemoryCache
from pipeline.loader import PatchLoader
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex, build_index
from pipeline.shards.units import open_units, units_path
from tools.shards.units_files import write_units_files

pytestmark = pytest.mark.timeout(60)  # a loader that hangs is a failure

WIDTH, HEIGHT, NUM_SAMPLES, BATCH, PAGE = 220, 150, 16, 8, 4096


def write_shards(folder: Path, images: list[bytes]) -> ShardIndex:
    """Two shards of labelled images."""
    tars, half = [], len(images) // 2
    for first in (0, half):
        members = []
        for i in range(first, first + half):
            members += [(f"{i:05d}.jpg", images[i]), (f"{i:05d}.cls", b"1")]
        tars.append(write_tar(folder / f"train-{first:06d}.tar", members))
    return build_index(folder, "train", tars)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    images = [jpeg_bytes(i, WIDTH, HEIGHT) for i in range(NUM_SAMPLES)]
    return write_shards(tmp_path_factory.mktemp("ordinary"), images)


@pytest.fixture(scope="module")
def addressable(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    images = [addressable_jpeg(i, WIDTH, HEIGHT) for i in range(NUM_SAMPLES)]
    index = write_shards(tmp_path_factory.mktemp("addressable"), images)
    write_units_files([index], workers=1)
    return index


def planner_of(index: ShardIndex, rule: str = "random", **data: object) -> TrainPlanner:
    settings = photo_data(index.folder, **data)
    return train_planner(index, settings, selection=SelectionConfig(rule=rule), global_batch_size=BATCH)


def read(planner: TrainPlanner, plans: Iterable[StepPlan], **how: object) -> list[Batch]:
    with PatchLoader(planner, iter(plans), batch_size=BATCH, num_threads=1, **how) as loader:  # type: ignore[arg-type]
        batches = list(loader)
        assert loader.read.num_images == sum(batch.num_images for batch in batches)
        assert loader.read.num_bytes == sum(batch.bytes_read for batch in batches)
        assert loader.read.num_pages == sum(batch.pages_read for batch in batches)
    return batches


def of_whole_images(plan: StepPlan) -> StepPlan:
    return replace(plan, crops=np.broadcast_to(np.array([0, 0, HEIGHT, WIDTH], plan.crops.dtype), plan.crops.shape))


def num_pages(begin: int, count: int) -> int:
    """Pages that hold so many bytes from ``begin`` on, counted byte by byte."""
    return len({byte // PAGE for byte in range(begin, begin + count)})


def whole_files(index: ShardIndex, ids: Iterable[int]) -> tuple[int, int]:
    """Bytes of the samples' files, and pages that hold them."""
    places = [(int(index.offset[one]), int(index.length[one])) for one in ids]
    return sum(length for _, length in places), sum(num_pages(*place) for place in places)


def lists_of_units(index: ShardIndex, ids: Iterable[int]) -> tuple[int, int]:
    """Bytes of the samples' lengths in the files of units, found there by what they are, and pages that hold them."""
    num_bytes = pages = 0
    for one in ids:
        shard = index.shards[index.shard[one]]
        units = open_units(index.folder, shard)
        assert units is not None
        local = one - int(np.flatnonzero(index.shard == index.shard[one])[0])
        lengths = units.lengths[units.starts[local] : units.starts[local + 1]].tobytes()
        content = units_path(index.folder / shard.name).read_bytes()
        assert content.count(lengths) == 1
        num_bytes, pages = num_bytes + len(lengths), pages + num_pages(content.index(lengths), len(lengths))
    return num_bytes, pages


@pytest.mark.parametrize("rule", ["random", "contrast"])
@pytest.mark.parametrize("route", ["select_first", "resample_first"])
def test_of_ordinary_images_whole_files_are_read(ordinary: ShardIndex, rule: str, route: str) -> None:
    planner = planner_of(ordinary, rule, route=route)
    for batch in read(planner, (planner.plan(step) for step in range(2))):
        assert (batch.bytes_read, batch.pages_read) == whole_files(ordinary, batch.plan.sample_ids.tolist())


def test_a_step_of_images_that_echo_holds_reads_none_of_them(ordinary: ShardIndex) -> None:
    planner = planner_of(ordinary, echo=2)
    first, second = read(planner, (planner.plan(step) for step in range(2)))
    assert (first.bytes_read, first.pages_read) == whole_files(ordinary, first.plan.sample_ids.tolist())
    held = {(row, one) for row, one in enumerate(first.plan.sample_ids.tolist())}
    fresh = [one for row, one in enumerate(second.plan.sample_ids.tolist()) if (row, one) not in held]
    assert 0 < len(fresh) < BATCH
    assert (second.bytes_read, second.pages_read) == whole_files(ordinary, fresh)


def test_images_that_the_cache_holds_are_not_read(ordinary: ShardIndex) -> None:
    planner = planner_of(ordinary)
    cache = MemoryCache(2 * NUM_SAMPLES * WIDTH * HEIGHT * 3)
    *first_epoch, later = read(planner, (planner.plan(step) for step in range(3)), cache=cache)
    assert sum(batch.bytes_read for batch in first_epoch) == ordinary.length.sum()
    assert (later.bytes_read, later.pages_read) == (0, 0)


def test_for_all_patches_of_whole_addressable_images_their_files_and_lists_of_units_are_read(
    addressable: ShardIndex,
) -> None:
    planner = planner_of(addressable)
    num_patches = planner.data.num_patches
    plans = [of_whole_images(at_keep_rate(planner.plan(step), num_patches, 1.0)) for step in range(2)]
    for batch in read(planner, plans):
        ids = batch.plan.sample_ids.tolist()
        files, units = whole_files(addressable, ids), lists_of_units(addressable, ids)
        assert batch.bytes_read == files[0] + units[0]
        assert batch.pages_read == files[1] + units[1]


def test_for_fewer_patches_less_is_read_and_no_page_twice(addressable: ShardIndex) -> None:
    planner = planner_of(addressable)
    plans = [at_keep_rate(planner.plan(0), num_kept, num_kept / 16) for num_kept in (16, 3, 1)]
    batches = read(planner, plans)
    assert batches[0].bytes_read > batches[1].bytes_read > batches[2].bytes_read > 0
    ids = batches[0].plan.sample_ids.tolist()
    most = whole_files(addressable, ids)[1] + lists_of_units(addressable, ids)[1]
    assert most >= batches[0].pages_read >= batches[1].pages_read >= batches[2].pages_read >= 2 * BATCH


def test_without_the_file_of_units_the_whole_image_is_read(addressable: ShardIndex, tmp_path: Path) -> None:
    for shard in addressable.shards:
        (tmp_path / shard.name).write_bytes((addressable.folder / shard.name).read_bytes())
    index = build_index(tmp_path, "train", sorted(tmp_path.glob("*.tar")))
    planner = planner_of(index)
    [batch] = read(planner, [at_keep_rate(planner.plan(0), 3, 0.2)])
    assert (batch.bytes_read, batch.pages_read) == whole_files(index, batch.plan.sample_ids.tolist())
