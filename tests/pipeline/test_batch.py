from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pixels import at_keep_rate, train_planner

from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import write_tar
from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import num_kept_at
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import build_index


def batch_at_224(folder: Path, keep_rate: float, device: torch.device | None = None, **augment: float) -> Batch:
    members = []
    for number in range(4):
        members += [(f"{number}.jpg", jpeg_bytes(number, 250, 240)), (f"{number}.cls", b"1")]
    index = build_index(folder, "train", [write_tar(folder / "train-0.tar", members)])
    mixing = AugmentConfig(**augment)  # type: ignore[arg-type]
    data = DataConfig(train=folder, val=folder, num_classes=2, image_size=224, patch_size=16, augment=mixing)
    selection = SelectionConfig(rule="random")
    planner = train_planner(index, data, selection=selection, global_batch_size=4)
    plan = at_keep_rate(planner.plan(0), num_kept_at(keep_rate, data.num_patches), keep_rate)
    with PatchLoader(planner, iter([plan]), batch_size=4, num_threads=1, device=device) as loader:
        return next(loader)


@pytest.mark.parametrize(("keep_rate", "patches"), [(0.2, 38), (1.0, 196)])
def test_what_crosses_is_the_kept_patches_in_uint8_and_a_few_bytes_more(
    tmp_path: Path, keep_rate: float, patches: int
) -> None:
    batch = batch_at_224(tmp_path, keep_rate)
    assert batch.num_images == 4
    assert batch.num_bytes == 4 * (patches * (16 * 16 * 3 + 4) + 8)


def test_an_image_at_keep_rate_0_2_crosses_in_30_000_bytes_at_most(tmp_path: Path) -> None:
    batch = batch_at_224(tmp_path, 0.2)
    assert batch.num_bytes / batch.num_images <= 30_000


def test_a_batch_moves_whole_and_keeps_its_plan(tmp_path: Path) -> None:
    batch = batch_at_224(tmp_path, 0.2)
    moved = batch.to(torch.device("cpu"))
    for name in ("patches", "ids_keep", "labels", "counted"):
        assert torch.equal(getattr(moved, name), getattr(batch, name))
    assert moved.plan is batch.plan
    assert moved.mix_labels is moved.mix_weights is None
    assert batch.to(torch.device("meta")).patches.device.type == "meta"


def test_mixed_labels_cross_and_move_with_the_batch(tmp_path: Path) -> None:
    batch = batch_at_224(tmp_path, 0.2, mixup=0.8)
    assert batch.mix_labels is not None
    assert batch.mix_weights is not None
    assert (batch.mix_labels.dtype, batch.mix_labels.shape) == (torch.int64, (4,))
    assert (batch.mix_weights.dtype, batch.mix_weights.shape) == (torch.float32, (4,))
    assert batch.num_bytes == 4 * (38 * (16 * 16 * 3 + 4) + 8 + 8 + 4)
    moved = batch.to(torch.device("meta"))
    assert moved.mix_labels is not None
    assert moved.mix_weights is not None
    assert moved.mix_labels.device.type == moved.mix_weights.device.type == "meta"


def test_the_bytes_that_cross_are_those_of_the_tensors(tmp_path: Path) -> None:
    batch = batch_at_224(tmp_path, 0.2, mixup=0.8)
    crossing = (batch.patches, batch.ids_keep, batch.labels, batch.mix_labels, batch.mix_weights)
    assert batch.num_bytes == sum(tensor.nbytes for tensor in crossing if tensor is not None)
    assert batch.to(torch.device("meta")).num_bytes == batch.num_bytes


# On a GPU

GPU = torch.device("cuda", 0)
A_SECOND = 2_000_000_000  # of a GPU's clock, or more


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_batch_is_taken_over_on_a_gpu_without_waiting_for_it(tmp_path: Path) -> None:
    expected = batch_at_224(tmp_path, 0.2, mixup=0.8)
    batch = batch_at_224(tmp_path, 0.2, GPU, mixup=0.8)
    assert batch.ready is not None
    torch.cuda._sleep(A_SECOND)
    moved = batch.to(GPU)
    assert not torch.cuda.current_stream().query()
    assert moved.ready is None
    for name in ("patches", "ids_keep", "labels", "mix_labels", "mix_weights"):
        found = getattr(moved, name)
        assert found.device == GPU
        assert torch.equal(found.cpu(), getattr(expected, name))
    assert moved.num_bytes == expected.num_bytes
    assert moved.to(GPU).patches is moved.patches
    assert batch.to(torch.device("cuda")).patches is batch.patches


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_batch_that_comes_back_from_a_gpu_is_there_when_it_can_be_read(tmp_path: Path) -> None:
    expected = batch_at_224(tmp_path, 0.2)
    batch = batch_at_224(tmp_path, 0.2, GPU).to(GPU)
    torch.cuda._sleep(A_SECOND)
    late = replace(batch, patches=255 - batch.patches)
    assert torch.equal(late.to(torch.device("cpu")).patches, 255 - expected.patches)
    straight_back = batch_at_224(tmp_path, 0.2, GPU).to(torch.device("cpu"))
    assert torch.equal(straight_back.patches, expected.patches)
