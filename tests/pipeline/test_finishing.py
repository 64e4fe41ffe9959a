"""What is done behind the graph of a GPU. To torch a CPU is such a device too: here the images lie there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nvidia.dali.tensors import TensorListCPU
from pixels import at_keep_rate, train_planner

from benchmarks.shared.photographs import photograph
from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.finishing import Finisher
from pipeline.graph.bad_samples import Rows
from pipeline.graph.inputs import planned_ids
from pipeline.graph.settings import GraphSettings
from pipeline.plan.step import StepPlan
from pipeline.selection.config import SelectionConfig, open_scores, select
from pipeline.selection.magnitude import EmbeddingSnapshot
from pipeline.selection.patches import ids_dropped, patchify
from pipeline.shards.index import open_index

NUM_ROWS, GRID, PATCH = 8, 7, 4
HANDED_BYTES = 12_345
SELECTIONS = [
    SelectionConfig(rule="random"),
    SelectionConfig(rule="grid"),
    SelectionConfig(rule="contrast"),
    SelectionConfig(rule="contrast", temperature=0.05),
    SelectionConfig(rule="magnitude"),
    SelectionConfig(rule="magnitude", temperature=100),
]
NAMES = [f"{selection.rule} {selection.temperature:g}" for selection in SELECTIONS]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Whose lower half is black: patches with equal scores."""
    found = np.stack([photograph(seed, 28, 28) for seed in range(NUM_ROWS)])
    found[:, 14:] = 0
    return found


def whole_snapshot() -> EmbeddingSnapshot:
    """Of whole numbers, which are added without an error in any order."""
    rng = np.random.default_rng(0)
    kernel, offsets = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((12, 48), (1, 12)))
    return EmbeddingSnapshot(0, kernel, offsets, np.zeros(48, np.float32))


def settings_of(folder: Path, selection: SelectionConfig, **settings: Any) -> tuple[GraphSettings, StepPlan]:
    """A GPU's, and the plan of a step at 19 of 49 patches."""
    mixing = AugmentConfig(crop="pad", mixup=0.8)
    data = DataConfig(
        train=folder, val=folder, num_classes=10, image_size=28, patch_size=PATCH, device="gpu", augment=mixing
    )
    planner = train_planner(open_index(folder, "train"), data, selection=selection, global_batch_size=NUM_ROWS)
    options = {"device_id": 0} | settings
    return GraphSettings(data, selection, "pad", NUM_ROWS, 1, **options), at_keep_rate(planner.plan(0), 19, 0.4)


def finished(settings: GraphSettings, plan: StepPlan, images: np.ndarray) -> Batch:
    finisher = Finisher(settings, seed=0, device=torch.device("cpu"))
    finisher.begin()
    finisher.open_scores(whole_snapshot() if settings.selection.needs_model else None)
    batch = finisher.batch(Rows(plan, [], (), planned_ids(plan, settings)), HANDED_BYTES, TensorListCPU(images))
    finisher.close()
    return batch


def expected_ids(settings: GraphSettings, plan: StepPlan, images: np.ndarray) -> np.ndarray:
    snapshot = whole_snapshot() if settings.selection.needs_model else None
    score = open_scores(settings.selection, GRID, snapshot=snapshot)
    scores = None if score is None else score(list(images))
    return select(scores, plan.noise, plan.stage.num_kept, GRID, settings.selection)


@pytest.mark.parametrize("targets", [False, True], ids=["kept alone", "with targets"])
@pytest.mark.parametrize("num_kept", [1, 19, 48, 49])
@pytest.mark.parametrize("selection", SELECTIONS, ids=NAMES)
def test_of_images_on_a_device_the_patches_are_gathered_that_the_selection_in_memory_keeps(
    garment_shards: Path, images: np.ndarray, selection: SelectionConfig, num_kept: int, targets: bool
) -> None:
    settings, plan = settings_of(garment_shards, selection, targets=targets)
    plan = at_keep_rate(plan, num_kept, num_kept / 49)
    batch, ids, patches = (
        finished(settings, plan, images),
        expected_ids(settings, plan, images),
        patchify(images, PATCH),
    )
    rows = np.arange(NUM_ROWS)[:, None]
    assert batch.ids_keep.dtype == torch.int32
    np.testing.assert_array_equal(batch.ids_keep.numpy(), ids)
    np.testing.assert_array_equal(batch.patches.numpy(), patches[rows, ids])
    if targets:
        assert batch.ids_target is not None
        assert batch.target_patches is not None
        assert batch.ids_target.dtype == torch.int32
        dropped = ids_dropped(ids, 49)
        np.testing.assert_array_equal(batch.ids_target.numpy(), dropped)
        np.testing.assert_array_equal(batch.target_patches.numpy(), patches[rows, dropped])
    else:
        assert batch.ids_target is batch.target_patches is None


