import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from loaded import content, garment_data
from nvidia.dali.pipeline import Pipeline
from pixels import train_planner

from benchmarks.shared.photographs import photograph
from pipeline.config import AugmentConfig
from pipeline.graph.on_device import gather_on_device
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.patches import gather_patches
from pipeline.shards.index import ShardIndex, StaleIndexError, open_index
from pipeline.train_plans import TrainPlans

pytestmark = pytest.mark.timeout(60)  # a loader that hangs is a failure

SELECTION = SelectionConfig(rule="contrast", temperature=0.05)
RISING = ScheduleConfig(kind="linear", keep_rate=[0.2, 1.0])
NUM_STEPS = 10


@pytest.fixture(scope="module")
def garments(garment_shards: Path) -> ShardIndex:
    return open_index(garment_shards, "train")


@pytest.fixture
def own_garments(garment_shards: Path, tmp_path: Path) -> ShardIndex:
    """A copy that a test may break."""
    return open_index(shutil.copytree(garment_shards, tmp_path / "garments"), "train")


@pytest.fixture(scope="module")
def planner(garments: ShardIndex) -> TrainPlanner:
    return train_planner(
        garments,
        garment_data(garments.folder),
        selection=SELECTION,
        schedule=RISING,
        global_batch_size=8,
        total_steps=NUM_STEPS,
    )


def load(
    index: ShardIndex, plans: Iterator[StepPlan], batch_size: int, *, num_threads: int = 1, **data: Any
) -> PatchLoader:
    planner = train_planner(index, garment_data(index.folder, **data), selection=SELECTION)
    return PatchLoader(planner, plans, batch_size=batch_size, num_threads=num_threads)


def in_order(index: ShardIndex, batch_size: int) -> Iterator[StepPlan]:
    """Samples 0, 1, 2, ... of the data set, so shard after shard."""
    data = garment_data(index.folder)
    return validation_plans(ValidationPlanner(index, data, SELECTION, 0.4, batch_size, 0))


def load_in_order(index: ShardIndex, batch_size: int, **data: Any) -> PatchLoader:
    return load(index, in_order(index, batch_size), batch_size, augment=AugmentConfig(crop="resized"), **data)


@pytest.fixture(scope="module")
def whole_run(garments: ShardIndex, planner: TrainPlanner) -> list[tuple[int, int, bytes, bytes, bytes]]:
    with load(garments, TrainPlans(planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=8), 8) as loader:
        return content(list(loader))


