"""A loader whose sizes follow a schedule gives at each step what one of these sizes throughout gives there."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loaded import content
from PIL import Image
from pixels import train_planner

from benchmarks.shared.bad_images import write_photo_shards
from benchmarks.shared.photographs import photograph
from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph.pixel_cache import MemoryCache
from pipeline.jpeg.addressable import units_of
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.sizes import SizeScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.maps import write_maps
from pipeline.shards.index import ShardIndex
from pipeline.shards.units import write_units
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(120)  # a loader that hangs is a failure

BATCH, NUM_STEPS = 8, 8
# Steps 0 to 2 at 32 pixels in patches of 16, 3 at 32 in patches of 8, 4 and 5 at 48 in patches of 8, then as data says.
SIZES = {
    "image_size": SizeScheduleConfig(kind="steps", values=[[0, 32], [0.5, 48], [0.75, 64]]),
    "patch_size": SizeScheduleConfig(kind="steps", values=[[0, 16], [0.375, 8]]),
}
RATES: dict[str, Any] = {"kind": "cyclic", "keep_rate": [0.4, 1.0]}
EVERYTHING = {"mixup": 0.8, "cutmix": 1.0, "erase_probability": 0.5, "auto": {"kind": "randaugment"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "random": ({"rule": "random"}, {}),
    "grid, resampled first": ({"rule": "grid"}, {"route": "resample_first"}),
    "contrast": ({"rule": "contrast", "temperature": 0.1}, {}),
    "contrast, resampled first": ({"rule": "contrast"}, {"route": "resample_first"}),
    "everything": ({"rule": "random"}, {"augment": EVERYTHING}),
    "everything, resampled first": ({"rule": "contrast"}, {"augment": EVERYTHING, "route": "resample_first"}),
    "shifted": ({"rule": "contrast"}, {"augment": {"crop": "pad", **EVERYTHING}}),
    "map": ({"rule": "map", "map": "mine"}, {"augment": {"cutmix": 1.0}}),
    "map, shifted": ({"rule": "map", "map": "mine"}, {"augment": {"crop": "pad"}}),
    "echo": ({"rule": "random"}, {"echo": 2, "echo_gap": 3}),
    "echo, shifted": ({"rule": "random"}, {"echo": 2, "augment": {"crop": "pad", "mixup": 0.8}}),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Addressable photographs with score maps, of all of which little is needed at small sizes."""
    images = {}
    for number in range(48):
        sink = io.BytesIO()
        Image.fromarray(photograph(number, 160, 120)).save(sink, "JPEG", restart_marker_blocks=1, quality=90)
        images[number] = sink.getvalue()
    index = write_photo_shards(tmp_path_factory.mktemp("sizes"), images)
    for number, shard in enumerate(index.shards):
        here = np.flatnonzero(index.shard == number).tolist()
        write_units(index.folder / shard.name, shard.digest, [units_of(images[sample]) for sample in here])
        grids = np.random.default_rng(number).integers(0, 256, (len(here), 8, 8), dtype=np.uint8)
        write_maps(index.folder / shard.name, "mine", shard.digest, grids, kind="mine", made_by={}, unscored=[])
    return index


def data_of(folder: Path, **settings: Any) -> DataConfig:
    options = {"image_size": 64, "patch_size": 8} | settings
    options["augment"] = AugmentConfig.model_validate(options.get("augment", {}))
    return DataConfig(train=folder, val=folder, num_classes=100, **options)


def planner_of(index: ShardIndex, case: str, sizes: dict[str, Any], **settings: Any) -> TrainPlanner:
    selection, data = CASES[case]
    return train_planner(
        index,
        data_of(index.folder, **data, **settings),
        selection=SelectionConfig(**selection),
        schedule=ScheduleConfig(**RATES, **sizes),
        global_batch_size=BATCH,
        total_steps=NUM_STEPS,
    )


def batches_of(planner: TrainPlanner, **options: Any) -> list[Batch]:
    plans = TrainPlans(planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=BATCH // 2)
    with PatchLoader(planner, plans, batch_size=BATCH // 2, num_threads=1, **options) as loader:
        return list(loader)


def stages_of(planner: TrainPlanner) -> Iterator[tuple[int, int, int]]:
    """Each step with the sizes of its image and its patches."""
    for step in range(NUM_STEPS):
        stage = planner.schedule.stage(step)
        assert stage.image_size is not None
        assert stage.patch_size is not None
        yield step, stage.image_size, stage.patch_size


def of_constant_sizes(index: ShardIndex, case: str, of: TrainPlanner) -> list[tuple[int, int, bytes, bytes, bytes]]:
    """All rows of the steps of ``of``, from a run for each of its sizes that has them throughout."""
    rows = []
    for image_size, patch_size in {(image_size, patch_size) for _, image_size, patch_size in stages_of(of)}:
        here = [step for step, *sizes in stages_of(of) if sizes == [image_size, patch_size]]
        batches = batches_of(planner_of(index, case, {}, image_size=image_size, patch_size=patch_size))
        rows += content([batch for batch in batches if batch.plan.step in here])
    return sorted(rows)


@pytest.mark.parametrize("case", CASES)
def test_each_step_is_that_of_a_run_of_its_sizes_throughout(index: ShardIndex, case: str) -> None:
    planner = planner_of(index, case, SIZES)
    assert len({(image_size, patch_size) for _, image_size, patch_size in stages_of(planner)}) == 4
    assert sorted(content(batches_of(planner))) == of_constant_sizes(index, case, planner)


def test_what_is_cached_at_one_size_serves_the_others(index: ShardIndex) -> None:
    planner = planner_of(index, "random", SIZES)
    with_cache = batches_of(planner, cache=MemoryCache(10**8))
    assert content(with_cache) == content(batches_of(planner))


def test_small_images_of_addressable_files_need_no_more_of_them(index: ShardIndex) -> None:
    planner = planner_of(index, "random", {"image_size": SIZES["image_size"]})
    for batch in batches_of(planner):
        assert 0 < batch.bytes_read < index.length[batch.plan.sample_ids].sum()