def test_the_rest_of_a_batch_is_its_plans(garment_shards: Path, images: np.ndarray) -> None:
    settings, plan = settings_of(garment_shards, SELECTIONS[0])
    batch = finished(settings, plan, images)
    assert plan.augment is not None
    for found, expected in (
        (batch.labels, plan.labels),
        (batch.counted, plan.counted),
        (batch.mix_labels, plan.augment.mix_labels),
        (batch.mix_weights, plan.augment.mix_weights),
    ):
        assert found is not None
        assert expected is not None
        assert found.numpy().dtype == expected.dtype
        np.testing.assert_array_equal(found.numpy(), expected)
    assert batch.plan is plan
    assert batch.ready is None


def test_where_a_device_makes_the_patches_what_crosses_is_what_they_are_made_from(
    garment_shards: Path, images: np.ndarray
) -> None:
    labels_and_mixing, ids, numbers = 8 + 8 + 4, 4 * 19, 8 * 49
    for selection, more in zip(SELECTIONS, (ids, ids, 0, numbers, 0, numbers), strict=True):
        batch = finished(*settings_of(garment_shards, selection), images)
        assert batch.num_bytes == HANDED_BYTES + NUM_ROWS * (labels_and_mixing + more)


def test_in_validation_the_rows_that_count_cross_too(garment_shards: Path, images: np.ndarray) -> None:
    training, validating = (
        finished(*settings_of(garment_shards, SELECTIONS[0], training=training), images) for training in (True, False)
    )
    assert validating.num_bytes == training.num_bytes + NUM_ROWS
    assert torch.equal(validating.counted, training.counted)


@pytest.mark.parametrize(
    ("selection", "device_id"),
    [*((selection, 0) for selection in SELECTIONS[2:]), *((selection, None) for selection in SELECTIONS[4:])],
    ids=[*(f"{name} on a gpu" for name in NAMES[2:]), *NAMES[4:]],
)
def test_nothing_is_scored_where_all_patches_are_kept(
    garment_shards: Path, selection: SelectionConfig, device_id: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("it is scored")

    settings, plan = settings_of(garment_shards, selection, device_id=device_id)
    plan = at_keep_rate(plan, 49, 1.0)
    for opened in ("open_device_scores", "open_patch_scores"):
        monkeypatch.setattr(f"pipeline.finishing.{opened}", lambda *_, **__: fail)
    pixels = np.stack([photograph(seed, 28, 28) for seed in range(NUM_ROWS)])
    outputs = [pixels] if device_id == 0 else [patchify(pixels, PATCH)] * 2
    finisher = Finisher(settings, 0, torch.device("cpu"))
    finisher.open_scores(whole_snapshot())
    batch = finisher.batch(Rows(plan, [], ()), 0, *map(TensorListCPU, outputs))
    assert batch.ids_keep.tolist() == [list(range(49))] * NUM_ROWS


def test_a_graph_on_a_gpu_runs_for_the_loaders_stream_and_one_on_a_cpu_for_none(
    garment_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for the stream and for the graph."""
    stream, asked = SimpleNamespace(device=torch.device("cpu")), []
    monkeypatch.setattr("pipeline.crossing.loaders_stream", lambda index: stream)
    graph: Any = SimpleNamespace(run=lambda *given: asked.append(given))
    for device_id in (0, None):
        settings, _ = settings_of(garment_shards, SELECTIONS[0], device_id=device_id)
        Finisher(settings, 0, torch.device("cuda", 0)).run(graph)
    assert asked == [(stream,), ()]