# What comes out


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_micro_batches_of_differing_sizes_hold_the_same_samples(
    garments: ShardIndex, planner: TrainPlanner, whole_run: list, world_size: int
) -> None:
    def size(num_kept: int) -> int:
        return max(n for n in (1, 2, 4, 8) if n <= 8 // world_size and (n == 1 or n * num_kept <= 80))

    found, sizes = [], set()
    for rank in range(world_size):
        plans = TrainPlans(
            planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=size, rank=rank, world_size=world_size
        )
        with load(garments, plans, 8 // world_size) as loader:
            batches = list(loader)
        found += content(batches)
        sizes |= {(batch.plan.stage.num_kept, batch.num_images) for batch in batches}
    assert sorted(found) == sorted(whole_run)
    assert sizes == {(num_kept, size(num_kept)) for num_kept in (9, 19, 29, 39, 49)}


def test_every_step_comes_once_and_in_order_with_its_own_number_of_patches(
    garments: ShardIndex, planner: TrainPlanner
) -> None:
    plans = TrainPlans(planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=8)
    with load(garments, plans, 8) as loader:
        batches = list(loader)
    assert [batch.plan.step for batch in batches] == list(range(NUM_STEPS))
    for step, batch in enumerate(batches):
        plan = planner.plan(step)
        num_kept = plan.stage.num_kept
        assert batch.patches.shape == (8, num_kept, 48)
        assert batch.patches.dtype == torch.uint8
        assert batch.ids_keep.shape == (8, num_kept)
        assert batch.ids_keep.dtype == torch.int32
        assert (batch.ids_keep.diff(dim=1) > 0).all()
        assert batch.labels.tolist() == plan.labels.tolist() == garments.label[plan.sample_ids].tolist()
        assert batch.counted.all()
    assert len({batch.ids_keep.shape[1] for batch in batches}) == 5


def test_patches_lie_in_memory_of_their_own(garments: ShardIndex, planner: TrainPlanner) -> None:
    with load(garments, TrainPlans(planner, first_step=0, stop_step=6, micro_batch_size=8), 8) as loader:
        first = next(loader)
        before = first.patches.clone(), first.ids_keep.clone()
        list(loader)
    assert torch.equal(first.patches, before[0])
    assert torch.equal(first.ids_keep, before[1])


# What must not matter


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("prefetch_batches", [1, 8])
def test_threads_and_prefetching_do_not_change_a_byte(
    garments: ShardIndex, planner: TrainPlanner, whole_run: list, num_threads: int, prefetch_batches: int
) -> None:
    plans = TrainPlans(planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=8)
    with load(garments, plans, 8, num_threads=num_threads, prefetch_batches=prefetch_batches) as loader:
        assert content(list(loader)) == whole_run


@pytest.mark.parametrize(("world_size", "micro_batch_size"), [(1, 2), (2, 4), (2, 1), (4, 2)])
def test_the_ranks_together_see_the_same_bytes_whatever_their_number(
    garments: ShardIndex, planner: TrainPlanner, whole_run: list, world_size: int, micro_batch_size: int
) -> None:
    rows = []
    for rank in range(world_size):
        plans = TrainPlans(
            planner,
            first_step=0,
            stop_step=NUM_STEPS,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world_size=world_size,
        )
        with load(garments, plans, micro_batch_size) as loader:
            rows += content(list(loader))
    assert sorted(rows) == whole_run


@pytest.mark.parametrize("first_step", [1, 7])
def test_starting_at_a_step_equals_coming_to_it(
    garments: ShardIndex, planner: TrainPlanner, whole_run: list, first_step: int
) -> None:
    plans = TrainPlans(planner, first_step=first_step, stop_step=NUM_STEPS, micro_batch_size=8)
    with load(garments, plans, 8) as loader:
        assert content(list(loader)) == whole_run[8 * first_step :]


# Validation


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_validation_pass_shows_each_sample_once_and_marks_what_fills_up(
    garment_shards: Path, world_size: int
) -> None:
    index = open_index(garment_shards, "val")
    planner = ValidationPlanner(index, garment_data(garment_shards), SELECTION, 0.4, 7, 0)
    seen: list[int] = []
    for rank in range(world_size):
        plans = validation_plans(planner, rank=rank, world_size=world_size)
        with load(index, plans, 7, augment=AugmentConfig(crop="resized")) as loader:
            batches = list(loader)
        assert len(batches) == planner.num_batches(world_size)
        for batch in batches:
            assert batch.num_images == 7
            seen += batch.plan.sample_ids[batch.counted.numpy()].tolist()
    assert sorted(seen) == list(range(20))


# The end, errors, closing


def test_after_the_last_batch_the_iteration_ends_and_stays_ended(garments: ShardIndex, planner: TrainPlanner) -> None:
    loader = load(garments, TrainPlans(planner, first_step=0, stop_step=2, micro_batch_size=8), 8)
    assert len(list(loader)) == 2
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(loader)
    assert not loader_threads()


def test_a_loader_without_plans_ends_at_once(garments: ShardIndex) -> None:
    with load(garments, iter(()), 8) as loader:
        assert list(loader) == []


def test_a_missing_shard_is_reported_when_its_first_sample_is_due(own_garments: ShardIndex) -> None:
    (own_garments.folder / "train-000001.tar").unlink()
    loader = load_in_order(own_garments, 8)
    assert [next(loader).plan.step for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(FileNotFoundError, match=r"sample '00032' in train-000001\.tar"):
        next(loader)
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(loader)


def test_a_shard_that_is_shortened_while_it_is_read_is_reported(own_garments: ShardIndex) -> None:
    loader = load_in_order(own_garments, 1, prefetch_batches=1)
    next(loader)
    with open(own_garments.folder / "train-000000.tar", "r+b") as shard:
        shard.truncate(int(own_garments.offset[31]) + 10)
    with pytest.raises(StaleIndexError, match=r"sample '000\d\d' in train-000000\.tar"):
        list(loader)
    assert not loader_threads()


def test_images_that_cannot_be_decoded_are_named_when_their_batch_is_due(own_garments: ShardIndex) -> None:
    for sample in (17, 22):
        shard = own_garments.folder / own_garments.shards[own_garments.shard[sample]].name
        with open(shard, "r+b") as file:
            file.seek(int(own_garments.offset[sample]))
            file.write(bytes(int(own_garments.length[sample])))
    loader = load_in_order(own_garments, 8)
    assert [next(loader).plan.step for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="cannot be used") as caught:
        next(loader)
    message = str(caught.value)
    assert "2 image(s) of step 2" in message
    assert "sample '00017' in train-000000.tar" in message
    assert "sample '00022' in train-000000.tar" in message
    assert "00016" not in message
    assert "\n" not in message
    assert not loader_threads()


def test_an_error_in_a_plan_reaches_the_consumer(garments: ShardIndex, planner: TrainPlanner) -> None:
    loader = load(garments, TrainPlans(planner, first_step=8, stop_step=NUM_STEPS + 1, micro_batch_size=8), 8)
    assert [next(loader).plan.step for _ in range(2)] == [8, 9]
    with pytest.raises(ValueError, match="steps of this run are 0 to 9"):
        next(loader)


def test_an_error_of_the_graph_itself_reaches_the_consumer(
    garments: ShardIndex, planner: TrainPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Pipeline) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(Pipeline, "build", fail)
    loader = load(garments, TrainPlans(planner, first_step=0, stop_step=2, micro_batch_size=8), 8)
    with pytest.raises(RuntimeError, match="no such device"):
        next(loader)


@pytest.mark.parametrize("num_taken", [0, 1, 3])
def test_closing_in_the_middle_leaves_no_thread(garments: ShardIndex, planner: TrainPlanner, num_taken: int) -> None:
    plans = TrainPlans(planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=1)
    loader = load(garments, plans, 1, prefetch_batches=1)
    for _ in range(num_taken):
        next(loader)
    loader.close()
    loader.close()
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(loader)


def test_an_error_in_the_consumer_closes_the_loader(garments: ShardIndex, planner: TrainPlanner) -> None:
    def consume() -> None:
        with load(garments, TrainPlans(planner, first_step=0, stop_step=NUM_STEPS, micro_batch_size=8), 8) as loader:
            next(loader)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        consume()
    assert not loader_threads()


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "patch-loader"]


# Waiting


def test_the_time_spent_waiting_for_batches_adds_up(
    garments: ShardIndex, planner: TrainPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 13.0, 50.0, 50.5])  # two calls of next(), which take 3 and 0.5
    monkeypatch.setattr("pipeline.loader.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with load(garments, TrainPlans(planner, first_step=0, stop_step=3, micro_batch_size=8), 8) as loader:
        assert loader.wait_s == 0
        next(loader)
        assert loader.wait_s == 3
        next(loader)
        assert loader.wait_s == 3.5


# Gathering on a device


def test_the_loader_counts_the_images_that_its_thread_has_made_and_its_processor_time(
    garments: ShardIndex, planner: TrainPlanner
) -> None:
    with load(garments, TrainPlans(planner, first_step=0, stop_step=3, micro_batch_size=8), 8) as loader:
        batches = list(loader)
        work = loader.work
    assert work.num_images == sum(batch.num_images for batch in batches)
    assert work.thread_cpu_s > 0
    assert loader.work == work


def test_the_loader_counts_what_was_read_for_the_batches_that_it_has_given_out(
    garments: ShardIndex, planner: TrainPlanner
) -> None:
    with load(garments, TrainPlans(planner, first_step=0, stop_step=3, micro_batch_size=8), 8) as loader:
        assert loader.read == (0, 0, 0)
        first = next(loader)
        read = loader.read
        assert read == (8, first.bytes_read, first.pages_read)
        assert read.per_image() == (first.bytes_read / 8, first.pages_read / 8)
        second = next(loader)
        assert loader.read.per_image(since=read) == (second.bytes_read / 8, second.pages_read / 8)
    assert first.bytes_read == sum(garments.length[first.plan.sample_ids].tolist())


def test_gathering_on_a_device_gives_the_patches_that_numpy_gathers() -> None:
    images = np.stack([photograph(seed, 48, 48) for seed in range(3)])
    rng = np.random.default_rng(0)
    for patch_size, num_kept in ((16, 4), (8, 36), (48, 1), (4, 77)):
        num_patches = (48 // patch_size) ** 2
        ids = np.stack([np.sort(rng.permutation(num_patches)[:num_kept]) for _ in images]).astype(np.int32)
        expected = np.stack([gather_patches(image, kept, patch_size) for image, kept in zip(images, ids, strict=True)])
        gathered = gather_on_device(torch.from_numpy(images), torch.from_numpy(ids), patch_size)
        assert gathered.dtype == torch.uint8
        np.testing.assert_array_equal(gathered.numpy(), expected)
