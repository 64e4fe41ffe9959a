"""The graph of ``data.device: gpu`` on a GPU, against the CPU's kernels on the same plan and the same pixels.

The images are PNGs of just the size that is wanted, so that neither decoder nor resize rounds anything.
"""

import io
from typing import Any

import augmenting
import numpy as np
import pytest
import torch
from augmenting import GPU_DISTANCES, value_at, with_operations
from PIL import Image
from pixels import full_images, run_graph, train_planner

from benchmarks.shared.photographs import photograph
from benchmarks.shared.shard_files import write_tar
from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.graph import nodes
from pipeline.loader import PatchLoader
from pipeline.operations import OPERATIONS, SUITES, levels_of
from pipeline.plan.step import StepPlan
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex, build_index
from pipeline.train_plans import TrainPlans

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here"),
]

SIZE, NUM_IMAGES = 64, 32
PADDED: dict[str, Any] = {"crop": "pad", "pad_pixels": 4}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("pictures")
    members = []
    for number in range(NUM_IMAGES):
        png = io.BytesIO()
        Image.fromarray(photograph(number, SIZE, SIZE)).save(png, "PNG")
        members += [(f"{number:04d}.png", png.getvalue()), (f"{number:04d}.cls", str(number % 5).encode())]
    return build_index(folder, "train", [write_tar(folder / "train-000000.tar", members)])


def data_of(index: ShardIndex, device: str = "cpu", **augment: Any) -> DataConfig:
    return DataConfig(
        train=index.folder,
        val=index.folder,
        num_classes=5,
        image_size=SIZE,
        patch_size=16,
        augment=AugmentConfig(**PADDED, **augment),
        route="resample_first",
        device=device,
    )


def planned(index: ShardIndex, **augment: Any) -> StepPlan:
    return train_planner(index, data_of(index, **augment), global_batch_size=NUM_IMAGES).plan(0)


def on_cpu(index: ShardIndex, plan: StepPlan, **augment: Any) -> np.ndarray:
    return full_images(index, plan, data_of(index, **augment), uniform_size=True).astype(int)


def on_gpu(index: ShardIndex, plan: StepPlan, **augment: Any) -> np.ndarray:
    [(images, _)] = run_graph(index, [plan], data_of(index, "gpu", **augment), device_id=0, uniform_size=True)
    return images.astype(int)


def test_shifted_and_mirrored_images_are_the_cpus_to_the_bit(pictures: ShardIndex) -> None:
    plan = planned(pictures)
    assert plan.flips.any()
    assert not plan.flips.all()
    np.testing.assert_array_equal(on_gpu(pictures, plan), on_cpu(pictures, plan))


@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("kind", SUITES)
def test_every_operation_does_what_the_kernels_do_or_says_how_it_differs(
    pictures: ShardIndex, kind: str, share: float
) -> None:
    names = list(levels_of(kind))
    ops = [names[row % len(names)] for row in range(NUM_IMAGES)]
    one = {"num_ops": 1} if SUITES[kind].is_set else {}
    auto = {"auto": {"kind": kind, **one}}
    plan = with_operations(planned(pictures, **auto), [[op] for op in ops], [[value_at(kind, op, share)] for op in ops])
    apart = np.abs(on_gpu(pictures, plan, **auto) - on_cpu(pictures, plan, **auto))
    wrong = {}
    for row, op in enumerate(ops):
        if OPERATIONS[op].kind == "affine":
            # Beyond the border lies another grey, which reaches some way into the image.
            inside = apart[row, 8:-8, 8:-8]
            far, mean = float(np.median(inside)), float(inside.mean())
            if far > 1:
                wrong[f"{op} of row {row}"] = f"median {far:g}, mean {mean:.2f} levels apart; a median of 1 is allowed"
            continue
        most, most_mean = GPU_DISTANCES[op]
        largest, mean = int(apart[row].max()), float(apart[row].mean())
        if largest > most or mean > most_mean or (largest > 1 and op not in nodes.DIFFERENCES):
            wrong[f"{op} of row {row}"] = f"at most {largest}, mean {mean:.2f}; allowed are {most} and {most_mean}"
    assert wrong == {}


