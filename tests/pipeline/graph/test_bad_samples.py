import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali.pipeline import Pipeline
from photo_plans import Row, photo_data, rising_planner, rows_of
from pixels import train_planner

from benchmarks.damaged_images.files import FILES
from benchmarks.shared.bad_images import (
    HEIGHT,
    LATER_DAMAGE,
    SOUND_OUTSIDE,
    WIDTH,
    encoded,
    overwrite,
    write_photo_shards,
)
from benchmarks.shared.photographs import jpeg_bytes
from pipeline.config import AugmentConfig
from pipeline.graph.bad_samples import MAX_ATTEMPTS, BadRow, BadSampleError, RowReader
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan.step import TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.containers import NEGATIVE
from pipeline.shards.index import ShardIndex, StaleIndexError
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(60)  # a loader that hangs is a failure

SELECTION = SelectionConfig(rule="contrast", temperature=0.05)
NUM_STEPS = 9  # three epochs of 48 images
BATCH = 16


def planner_of(index: ShardIndex, **data: object) -> TrainPlanner:
    return rising_planner(index, SELECTION, global_batch_size=BATCH, total_steps=NUM_STEPS, **data)


def load(
    index: ShardIndex,
    planner: TrainPlanner,
    *,
    skip: bool,
    first_step: int = 0,
    stop_step: int = NUM_STEPS,
    micro_batch_size: int = BATCH,
    rank: int = 0,
    world_size: int = 1,
    num_threads: int = 1,
    prefetch_batches: int = 4,
) -> PatchLoader:
    skipping = {"prefetch_batches": prefetch_batches, "on_bad_sample": "skip" if skip else "fail"}
    return PatchLoader(
        replace(planner, data=planner.data.model_copy(update=skipping)),
        TrainPlans(
            planner,
            first_step=first_step,
            stop_step=stop_step,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world_size=world_size,
        ),
        batch_size=micro_batch_size,
        num_threads=num_threads,
    )


def run(index: ShardIndex, planner: TrainPlanner, **how: int) -> tuple[list[Row], list[BadRow]]:
    with load(index, planner, skip=True, **how) as loader:
        rows = rows_of(list(loader))
        return rows, loader.take_bad_rows()


def steps_with(planner: TrainPlanner, sample_id: int) -> list[int]:
    return [step for step in range(NUM_STEPS) if sample_id in planner.plan(step).sample_ids]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """What comes out where no image is damaged."""
    index = write_photo_shards(tmp_path_factory.mktemp("sound"))
    rows, bad = run(index, planner_of(index))
    assert not bad
    return rows


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Images 37, 10, 17 and 24 are damaged inside, where an index does not see it; 31, 38 and 45 after indexing."""
    replaced = {10: SOUND_OUTSIDE["a truncated PNG"], 17: SOUND_OUTSIDE["a GIF"], 24: SOUND_OUTSIDE["an AVIF"]}
    replaced[37] = jpeg_bytes(37, WIDTH, HEIGHT)[:-100]
    index = write_photo_shards(tmp_path_factory.mktemp("damaged"), replaced)
    for sample_id, name in ((31, "garbage"), (38, "a JPEG bomb"), (45, "an image of another size")):
        overwrite(index, sample_id, LATER_DAMAGE[name])
    return index


@pytest.fixture(scope="module")
def whole_run(damaged: ShardIndex) -> tuple[list[Row], list[BadRow]]:
    return run(damaged, planner_of(damaged))


# Substitutes


def test_bad_rows_get_the_planned_substitute_and_no_other_row_changes(
    damaged: ShardIndex, whole_run: tuple[list[Row], list[BadRow]], sound: list[Row]
) -> None:
    rows, bad = whole_run
    planner = planner_of(damaged)
    replaced = {(one.step, one.row): one for one in bad}
    assert {one.sample_id for one in bad} == {10, 17, 24, 31, 37, 38, 45}
    for row, other in zip(rows, sound, strict=True):
        step, number, label, *_ = row
        if (step, number) not in replaced:
            assert row == other
            continue
        one = replaced[step, number]
        assert one.sample_id == other[2] == planner.plan(step).sample_ids[number]
        assert label == one.substitute_id
        assert label in [planner.substitute(one.sample_id, attempt) for attempt in range(5)]
        assert label not in (10, 17, 24, 31, 38, 45)


def test_all_but_a_truncated_jpeg_are_bad_whatever_the_crop(
    damaged: ShardIndex, whole_run: tuple[list[Row], list[BadRow]]
) -> None:
    planner = planner_of(damaged)
    for sample_id in (37, 10, 17, 24, 31, 38, 45):
        met = [one.step for one in whole_run[1] if one.sample_id == sample_id]
        if sample_id == 37:  # its upper part decodes, and crops that lie there are sound
            assert 0 < len(met) < len(steps_with(planner, 37)) == 3
        else:
            assert met == steps_with(planner, sample_id)


def test_a_substitute_is_cropped_as_the_row_would_have_been(
    damaged: ShardIndex, whole_run: tuple[list[Row], list[BadRow]], sound: list[Row]
) -> None:
    """All images have one size here, so the substitute's pixels are those of a sound plan with another sample."""
    planner = planner_of(damaged)
    one = next(one for one in whole_run[1] if one.sample_id == 10)
    plan = planner.plan(one.step)
    assert one.substitute_id is not None
    ids = plan.sample_ids.copy()
    ids[one.row] = one.substitute_id
    again = planner.with_samples(plan, ids)
    np.testing.assert_array_equal(again.crops, plan.crops)
    assert again.labels[one.row] == one.substitute_id
    micro = planner.plan(one.step, 1, 4).rows(0, 2)
    assert planner.with_samples(micro, micro.sample_ids).crops.tolist() == micro.crops.tolist()


