"""This project's loaders, and parts of its graph, as contenders of benchmarks.loader."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from benchmarks.loader_peers import Batches, Setting
from pipeline import augment
from pipeline.config import DataConfig, ScheduleConfig, SelectionConfig
from pipeline.loader import PatchLoader, train_plans
from pipeline.plan import TrainPlanner
from pipeline.reader import SampleReader
from pipeline.schedule import PatchSchedule
from pipeline.shards import ShardIndex, open_index

_MANY_STEPS = 1_000_000


@dataclass(frozen=True)
class Ours:
    """One configuration of the loader.

    Attributes:
        selection, data, augment: keys of the run's configuration beside those that the measurement sets.
        shards: another folder of shards than the setting's, by its name beside it.
    """

    selection: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    shards: str | None = None

    def open(self, setting: Setting, keep_rate: float) -> AbstractContextManager[Batches]:
        return open_ours(self, setting, keep_rate)


def planned(ours: Ours, setting: Setting, keep_rate: float) -> tuple[ShardIndex, TrainPlanner]:
    """The data set and the planner of endless steps at one keep rate."""
    folder = setting.shards if ours.shards is None else setting.shards.with_name(ours.shards)
    data = data_config(folder, setting, {**ours.data, "augment": ours.augment})
    index = open_index(folder, "train")
    selection, batch_size = SelectionConfig.model_validate(ours.selection), setting.batch_size
    steps_per_epoch = index.num_samples // batch_size
    config = ScheduleConfig(kind="constant", keep_rate=keep_rate)
    schedule = PatchSchedule(config, data.num_patches, _MANY_STEPS, steps_per_epoch, batch_size, 0)
    return index, TrainPlanner(index, data, selection, schedule, batch_size, 0)


def data_config(folder: Path, setting: Setting, more: dict[str, Any]) -> DataConfig:
    values = {"num_classes": setting.num_classes, "image_size": setting.image_size, "patch_size": setting.patch_size}
    return DataConfig.model_validate({"train": folder, "val": folder, **values, **more})


@contextmanager
def open_ours(ours: Ours, setting: Setting, keep_rate: float) -> Iterator[Batches]:
    """The loader as training opens it."""
    index, planner = planned(ours, setting, keep_rate)
    plans = train_plans(planner, first_step=0, stop_step=_MANY_STEPS, micro_batch_size=setting.batch_size)
    loader = PatchLoader(
        index,
        plans,
        data=planner.data,
        selection=planner.selection,
        crop=planner.data.augment.crop,
        batch_size=setting.batch_size,
        num_threads=setting.workers,
        device_id=0 if planner.data.device == "gpu" else None,
    )
    with closing(loader):
        yield ((batch.num_images, batch.num_bytes) for batch in loader)


@contextmanager
def open_part(part: Literal["decode", "flip"], setting: Setting) -> Iterator[Batches]:
    """The graph's beginning, fed by the same plans: decoding alone, or everything before selection, whole images."""
    index, planner = planned(Ours({"rule": "grid"}), setting, 1.0)
    plans = train_plans(planner, first_step=0, stop_step=_MANY_STEPS, micro_batch_size=setting.batch_size)

    def source(reader: SampleReader) -> Iterator[tuple[list[np.ndarray], ...]]:
        for plan in plans:
            start, stop = plan.crops[:, :2].astype(np.int32), plan.crops[:, 2:].astype(np.int32)
            window = reader.read(plan.sample_ids), list(start), list(stop - start)
            yield window if part == "decode" else (*window, list(plan.flips.astype(np.int32)))

    @pipeline_def(batch_size=setting.batch_size, num_threads=setting.workers, device_id=None, exec_dynamic=True)
    def graph(inputs: Iterator[tuple[list[np.ndarray], ...]]) -> Any:
        kinds, ndim = [types.UINT8, types.INT32, types.INT32], [1, 1, 1]
        if part == "flip":
            kinds, ndim = [*kinds, types.INT32], [*ndim, 0]
        encoded, start, shape, *mirrored = fn.external_source(
            source=inputs, num_outputs=len(ndim), batch=True, dtype=kinds, ndim=ndim
        )
        images = augment.decode_window(encoded, start, shape)
        return augment.flip(augment.resize_whole(images, setting.image_size), *mirrored) if mirrored else images

    with SampleReader(index) as reader:
        pipeline = graph(source(reader))
        pipeline.build()
        yield _outputs(pipeline, part, setting.batch_size)


def _outputs(pipeline: Any, part: str, batch_size: int) -> Batches:
    label_bytes = 8
    while True:
        (images,) = pipeline.run()
        if part == "decode":  # of all sizes, and handed to nobody
            yield batch_size, 0
        else:
            tensor = torch.from_numpy(np.array(images.as_tensor()))
            yield batch_size, tensor.nbytes + batch_size * label_bytes


decoding_alone = partial(open_part, "decode")
without_selection = partial(open_part, "flip")