def test_operations_in_a_row_follow_the_plan_of_each_image(pictures: ShardIndex) -> None:
    rows = [
        ["posterize", "invert", "solarize"],
        ["invert", "posterize", "identity"],
        ["solarize_add", "invert", "invert"],
    ]
    values = [[3.0, 0.0, 100.0], [0.0, 2.0, 0.0], [60.0, 0.0, 0.0]]
    auto = {"auto": {"kind": "randaugment", "num_ops": 3}}
    plan = with_operations(
        planned(pictures, **auto),
        [rows[i % 3] for i in range(NUM_IMAGES)],
        [values[i % 3] for i in range(NUM_IMAGES)],
    )
    apart = np.abs(on_gpu(pictures, plan, **auto) - on_cpu(pictures, plan, **auto))
    assert apart.max() <= 1


def test_colours_are_jittered_as_planned(pictures: ShardIndex) -> None:
    plan = planned(pictures, color_jitter=0.4)
    apart = np.abs(on_gpu(pictures, plan, color_jitter=0.4) - on_cpu(pictures, plan, color_jitter=0.4))
    assert apart.max() <= 2
    assert apart.mean() <= 0.6


@pytest.mark.parametrize("mode", ["pixel", "mean"])
def test_images_are_mixed_and_erased_as_planned(pictures: ShardIndex, mode: str) -> None:
    settings = {"mixup": 0.8, "cutmix": 1.0, "erase_probability": 0.5, "erase_mode": mode}
    plan = planned(pictures, **settings)
    apart = np.abs(on_gpu(pictures, plan, **settings) - on_cpu(pictures, plan, **settings))
    assert apart.max() <= 1
    assert apart.mean() <= 0.02


def loaded(index: ShardIndex, device: str, **augment: Any) -> list[Batch]:
    selection = SelectionConfig(rule="random")
    planner = train_planner(index, data_of(index, device, **augment), selection=selection, global_batch_size=16)
    plans = TrainPlans(planner, first_step=0, stop_step=4, micro_batch_size=8)
    gpu = 0 if device == "gpu" else None
    with PatchLoader(planner, plans, batch_size=8, num_threads=2, device_id=gpu) as loader:
        return [batch.to(torch.device("cpu")) for batch in loader]


def test_a_loader_with_everything_on_gives_the_cpus_rows_and_the_same_bytes_again(pictures: ShardIndex) -> None:
    everything = augmenting.EVERYTHING
    batches, again = loaded(pictures, "gpu", **everything), loaded(pictures, "gpu", **everything)
    torch.cuda.synchronize()
    for one, other, of_cpu in zip(batches, again, loaded(pictures, "cpu", **everything), strict=True):
        for name in ("ids_keep", "labels", "mix_labels", "mix_weights"):
            mine, cpus = getattr(one, name), getattr(of_cpu, name)
            assert torch.equal(mine, cpus), f"{name} of step {one.plan.step} differ between GPU and CPU"
        assert torch.equal(one.patches, other.patches), f"patches of step {one.plan.step} do not repeat"
        assert one.patches.shape == of_cpu.patches.shape
        # Equalizing, and what lies beyond the border of a warp, differ: see nodes.DIFFERENCES.
        assert (one.patches.int() - of_cpu.patches.int()).abs().float().mean() <= 12


def test_a_batch_of_fewer_rows_shows_the_same_images(pictures: ShardIndex) -> None:
    plan = planned(pictures, color_jitter=0.4)
    whole = on_gpu(pictures, plan, color_jitter=0.4)
    half = plan.rows(0, NUM_IMAGES // 2)
    np.testing.assert_array_equal(on_gpu(pictures, half, color_jitter=0.4), whole[: NUM_IMAGES // 2])