@pytest.mark.parametrize(
    "how",
    [
        {"prefetch_batches": 1},
        {"prefetch_batches": 8, "num_threads": 2},
        {"micro_batch_size": 4},
        {"micro_batch_size": 1, "stop_step": 3},
    ],
    ids=str,
)
def test_prefetching_threads_and_micro_batches_change_nothing(
    damaged: ShardIndex, whole_run: tuple[list[Row], list[BadRow]], how: dict[str, int]
) -> None:
    rows, bad = run(damaged, planner_of(damaged), **how)
    stop = how.get("stop_step", NUM_STEPS)
    assert rows == whole_run[0][: stop * BATCH]
    assert bad == [one for one in whole_run[1] if one.step < stop]


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_number_of_ranks_changes_nothing(
    damaged: ShardIndex, whole_run: tuple[list[Row], list[BadRow]], world_size: int
) -> None:
    parts = [
        run(damaged, planner_of(damaged), rank=rank, world_size=world_size, micro_batch_size=BATCH // world_size)
        for rank in range(world_size)
    ]
    assert sorted(row for rows, _ in parts for row in rows) == whole_run[0]
    bad = [one for _, found in parts for one in found]
    assert sorted(bad, key=lambda one: (one.step, one.row)) == sorted(whole_run[1], key=lambda one: (one.step, one.row))


def test_every_step_is_the_same_when_the_run_resumes_there(
    damaged: ShardIndex, whole_run: tuple[list[Row], list[BadRow]]
) -> None:
    for step in range(1, NUM_STEPS):
        rows, bad = run(damaged, planner_of(damaged), first_step=step, stop_step=step + 1)
        assert rows == whole_run[0][step * BATCH : (step + 1) * BATCH]
        assert bad == [one for one in whole_run[1] if one.step == step]


def test_a_substitute_that_is_bad_itself_is_passed_over(tmp_path: Path) -> None:
    planner = planner_of(write_photo_shards(tmp_path / "sound"))
    first, second = planner.substitute(7, 0), planner.substitute(7, 1)
    assert len({7, first, second}) == 3
    gif = SOUND_OUTSIDE["a GIF"]
    index = write_photo_shards(tmp_path / "damaged", {7: gif, first: gif})
    _, bad = run(index, planner_of(index), stop_step=3)
    assert {one.substitute_id for one in bad if one.sample_id == 7} == {second}


def test_where_nothing_can_be_decoded_the_search_for_a_substitute_ends(tmp_path: Path) -> None:
    index = write_photo_shards(tmp_path, dict.fromkeys(range(6), SOUND_OUTSIDE["a GIF"]), num_samples=6)
    for sample_id in range(6):
        overwrite(index, sample_id, LATER_DAMAGE["garbage"])
    planner = train_planner(index, photo_data(tmp_path), global_batch_size=6, total_steps=1)
    with (
        load(index, planner, skip=True, stop_step=1, micro_batch_size=6) as loader,
        pytest.raises(BadSampleError, match=f"none of {MAX_ATTEMPTS} substitutes for sample '0000"),
    ):
        next(loader)


# Failing


@pytest.mark.parametrize("name", [*SOUND_OUTSIDE, *LATER_DAMAGE])
@pytest.mark.parametrize("crop", ["resized", "pad"])
def test_a_bad_image_ends_a_run_that_does_not_skip_and_is_named_when_it_is_due(
    tmp_path: Path, name: str, crop: str
) -> None:
    sample_id = 20
    index = write_photo_shards(tmp_path, {sample_id: SOUND_OUTSIDE[name]} if name in SOUND_OUTSIDE else None)
    if name in LATER_DAMAGE:
        overwrite(index, sample_id, LATER_DAMAGE[name])
    planner = planner_of(index, augment=AugmentConfig(crop=crop, scale=(0.9, 1.0)))
    due = steps_with(planner, sample_id)[0]
    with load(index, planner, skip=False, micro_batch_size=8) as loader:
        for _ in range(2 * due):
            next(loader)
        with pytest.raises(BadSampleError) as caught:
            list(loader)
        with pytest.raises(StopIteration):
            next(loader)
    message = str(caught.value)
    assert f"1 image(s) of step {due} cannot be used" in message
    assert f"sample '00020' in train-000001.tar at byte {index.offset[sample_id]}: " in message
    assert "\n" not in message
    assert not loader_threads()


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("a truncated JPEG", "image file is truncated"),
        ("a truncated PNG", "truncated"),
        ("a GIF", "does not decode this kind of GIF image"),
        ("an AVIF", "does not decode this kind of AVIF image"),
        ("zeros", "no known image format"),
        ("garbage", "no known image format"),
        ("a JPEG bomb", "is 60000x60000 pixels by its header, but 64x48 in the index"),
        ("a PNG bomb", "is 60000x60000 pixels by its header, but 64x48 in the index"),
        ("an image of another size", "is 32x24 pixels by its header, but 64x48 in the index"),
    ],
)
def test_the_cause_is_told(tmp_path: Path, name: str, cause: str) -> None:
    index = write_photo_shards(tmp_path, {0: SOUND_OUTSIDE[name]} if name in SOUND_OUTSIDE else None)
    if name in LATER_DAMAGE:
        overwrite(index, 0, LATER_DAMAGE[name])
    with (
        validation_loader(index, keep_rate=1.0, skip=False) as loader,
        pytest.raises(BadSampleError, match=cause),
    ):
        next(loader)


