"""The DALI graph: planned arrays in, kept patches out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline

from pipeline import augment
from pipeline.config import DataConfig, SelectionConfig
from pipeline.plan import StepPlan
from pipeline.selection import gather_patches, select

# One entry per row: encoded image, window start, window shape, region start, region end, flip, noise, num_kept.
SourceArrays = tuple[list[np.ndarray], ...]
_NUM_SOURCE_ARRAYS = 8

# Pixels decoded around a region, in units of the resize's scale: antialiasing looks one output pixel beyond it.
_MARGIN_OUTPUT_PIXELS = 1.0


@dataclass(frozen=True)
class GraphSettings:
    """What a graph is built for; a run has one for training and one for validation.

    Attributes:
        crop: ``resized`` or ``pad``, as in the plans that will flow through.
        uniform_size: every image is already ``image_size`` square, so a pad crop needs no resize.
        device_id: the GPU under ``data.device: gpu``, else None.
    """

    data: DataConfig
    selection: SelectionConfig
    crop: str
    batch_size: int
    num_threads: int
    uniform_size: bool = False
    device_id: int | None = None


def source_arrays(
    plan: StepPlan, encoded: list[np.ndarray], settings: GraphSettings, sizes: np.ndarray
) -> SourceArrays:
    """A plan as the graph's inputs.

    Args:
        encoded: the rows' image files, uint8 [bytes] each.
        sizes: int [B, 2], (height, width) of the stored images.
    """
    region = plan.crops.astype(np.float64)
    if plan.crop == "pad":
        start, stop = region[:, :2], region[:, 2:]
    elif settings.device_id is not None:
        start, stop = np.zeros_like(region[:, :2]), sizes
    else:
        margin = _MARGIN_OUTPUT_PIXELS * (region[:, 2:] - region[:, :2]) / settings.data.image_size
        # A crop on whole pixels is cut out before it is resized, as torchvision does: nothing beyond it is seen.
        margin = np.where((region == np.round(region)).all(axis=1, keepdims=True), 0, margin)
        start = np.maximum(np.floor(region[:, :2] - margin), 0)
        stop = np.minimum(np.ceil(region[:, 2:] + margin), sizes)
    whole = np.round(start).astype(np.int32)
    rows = plan.num_rows
    return (
        encoded,
        list(whole),
        list((stop - whole).astype(np.int32)),
        list((region[:, :2] - whole).astype(np.float32)),
        list((region[:, 2:] - whole).astype(np.float32)),
        list(plan.flips.astype(np.int32)),
        list(plan.noise),
        [np.array(plan.stage.num_kept, dtype=np.int32)] * rows,
    )


def build_graph(source: Callable[[int], SourceArrays], settings: GraphSettings) -> Pipeline:
    """The graph fed by ``source(i)``, i = 0, 1, 2, ...; StopIteration from the source ends it.

    Outputs of ``run()``: on a CPU (patches uint8 [B, K, P*P*3], ids_keep int32 [B, K]); with a GPU (images uint8
    [B, S, S, 3] on the GPU, ids_keep int32 [B, K] on the CPU), whose patches are gathered on the GPU.
    """

    @pipeline_def(
        batch_size=settings.batch_size,
        num_threads=settings.num_threads,
        device_id=settings.device_id,
        exec_dynamic=True,
        prefetch_queue_depth=2,
    )
    def graph() -> tuple[Any, Any]:
        inputs = fn.external_source(
            source=source, num_outputs=_NUM_SOURCE_ARRAYS, batch=True, dtype=_SOURCE_TYPES, ndim=_SOURCE_NDIM
        )
        images = _images(inputs, settings)
        return _selected(images, inputs[6], inputs[7], settings)

    pipeline = graph()
    pipeline.build()
    return pipeline


_SOURCE_TYPES = [
    types.UINT8,
    types.INT32,
    types.INT32,
    types.FLOAT,
    types.FLOAT,
    types.INT32,
    types.FLOAT,
    types.INT32,
]
_SOURCE_NDIM = [1, 1, 1, 1, 1, 0, 1, 0]


def _images(inputs: Sequence[Any], settings: GraphSettings) -> Any:
    encoded, start, shape, region_start, region_end, flips, _, _ = inputs
    size, on_gpu = settings.data.image_size, settings.device_id is not None
    if settings.crop == "pad":
        images = augment.decode_whole(encoded, "mixed" if on_gpu else "cpu")
        if not settings.uniform_size:
            images = augment.resize_whole(images, size)
        images = augment.shift_with_border(images, start, size)
    else:
        images = augment.decode_whole(encoded, "mixed") if on_gpu else augment.decode_window(encoded, start, shape)
        images = augment.resize_region(images, region_start, region_end, size)
    return augment.flip(images, flips)


def _selected(images: Any, noise: Any, num_kept: Any, settings: GraphSettings) -> tuple[Any, Any]:
    data, selection = settings.data, settings.selection
    scored = selection.rule == "contrast"
    scores = augment.patch_contrast(images, data.image_size, data.patch_size) if scored else noise

    def rank(scores: list[np.ndarray], noise: list[np.ndarray], num_kept: list[np.ndarray]) -> list[np.ndarray]:
        table = np.stack(scores).reshape(len(scores), -1) if scored else None
        return list(select(table, np.stack(noise), int(num_kept[0]), data.grid_size, selection))

    def rank_and_gather(
        images: list[np.ndarray],
        scores: list[np.ndarray],
        noise: list[np.ndarray],
        num_kept: list[np.ndarray],
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        ids = rank(scores, noise, num_kept)
        return [gather_patches(image, kept, data.patch_size) for image, kept in zip(images, ids, strict=True)], ids

    if settings.device_id is None:
        patches, ids_keep = fn.python_function(
            images, scores, noise, num_kept, function=rank_and_gather, batch_processing=True, num_outputs=2
        )
        return patches, ids_keep
    on_cpu = scores.cpu() if scored else scores
    return images, fn.python_function(on_cpu, noise, num_kept, function=rank, batch_processing=True)
