"""The pipeline's magnitude rule beside the paper's definition, computed through the model on whole images."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import reference
import timm
import torch
from pixels import full_images

from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import write_tar
from engine.checkpoints.state_files import write_state
from engine.models.build import build_model
from engine.snapshots import SNAPSHOT_FILE, publish_if_due, restore_snapshot, snapshot_state, take_snapshot
from pipeline.config import DataConfig
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.snapshots import SnapshotBoard, fixed_board
from pipeline.shards.index import ShardIndex, build_index
from pipeline.train_plans import TrainPlans

MAGNITUDE = SelectionConfig(rule="magnitude")
STAGES = [Fraction(tenths, 10) for tenths in (2, 4, 6, 8, 10)]
# A ViT adds positions to its patches; a model with a relative position bias adds none.
MODELS = {
    "absolute positions": ("vit_tiny_patch16_224", {"depth": 1}),
    "relative position bias": ("beit_base_patch16_224", {"embed_dim": 96, "depth": 1, "num_heads": 3}),
}
BATCH = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    members = []
    for number in range(8):
        members += [(f"{number}.jpg", jpeg_bytes(number)), (f"{number}.cls", b"0")]
    folder = tmp_path_factory.mktemp("photos")
    return build_index(folder, "train", [write_tar(folder / "train-0.tar", members)])


@pytest.fixture(scope="module")
def data(photos: ShardIndex) -> DataConfig:
    return DataConfig(train=photos.folder, val=photos.folder, num_classes=2)


def planner_of_every_stage(photos: ShardIndex, data: DataConfig) -> TrainPlanner:
    """One step in each stage of the paper, fewest patches first."""
    rates = [(step / 5, float(rate)) for step, rate in enumerate(STAGES)]
    schedule = PatchSchedule(ScheduleConfig(kind="steps", keep_rate=rates), data.num_patches, 5, 2, BATCH)
    return TrainPlanner(photos, data, MAGNITUDE, schedule, BATCH, 0)


@pytest.mark.parametrize("kind", MODELS)
def test_the_pipeline_keeps_the_patches_that_the_papers_definition_keeps_in_the_model(
    kind: str, photos: ShardIndex, data: DataConfig
) -> None:
    torch.manual_seed(3)
    name, options = MODELS[kind]
    model = build_model(
        name, image_size=224, patch_size=16, num_classes=2, mean=data.mean, std=data.std, options=options
    )
    plain = timm.create_model(name, num_classes=2, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    plain.load_state_dict(model.state_dict())
    planner = planner_of_every_stage(photos, data)
    plans = TrainPlans(planner, first_step=0, stop_step=5, micro_batch_size=BATCH)
    with PatchLoader(
        planner,
        plans,
        batch_size=BATCH,
        num_threads=1,
        snapshots=fixed_board(take_snapshot(model, 0)),
    ) as loader:
        batches = list(loader)
    for batch, rate in zip(batches, STAGES, strict=True):
        images = torch.from_numpy(full_images(photos, batch.plan, data, SelectionConfig())).permute(0, 3, 1, 2)
        mean, std = torch.tensor(data.mean)[:, None, None], torch.tensor(data.std)[:, None, None]
        with torch.no_grad():
            tokens = plain.patch_embed((images / 255 - mean) / std)
            if plain.pos_embed is not None:
                tokens = tokens + plain.pos_embed[:, 1:]  # the class token is not ranked: it is always kept
        magnitudes = tokens.abs().sum(dim=2)
        num_kept = reference.num_kept(rate, 196)
        assert batch.ids_keep.shape == (BATCH, num_kept)
        wanted = magnitudes.topk(num_kept).indices.sort().values
        np.testing.assert_array_equal(batch.ids_keep.numpy(), wanted.numpy())


def tiny_model(data: DataConfig) -> torch.nn.Module:
    return build_model(
        "vit_tiny_patch16_224",
        image_size=224,
        patch_size=16,
        num_classes=2,
        mean=data.mean,
        std=data.std,
        options={"depth": 1},
    )


def test_a_snapshot_is_taken_at_its_moment_and_stays_as_it_was(data: DataConfig) -> None:
    model, board = tiny_model(data), SnapshotBoard(lambda step: step - step % 3)
    for step in range(5):
        publish_if_due(board, model, step)
        with torch.no_grad():
            model.patch_embed.proj.weight.add_(1.0)
    assert board.newest is not None
    assert board.newest.step == 3
    np.testing.assert_array_equal(
        take_snapshot(model, 3).kernel > board.newest.kernel, np.ones_like(board.newest.kernel, dtype=bool)
    )


def test_the_snapshot_in_force_comes_back_from_a_checkpoint_bit_for_bit(data: DataConfig, tmp_path: Path) -> None:
    board, again = (SnapshotBoard(lambda step: step - step % 3) for _ in range(2))
    publish_if_due(board, tiny_model(data), 3)
    write_state(tmp_path / SNAPSHOT_FILE, snapshot_state(board))
    restore_snapshot(again, tmp_path, 5)
    assert board.newest is not None
    assert again.newest is not None
    assert again.newest.step == 3
    for name in ("kernel", "offsets", "mean_patch"):
        np.testing.assert_array_equal(getattr(again.newest, name), getattr(board.newest, name))


def test_a_run_that_goes_on_at_a_moment_takes_its_snapshot_anew(tmp_path: Path) -> None:
    board = SnapshotBoard(lambda step: step - step % 3)
    restore_snapshot(board, tmp_path, 6)
    assert board.newest is None


def test_a_checkpoint_without_the_snapshot_is_refused(tmp_path: Path) -> None:
    board = SnapshotBoard(lambda step: step - step % 3)
    with pytest.raises(ValueError, match=r"as it was at step 3, and .* holds none"):
        restore_snapshot(board, tmp_path, 5)