def test_files_that_dali_dies_of_are_replaced_by_name_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = jpeg_bytes(0, WIDTH, HEIGHT)
    table = whole.index(b"\xff\xdb")
    causes = {
        3: (encoded(3, "TIFF"), "the loader does not decode this kind of TIFF image"),
        7: (encoded(7, "JPEG2000"), "the loader does not decode this kind of JPEG2000 image"),
        11: (FILES["BMP, 16 bits"](0), "a BMP of 16 bits and compression 0, which the decoder does not know"),
        19: (FILES["JPEG, CMYK without Adobe marker"](0), NEGATIVE),
        23: (whole[:table] + b"\xff\0" + whole[table:], "a JPEG with the bytes FF 00 where a marker belongs"),
        29: (FILES["PNG"](0)[:-12], "a PNG whose chunks do not lead to its end: truncated or damaged"),
    }
    index = write_photo_shards(tmp_path, {sample_id: data for sample_id, (data, _) in causes.items()})
    rows, bad = run(index, planner_of(index), stop_step=3)
    assert len(rows) == 3 * BATCH
    assert {one.sample_id: one.cause for one in bad} == {sample_id: cause for sample_id, (_, cause) in causes.items()}


def test_an_image_without_bytes_is_bad(tmp_path: Path) -> None:
    index = write_photo_shards(tmp_path)
    length = index.length.copy()
    length[5] = 0
    with (
        validation_loader(replace(index, length=length), keep_rate=1.0, skip=False) as loader,
        pytest.raises(BadSampleError, match=r"'00005' in train-000000\.tar at byte \d+: the image is empty"),
    ):
        next(loader)


def test_damage_inside_that_decodes_is_not_seen(tmp_path: Path) -> None:
    """No decoder can see it; the documentation says so, and this test that it is still true."""
    data = bytearray(jpeg_bytes(0, 64, 48))
    data[-400:-380] = bytes(20)
    index = write_photo_shards(tmp_path, {0: bytes(data)})
    with validation_loader(index, keep_rate=1.0, skip=False) as loader:
        assert len(list(loader)) == 6


