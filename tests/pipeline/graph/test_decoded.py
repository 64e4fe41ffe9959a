"""Images that are decoded once and used several times: nothing that comes out may depend on it."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photo_plans import Row, rising_planner, rows_of
from PIL import Image

from benchmarks.shared.bad_images import HEIGHT, SOUND_OUTSIDE, WIDTH, write_photo_shards
from benchmarks.shared.photographs import jpeg_bytes, photograph
from pipeline.config import AugmentConfig
from pipeline.graph.bad_samples import BadSampleError
from pipeline.graph.decoded import DecodedRows, ImageDecoder
from pipeline.graph.pixel_cache import MemoryCache, PixelCache
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(60)  # a loader that hangs is a failure

NUM_STEPS, BATCH, IMAGE_BYTES = 12, 8, WIDTH * HEIGHT * 3
TRUNCATED = (17, 27)  # of each, one of the two views under echo: 2 looks at the damaged end
CROPS = {
    "resized": AugmentConfig(scale=(0.05, 1.0)),
    "pad": AugmentConfig(crop="pad"),
    "mixed": AugmentConfig(mixup=1.0, cutmix=1.0, erase_probability=0.5),
}


def planner_of(index: ShardIndex, *, augment: str = "resized", rule: str = "contrast", **data: Any) -> TrainPlanner:
    selection, data = SelectionConfig(rule=rule), {"augment": CROPS[augment]} | data
    return rising_planner(index, selection, global_batch_size=BATCH, total_steps=NUM_STEPS, **data)


def load(
    index: ShardIndex,
    planner: TrainPlanner,
    *,
    micro_batch_size: int = BATCH,
    skip: bool = False,
    cache: PixelCache | None = None,
    as_planned: bool = False,
    targets: bool = False,
    **of_plans: int,
) -> PatchLoader:
    """as_planned: every image is decoded anew for every row, by the graph itself."""
    plans = {"first_step": 0, "stop_step": NUM_STEPS, "micro_batch_size": micro_batch_size} | of_plans
    changed = ({"echo": 1} if as_planned else {}) | ({"on_bad_sample": "skip"} if skip else {})
    return PatchLoader(
        replace(planner, data=planner.data.model_copy(update=changed)),
        TrainPlans(planner, **plans),  # type: ignore[arg-type]
        batch_size=micro_batch_size,
        num_threads=1,
        cache=cache,
        targets=targets,
    )


def run(index: ShardIndex, planner: TrainPlanner, **how: Any) -> list[Row]:
    with load(index, planner, **how) as loader:
        return rows_of(loader)


@pytest.fixture
def decoded_counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images decoded in each call, from now on."""
    counts: list[int] = []
    whole = ImageDecoder.whole

    def counted(self: ImageDecoder, encoded: list[np.ndarray]) -> list[np.ndarray]:
        counts.append(len(encoded))
        return whole(self, encoded)

    monkeypatch.setattr(ImageDecoder, "whole", counted)
    return counts


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    return write_photo_shards(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Images that never decode, and TRUNCATED, of which some windows decode and the whole does not."""
    replaced = {i: jpeg_bytes(i, WIDTH, HEIGHT)[:-100] for i in TRUNCATED}
    replaced |= {10: SOUND_OUTSIDE["a truncated PNG"], 24: SOUND_OUTSIDE["a GIF"]}
    return write_photo_shards(tmp_path_factory.mktemp("damaged"), replaced)


# Why it is exact


def files() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for number in range(28):
        format, options = [
            ("JPEG", {"quality": 87}),
            ("JPEG", {"quality": 95, "subsampling": 0}),
            ("JPEG", {"quality": 80, "subsampling": 1}),
            ("JPEG", {"quality": 80, "progressive": True}),
            ("JPEG", {"quality": 80, "restart_marker_blocks": 3}),
            ("PNG", {}),
            ("WEBP", {}),
        ][number % 7]
        image = Image.fromarray(photograph(number, int(rng.integers(40, 300)), int(rng.integers(40, 300))))
        sink = io.BytesIO()
        (image.convert("L") if number // 7 == 3 and format != "WEBP" else image).save(sink, format, **options)
        yield np.frombuffer(sink.getvalue(), dtype=np.uint8)


def test_a_window_of_the_whole_image_holds_what_decoding_the_window_gives() -> None:
    rng, decoder = np.random.default_rng(1), ImageDecoder(batch_size=28, num_threads=1)
    encoded = list(files())
    for file, image in zip(encoded, decoder.whole(encoded), strict=True):
        for _ in range(4):
            size = np.array(image.shape[:2])
            shape = rng.integers(1, size + 1)
            start = rng.integers(0, size - shape + 1)
            window = decoder.window(file, start.astype(np.int32), (start + shape).astype(np.int32))
            (top, left), (bottom, right) = start, start + shape
            np.testing.assert_array_equal(window, image[top:bottom, left:right])


# Echo


@pytest.mark.parametrize(("augment", "echo", "gap"), [("resized", 3, 2), ("pad", 2, 1), ("mixed", 2, 1)])
def test_echoed_batches_equal_those_that_are_decoded_row_by_row(
    photos: ShardIndex, augment: str, echo: int, gap: int
) -> None:
    planner = planner_of(photos, augment=augment, echo=echo, echo_gap=gap)
    assert run(photos, planner) == run(photos, planner, as_planned=True)


@pytest.mark.parametrize("rule", ["random", "grid"])
def test_echo_serves_the_other_rules_and_pre_training_too(photos: ShardIndex, rule: str) -> None:
    planner = planner_of(photos, rule=rule, echo=2)
    how = {"stop_step": 6, "targets": True}  # of those steps none keeps everything
    assert run(photos, planner, **how) == run(photos, planner, as_planned=True, **how)


def test_every_echo_th_row_is_decoded(photos: ShardIndex, decoded_counts: list[int]) -> None:
    run(photos, planner_of(photos, echo=2))
    assert decoded_counts == [BATCH] + [BATCH // 2] * (NUM_STEPS - 1)


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 2), (4, 2)])
def test_the_ranks_together_see_the_same_bytes_and_decode_as_little(
    photos: ShardIndex, decoded_counts: list[int], world_size: int, micro_batch_size: int
) -> None:
    planner = planner_of(photos, echo=2, echo_gap=2)
    alone, decoded_alone = run(photos, planner), sum(decoded_counts)
    decoded_counts.clear()
    rows = []
    for rank in range(world_size):
        rows += run(photos, planner, micro_batch_size=micro_batch_size, rank=rank, world_size=world_size)
    assert sorted(rows) == alone
    assert sum(decoded_counts) == decoded_alone


@pytest.mark.parametrize("first_step", [1, 5])
def test_a_start_in_the_middle_of_a_window_decodes_again_and_sees_the_same(
    photos: ShardIndex, decoded_counts: list[int], first_step: int
) -> None:
    planner = planner_of(photos, echo=3)
    whole = run(photos, planner)
    decoded_counts.clear()
    assert run(photos, planner, first_step=first_step) == whole[BATCH * first_step :]
    assert decoded_counts[0] == BATCH


def test_echo_holds_no_more_than_a_gap_of_batches_and_lets_go_after_the_last_view(photos: ShardIndex) -> None:
    planner = planner_of(photos, echo=3, echo_gap=2)
    with load(photos, planner) as loader:
        held = []
        for _ in loader:
            assert isinstance(loader._rows, DecodedRows)
            held.append(loader._rows.held_bytes)
    assert 0 < max(held) <= BATCH * 2 * IMAGE_BYTES


# The cache


@pytest.mark.parametrize(("augment", "num_fit"), [("resized", 0), ("resized", 48), ("pad", 5), ("mixed", 20)])
def test_a_cache_of_any_size_changes_no_byte(photos: ShardIndex, augment: str, num_fit: int) -> None:
    planner = planner_of(photos, augment=augment)
    cached = run(photos, planner, cache=MemoryCache(num_fit * IMAGE_BYTES + 1))
    assert cached == run(photos, planner)


def test_a_later_epoch_decodes_only_what_did_not_fit(photos: ShardIndex, decoded_counts: list[int]) -> None:
    assert NUM_STEPS * BATCH == 2 * 48
    run(photos, planner_of(photos), cache=MemoryCache(30 * IMAGE_BYTES))
    assert sum(decoded_counts) == 48 + 18


def test_echo_and_cache_go_together(photos: ShardIndex, decoded_counts: list[int]) -> None:
    planner = planner_of(photos, echo=2)
    cached = run(photos, planner, cache=MemoryCache(20 * IMAGE_BYTES))
    assert cached == run(photos, planner, as_planned=True)
    # Half of the second pass over the data begins before the end: only what the cache had no room for is decoded.
    assert sum(decoded_counts) < 60


# Bad samples


@pytest.mark.parametrize("num_cached", [0, 20])
def test_bad_samples_are_replaced_as_without_holding_anything(damaged: ShardIndex, num_cached: int) -> None:
    planner = planner_of(damaged, echo=2)
    found = []
    for as_planned in (False, True):
        cache = None if as_planned or not num_cached else MemoryCache(num_cached * IMAGE_BYTES)
        with load(damaged, planner, skip=True, cache=cache, as_planned=as_planned) as loader:
            batches = [(b.plan.sample_ids.tolist(), b.patches.numpy().tobytes(), b.labels.tolist()) for b in loader]
            found.append((batches, loader.take_bad_rows()))
    assert found[0] == found[1]
    ids = {bad.sample_id for bad in found[0][1]}
    assert 10 in ids
    assert 24 in ids


def test_a_truncated_image_is_used_where_its_window_is_sound(damaged: ShardIndex) -> None:
    planner = planner_of(damaged, echo=2)
    with load(damaged, planner, skip=True) as loader:
        shown = {(batch.plan.step, i) for batch in loader for i in batch.plan.sample_ids.tolist() if i in TRUNCATED}
        replaced = {(bad.step, bad.sample_id) for bad in loader.take_bad_rows() if bad.sample_id in TRUNCATED}
    planned = {(step, i) for step in range(NUM_STEPS) for i in planner.plan(step).sample_ids.tolist() if i in TRUNCATED}
    assert shown == planned - replaced
    assert shown
    assert replaced


def test_without_substitutes_the_error_names_every_bad_image_of_the_batch(damaged: ShardIndex) -> None:
    planner = planner_of(damaged, echo=2)
    messages = []
    for as_planned in (False, True):
        with pytest.raises(BadSampleError) as caught:
            run(damaged, planner, as_planned=as_planned)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_the_images_of_a_folder_that_vanishes_are_still_missed(tmp_path: Path) -> None:
    index = write_photo_shards(tmp_path / "photos")
    (index.folder / "train-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-000001\.tar"):
        run(index, planner_of(index, echo=2))
