"""Patches of addressable JPEGs, of which only the needed units are read and decoded, are those of the whole files."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jpeg_files import encoded, picture
from nvidia.dali import fn, pipeline_def
from pixels import train_planner

from benchmarks.shared.shard_files import write_tar
from pipeline.config import AugmentConfig, AutoAugmentConfig, DataConfig
from pipeline.graph import decoding, nodes
from pipeline.graph.bad_samples import RowReader, Rows
from pipeline.graph.graph import build_graph
from pipeline.graph.inputs import SourceArrays, input_names, row_sizes, source_arrays
from pipeline.graph.settings import GraphSettings
from pipeline.jpeg.addressable import NotAddressableError, Units, units_of
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.patches import gather_patches
from pipeline.shards.index import ShardIndex, build_index
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import units_path, write_units

BATCH_SIZE, NUM_IMAGES = 16, 96
# In turn. Those that Pillow does not write are of cjpeg, where it is installed.
SAMPLINGS = ["4:4:4", "4:2:2", "4:2:0", "grey"]
RARE_SAMPLINGS = ["1x2", "4x1", "4x2", "2x4", "2x2,2x1,1x1"] if shutil.which("cjpeg") else []
MIXING = {"mixup": 0.8, "cutmix": 1.0}
RECIPES = {
    "crop and flip": {},
    "mixing": MIXING,
    "operations": {"auto": AutoAugmentConfig(kind="randaugment"), "erase_probability": 0.25},
    "everything": {"auto": AutoAugmentConfig(kind="randaugment"), "erase_probability": 0.25, **MIXING},
    "jitter": {"color_jitter": 0.3},
    "blur": {"auto": AutoAugmentConfig(kind="threeaugment")},
    "small crops": {"scale": (0.005, 0.1)},
}


def image(number: int) -> bytes:
    """Of another size and sampling for each number; one in sixteen is not addressable."""
    rng = np.random.default_rng(number)
    width, height = (int(side) for side in rng.integers(1, (20 if number % 5 == 0 else 130), 2))
    kinds = [*SAMPLINGS, *RARE_SAMPLINGS]
    sampling, quality = kinds[number % len(kinds)], int(rng.integers(30, 97))
    options: dict = {"quality": quality, "restart_marker_blocks": 1, "optimize": True}
    if number % 16 == 7:
        return encoded(picture(number, width, height), quality=quality)
    if sampling == "grey":
        return encoded(picture(number, width, height, "L"), **options)
    if sampling in SAMPLINGS:
        return encoded(picture(number, width, height), subsampling=sampling, **options)
    command = ["cjpeg", "-quality", str(quality), "-optimize", "-restart", "1B", "-sample", sampling]
    pixels = encoded(picture(number, width, height), "PPM")
    return subprocess.run(command, input=pixels, capture_output=True, check=True).stdout


def units_or_none(file: bytes) -> Units | None:
    try:
        return units_of(file)
    except NotAddressableError:
        return None


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Two shards; the first one has its file of units."""
    folder, files = tmp_path_factory.mktemp("addressable"), [image(number) for number in range(NUM_IMAGES)]
    tars = []
    for shard, start in enumerate((0, NUM_IMAGES // 2)):
        members = [
            member
            for number, file in enumerate(files[start : start + NUM_IMAGES // 2], start)
            for member in ((f"{number:05d}.jpg", file), (f"{number:05d}.cls", b"%d" % (number % 5)))
        ]
        tars.append(write_tar(folder / f"train-{shard}.tar", members))
    index = build_index(folder, "train", tars)
    write_units(tars[0], index.shards[0].digest, [units_or_none(file) for file in files[: NUM_IMAGES // 2]])
    assert sum(units_or_none(file) is not None for file in files) > 80
    return index


def planner_of(
    index: ShardIndex, selection: SelectionConfig, keep_rate: float, augment: dict, **options: object
) -> TrainPlanner:
    data = DataConfig(
        train=index.folder,
        val=index.folder,
        num_classes=5,
        augment=AugmentConfig(**augment),
        **({"image_size": 64, "patch_size": 8} | options),
    )
    schedule = ScheduleConfig(kind="constant", keep_rate=keep_rate)
    return train_planner(
        index, data, selection=selection, schedule=schedule, global_batch_size=BATCH_SIZE, total_steps=1000
    )


def settings_of(planner: TrainPlanner, **options: object) -> GraphSettings:
    assert isinstance(planner.selection, SelectionConfig)
    return GraphSettings(planner.data, planner.selection, planner.crop, BATCH_SIZE, 1, **options)


def patches_of(
    index: ShardIndex, planner: TrainPlanner, plans: list[StepPlan], *, whole: bool, **options: object
) -> tuple[list[tuple[np.ndarray, ...]], list[Rows]]:
    """What the graph makes of plans, patches and ids first, and the rows that it was given."""
    of_graph, given = settings_of(planner, **options), []
    # A reader for decoded images reads whole files, and a graph that decodes takes them as well.
    of_reader = replace(of_graph, decoded=whole)
    with SampleReader(index) as reader:
        rows = RowReader(index, reader, of_reader, None)

        def source(i: int) -> SourceArrays:
            if i == len(plans):
                raise StopIteration
            given.append(rows.read(plans[i]))
            return RowReader(index, reader, of_graph, None).arrays(given[-1])

        graph = build_graph(source, of_graph)
        return [tuple(np.array(output.as_tensor()) for output in graph.run()) for _ in plans], given


def test_most_rows_come_spliced_and_the_others_whole(index: ShardIndex) -> None:
    planner = planner_of(index, SelectionConfig(rule="random"), 0.2, {})
    plans = [planner.plan(step) for step in range(12)]
    _, given = patches_of(index, planner, plans, whole=False)
    lengths = [index.length[plan.sample_ids] for plan in plans]
    shorter = np.concatenate(
        [np.array([len(file) for file in rows.images]) < length for rows, length in zip(given, lengths, strict=True)]
    )
    ids = np.concatenate([plan.sample_ids for plan in plans])
    assert shorter.mean() > 0.75
    assert not shorter[ids % 16 == 7].any()


@pytest.mark.parametrize("route", ["auto", "resample_first"])
@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("rule", ["random", "grid", "contrast"])
def test_patches_are_those_of_the_whole_files(index: ShardIndex, rule: str, recipe: str, route: str) -> None:
    for keep_rate in (0.2, 1.0):
        planner = planner_of(index, SelectionConfig(rule=rule), keep_rate, RECIPES[recipe], route=route)
        plans = [planner.plan(step) for step in range(6)]
        found, _ = patches_of(index, planner, plans, whole=False)
        expected, _ = patches_of(index, planner, plans, whole=True)
        for some, others in zip(found, expected, strict=True):
            for one, other in zip(some, others, strict=True):
                np.testing.assert_array_equal(one, other)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 999),
    st.floats(0.15, 1),
    st.sampled_from(["random", "grid", "contrast"]),
    st.sampled_from(list(RECIPES)),
    st.sampled_from([(32, 4), (64, 16), (96, 8), (224, 16)]),
    st.sampled_from([(0.005, 0.05), (0.08, 1.0), (0.9, 1.0)]),
    st.sampled_from(["auto", "resample_first"]),
)
def test_any_plan_gives_the_patches_of_the_whole_files(
    index: ShardIndex,
    step: int,
    keep_rate: float,
    rule: str,
    recipe: str,
    sizes: tuple[int, int],
    scale: tuple[float, float],
    route: str,
) -> None:
    augment = {"scale": scale} | RECIPES[recipe]
    options = {"route": route, "image_size": sizes[0], "patch_size": sizes[1]}
    planner = planner_of(index, SelectionConfig(rule=rule), keep_rate, augment, **options)
    [found], _ = patches_of(index, planner, [planner.plan(step)], whole=False)
    [expected], _ = patches_of(index, planner, [planner.plan(step)], whole=True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def on_device_images(plans: list[StepPlan], rows: list[Rows], settings: GraphSettings, sizes: list) -> list[np.ndarray]:
    """What a GPU's graph makes of rows before it augments them, by the same operators on a CPU: uint8 [B, S, S, 3]."""
    names = input_names(settings)

    @pipeline_def(batch_size=BATCH_SIZE, num_threads=1, device_id=None, exec_dynamic=True, prefetch_queue_depth=1)
    def graph() -> object:
        given = {name: fn.external_source(name=name) for name in ("encoded", "region_start", "region_end", "flip")}
        images = decoding.decode_whole(given["encoded"], "cpu")
        images = nodes.resize_region(images, given["region_start"], given["region_end"], settings.data.image_size)
        return nodes.flip(images, given["flip"])

    pipeline, images = graph(), []
    for plan, read, size in zip(plans, rows, sizes, strict=True):
        arrays = source_arrays(plan, read.images, settings, size, ids=read.ids, origins=read.origins)
        for name, array in zip(names, arrays, strict=True):
            pipeline.feed_input(name, list(array))
        images.append(np.array(pipeline.run()[0].as_tensor()))
    return images


@pytest.mark.parametrize("rule", ["random", "contrast"])
@pytest.mark.parametrize("scale", [(0.005, 0.05), (0.08, 1.0), (0.9, 1.0)])
def test_what_a_gpu_is_sent_gives_the_patches_of_whole_files(
    index: ShardIndex, rule: str, scale: tuple[float, float]
) -> None:
    planner = planner_of(index, SelectionConfig(rule=rule), 0.3, {"scale": scale}, device="gpu", image_size=32)
    of_graph, plans = settings_of(planner, device_id=0), [planner.plan(step) for step in range(6)]
    sizes = [row_sizes(plan, index) for plan in plans]
    with SampleReader(index) as reader:
        spliced = [RowReader(index, reader, of_graph, None).read(plan) for plan in plans]
        whole = [RowReader(index, reader, replace(of_graph, decoded=True), None).read(plan) for plan in plans]
    lengths = [len(file) for rows in spliced for file in rows.images]
    assert (np.array(lengths) < [len(file) for rows in whole for file in rows.images]).any()
    found, expected = (on_device_images(plans, rows, of_graph, sizes) for rows in (spliced, whole))
    every_patch = np.tile(np.arange(planner.data.num_patches), (BATCH_SIZE, 1))
    for rows, some, others in zip(spliced, found, expected, strict=True):
        ids = every_patch if rows.ids is None else rows.ids
        for row in range(BATCH_SIZE):
            np.testing.assert_array_equal(
                gather_patches(some[row], ids[row], planner.data.patch_size),
                gather_patches(others[row], ids[row], planner.data.patch_size),
            )


def test_targets_of_a_reconstruction_are_those_of_the_whole_files(index: ShardIndex) -> None:
    planner = planner_of(index, SelectionConfig(rule="random"), 0.25, {})
    [found], _ = patches_of(index, planner, [planner.plan(3)], whole=False, targets=True)
    [expected], _ = patches_of(index, planner, [planner.plan(3)], whole=True, targets=True)
    assert len(found) == 3
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def without_units(index: ShardIndex) -> Iterator[Path]:
    """The file of units of the first shard, put away and free to be written."""
    path = units_path(index.folder / index.shards[0].name)
    kept = path.read_bytes()
    path.unlink()
    yield path
    path.write_bytes(kept)


@pytest.mark.parametrize("kind", ["missing", "of another shard", "shifted", "of other lengths"])
def test_units_that_are_not_as_the_file_says_are_looked_for(index: ShardIndex, without_units: Path, kind: str) -> None:
    tar, digest = index.folder / index.shards[0].name, index.shards[0].digest
    with SampleReader(index) as reader:
        files = [one.tobytes() for one in reader.read(np.arange(NUM_IMAGES // 2))]
    units = [units_or_none(file) for file in files]
    if kind == "of another shard":
        write_units(tar, "another digest", units)
    elif kind == "shifted":
        write_units(tar, digest, [*units[1:], units[0]])
    elif kind == "of other lengths":
        changed = [None if one is None else replace(one, lengths=one.lengths[::-1].copy()) for one in units]
        write_units(tar, digest, changed)
    planner = planner_of(index, SelectionConfig(rule="random"), 0.3, {})
    plans = [planner.plan(step) for step in range(6)]
    found, given = patches_of(index, planner, plans, whole=False)
    expected, _ = patches_of(index, planner, plans, whole=True)
    for (patches, ids), (others, other_ids) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(patches, others)
        np.testing.assert_array_equal(ids, other_ids)
    lengths = np.concatenate([index.length[plan.sample_ids] for plan in plans])
    shorter = np.concatenate([[len(file) for file in rows.images] for rows in given]) < lengths
    assert shorter.mean() > 0.75


def test_what_is_read_is_counted(index: ShardIndex) -> None:
    counts = {}
    for keep_rate in (0.1, 1.0):
        planner = planner_of(index, SelectionConfig(rule="random"), keep_rate, {})
        plan = planner.plan(0)
        for whole in (False, True):
            _, [rows] = patches_of(index, planner, [plan], whole=whole)
            counts[keep_rate, whole] = rows.num_bytes, rows.num_pages
        assert counts[keep_rate, True][0] == index.length[plan.sample_ids].sum()
    assert counts[0.1, False][0] < counts[1.0, False][0]
    assert all(pages * 4096 >= num_bytes // 2 for num_bytes, pages in counts.values())


def test_validation_takes_whole_files(index: ShardIndex) -> None:
    planner = planner_of(index, SelectionConfig(rule="random"), 0.2, {})
    assert settings_of(planner).splices
    assert not replace(settings_of(planner), training=False).splices
    assert not replace(settings_of(planner), decoded=True).splices