def test_an_error_that_no_image_explains_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Pipeline) -> None:
        raise RuntimeError("out of memory")

    index = write_photo_shards(tmp_path, num_samples=48)
    monkeypatch.setattr("pipeline.graph.bad_samples.run_once", lambda arrays, settings: None)
    monkeypatch.setattr(Pipeline, "run", fail)
    with load(index, planner_of(index), skip=True) as loader, pytest.raises(RuntimeError, match="out of memory"):
        next(loader)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(
    "message", ["CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory", "bad_alloc"]
)
def test_a_machine_that_fails_on_every_row_is_no_images_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, skip: bool
) -> None:
    """With too little memory each row fails alone too."""

    def fail(*_: object) -> None:
        raise RuntimeError(f"Error in MIXED operator, encountered:\n\n{message}")

    index = write_photo_shards(tmp_path)
    monkeypatch.setattr("pipeline.graph.bad_samples.run_once", fail)
    with load(index, planner_of(index), skip=skip) as loader:
        rows = loader._rows
        assert isinstance(rows, RowReader)
        with pytest.raises(RuntimeError, match=message.split()[0]):
            rows.examine(rows.read(planner_of(index).plan(0)))
    monkeypatch.setattr(Pipeline, "run", fail)
    with load(index, planner_of(index), skip=skip) as loader, pytest.raises(RuntimeError, match=message.split()[0]):
        next(loader)


# Validation


def validation_loader(index: ShardIndex, *, keep_rate: float, skip: bool, batch: int = 8) -> PatchLoader:
    data = photo_data(index.folder, on_bad_sample="skip" if skip else "fail")
    planner = ValidationPlanner(index, data, SELECTION, keep_rate, batch, 0)
    return PatchLoader(planner, validation_plans(planner), batch_size=batch, num_threads=1)


def test_validation_leaves_bad_samples_uncounted_and_counts_every_other_one_once(damaged: ShardIndex) -> None:
    with validation_loader(damaged, keep_rate=0.4, skip=True, batch=7) as loader:
        batches = list(loader)
        bad = loader.take_bad_rows()
    assert sorted(one.sample_id for one in bad) == [10, 17, 24, 31, 37, 38, 45]
    assert {one.substitute_id for one in bad} == {None}
    counted = [int(i) for batch in batches for i in batch.plan.sample_ids[batch.counted.numpy()]]
    assert counted == sorted(set(range(48)) - {one.sample_id for one in bad})


def test_rows_that_fill_up_a_validation_batch_are_not_reported(tmp_path: Path) -> None:
    index = write_photo_shards(tmp_path, {0: SOUND_OUTSIDE["a GIF"]})
    with validation_loader(index, keep_rate=1.0, skip=True, batch=13) as loader:
        batches = list(loader)
        assert [(one.step, one.row, one.sample_id) for one in loader.take_bad_rows()] == [(0, 0, 0)]
    assert sum(int(batch.counted.sum()) for batch in batches) == 47


# Shards that change under a run


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace_content(path: Path) -> None:
    """Another tar of the same size, written over the old one."""
    data = path.read_bytes()
    at = data.index(b"00017.cls")
    path.write_bytes(
        data[:at] + data[at:].replace(b"\x0017\x00", b"\x0018\x00").replace(b"17" + bytes(510), b"18" + bytes(510))
    )


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("change", [truncate, replace_content])
def test_a_shard_that_changes_under_the_run_ends_it(tmp_path: Path, change: Callable[[Path], None], skip: bool) -> None:
    """Under skip as well: where offsets or labels may be wrong, no substitute makes the others right."""
    index = write_photo_shards(tmp_path)
    with load(index, planner_of(index), skip=skip, micro_batch_size=1, prefetch_batches=1) as loader:
        next(loader)
        change(tmp_path / "train-000001.tar")
        with pytest.raises(StaleIndexError, match=r"sample '000\d\d' in train-000001\.tar at byte \d+"):
            list(loader)
    assert not loader_threads()


def test_a_shard_that_is_deleted_or_replaced_by_name_is_read_on_from_the_old_file(
    tmp_path: Path, sound: list[Row]
) -> None:
    index = write_photo_shards(tmp_path)
    with load(index, planner_of(index), skip=False, prefetch_batches=1) as loader:
        batches = [next(loader)]
        (tmp_path / "train-000000.tar").unlink()
        (tmp_path / "train-000002.tar").rename(tmp_path / "train-000001.tar")
        batches += list(loader)
    assert rows_of(batches) == sound


def test_a_new_modification_time_alone_is_no_harm(tmp_path: Path, sound: list[Row]) -> None:
    index = write_photo_shards(tmp_path)
    with load(index, planner_of(index), skip=False, prefetch_batches=1) as loader:
        batches = [next(loader)]
        for path in tmp_path.glob("*.tar"):
            os.utime(path)
        batches += list(loader)
    assert rows_of(batches) == sound


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "patch-loader"]
