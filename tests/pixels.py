"""What the pipeline should show: the same plans carried out with Pillow and torchvision, one image at a time."""

import io
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pipeline.config import DataConfig
from pipeline.graph.graph import build_graph
from pipeline.graph.inputs import source_arrays
from pipeline.graph.settings import GraphSettings
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig, Stage
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex
from pipeline.shards.reader import SampleReader

Pixels = npt.NDArray[np.uint8]


def stored_image(index: ShardIndex, sample_id: int) -> Image.Image:
    with SampleReader(index) as reader:
        return Image.open(io.BytesIO(reader.read(np.array([sample_id]))[0].tobytes())).convert("RGB")


def expected_image(index: ShardIndex, plan: StepPlan, row: int, data: DataConfig) -> Pixels:
    """Row ``row`` of a training plan as torchvision makes it from Pillow's image: uint8 [S, S, 3]."""
    image, size = stored_image(index, int(plan.sample_ids[row])), data.image_size
    top, left, bottom, right = (int(edge) for edge in plan.crops[row])
    if data.augment.crop == "pad":
        if image.size != (size, size):
            image = F.resize(image, [size, size], InterpolationMode.BILINEAR, antialias=True)
        border = data.augment.pad_pixels
        image = F.crop(F.pad(image, [border]), top + border, left + border, size, size)
    else:
        image = F.resized_crop(
            image, top, left, bottom - top, right - left, [size, size], InterpolationMode.BILINEAR, antialias=True
        )
    return np.asarray(F.horizontal_flip(image) if plan.flips[row] else image)


def expected_validation_image(index: ShardIndex, sample_id: int, data: DataConfig) -> Pixels:
    """A sample under torchvision's Resize and CenterCrop: uint8 [S, S, 3]."""
    image = stored_image(index, sample_id)
    shorter = int(data.image_size / data.val_crop_fraction)
    image = F.resize(image, [shorter], InterpolationMode.BILINEAR, antialias=True)
    return np.asarray(F.center_crop(image, [data.image_size]))


def train_planner(
    index: ShardIndex,
    data: DataConfig,
    *,
    selection: SelectionConfig | None = None,
    schedule: ScheduleConfig | None = None,
    global_batch_size: int = 8,
    total_steps: int = 100,
    seed: int = 0,
) -> TrainPlanner:
    patch_schedule = PatchSchedule(
        schedule or ScheduleConfig(),
        data.num_patches,
        total_steps,
        index.num_samples // global_batch_size,
        global_batch_size,
        seed,
        data.image_size,
        data.patch_size,
        data.augment.schedules,
    )
    return TrainPlanner(index, data, selection or SelectionConfig(), patch_schedule, global_batch_size, seed)


def at_keep_rate(plan: StepPlan, num_kept: int, keep_rate: float) -> StepPlan:
    """The same plan with another number of kept patches."""
    return replace(plan, stage=Stage(keep_rate, num_kept))


def run_graph(
    index: ShardIndex,
    plans: Iterable[StepPlan],
    data: DataConfig,
    selection: SelectionConfig | None = None,
    *,
    crop: str | None = None,
    **settings: object,
) -> list[tuple[Pixels, npt.NDArray[np.int32]]]:
    """(patches or images, ids_keep) of every plan, straight from the graph; no ids where it ends before selecting.

    Args:
        crop: ``centre`` for validation's plans; by default those of training.
    """
    plans = list(plans)
    options: dict = {"uniform_size": False, "num_threads": 1, "device_id": None} | settings
    of_graph = GraphSettings(
        data,
        selection or SelectionConfig(),
        crop=crop or data.augment.crop,
        batch_size=plans[0].num_rows,
        training=crop != "centre",
        **options,
    )
    with SampleReader(index) as reader:

        def source(i: int) -> tuple[list[np.ndarray], ...]:
            if i == len(plans):
                raise StopIteration
            ids = plans[i].sample_ids
            sizes = np.stack([index.height[ids], index.width[ids]], axis=1)
            return source_arrays(plans[i], reader.read(ids), of_graph, sizes)

        graph = build_graph(source, of_graph)
        batches = []
        for _ in plans:
            pixels, *others = graph.run()
            pixels = pixels if options["device_id"] is None else pixels.as_cpu()
            ids_keep = np.array(others[0].as_tensor()) if others else np.empty(0, dtype=np.int32)
            batches.append((np.array(pixels.as_tensor()), ids_keep))
    return batches


def full_images(
    index: ShardIndex, plan: StepPlan, data: DataConfig, selection: SelectionConfig | None = None, **settings: object
) -> Pixels:
    """The graph's whole images under a plan, put together from all their patches: uint8 [B, S, S, 3]."""
    everything = at_keep_rate(plan, data.num_patches, 1.0)
    [(patches, _)] = run_graph(index, [everything], data, selection, **settings)
    return assemble(patches, data.patch_size)


def assemble(patches: Pixels, patch_size: int) -> Pixels:
    """All N patches of each image, uint8 [B, N, P*P*3], as images uint8 [B, S, S, 3]."""
    batch, num_patches = patches.shape[:2]
    grid = round(num_patches**0.5)
    tiles = patches.reshape(batch, grid, grid, patch_size, patch_size, 3)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(batch, grid * patch_size, grid * patch_size, 3)
