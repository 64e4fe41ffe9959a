"""This project's loaders, and parts of its graph, as contenders of benchmarks.loader."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types

from benchmarks.loader_peers import Batches, Setting
from pipeline.config import DataConfig
from pipeline.graph import decoding, nodes
from pipeline.graph.workers import kept_to_cores
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.magnitude import EmbeddingSnapshot
from pipeline.selection.snapshots import fixed_board
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.levels import open_with_levels
from pipeline.shards.reader import SampleReader
from pipeline.train_plans import TrainPlans

_MANY_STEPS = 1_000_000
FAST_IDCT: dict[str, Any] = {
    "device": "cpu",
    "output_type": types.RGB,
    "adjust_orientation": False,
    "use_fast_idct": True,
}


ShardsName = Literal["shards", "resized_shards", "addressable_shards"]  # fields of ``Setting``


@dataclass(frozen=True)
class Ours:
    """One configuration of the loader.

    Attributes:
        selection, data, augment: keys of the run's configuration beside those that the measurement sets.
        shards: which of the setting's.
    """

    selection: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    shards: ShardsName = "shards"

    def folder(self, setting: Setting) -> Path | None:
        """Of its shards; None where the setting has none of that name."""
        found: Path | None = getattr(setting, self.shards)
        return found

    def open(self, setting: Setting, keep_rate: float) -> AbstractContextManager[Batches]:
        return open_ours(self, setting, keep_rate)


def planned(ours: Ours, setting: Setting, keep_rate: float) -> tuple[ShardIndex, TrainPlanner]:
    """The data set and the planner of endless steps at one keep rate."""
    folder = ours.folder(setting)
    assert folder is not None
    data = data_config(folder, setting, {**ours.data, "augment": ours.augment})
    index = open_with_levels(folder, "train", data.levels)
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
    _, planner = planned(ours, setting, keep_rate)
    plans = TrainPlans(planner, first_step=0, stop_step=_MANY_STEPS, micro_batch_size=setting.batch_size)
    loader = PatchLoader(
        planner,
        plans,
        batch_size=setting.batch_size,
        num_threads=setting.workers,
        device_id=0 if planner.data.device == "gpu" else None,
        snapshots=fixed_board(_some_embedding(planner.data)) if ours.selection["rule"] == "magnitude" else None,
    )
    with closing(loader):
        yield ((batch.num_images, batch.num_bytes) for batch in loader)


def _some_embedding(data: DataConfig) -> EmbeddingSnapshot:
    """Of DeiT-S's size. Scoring takes as long whatever the weights."""
    kernel = np.random.default_rng(0).normal(size=(384, 3 * data.patch_size**2))
    return EmbeddingSnapshot.of(0, kernel, np.zeros(len(kernel)), None, mean=data.mean, std=data.std)


@dataclass(frozen=True)
class Part:
    """The graph's beginning, fed by the plans of all patches.

    Attributes:
        ends: with decoding, or with everything before the selection, whole images.
        window: the crop alone is decoded, as the loader does, or the whole image, as under ``data.echo``.
        fast_idct: of libjpeg-turbo, which the loader leaves alone.
        shards: as in ``Ours``.
    """

    ends: Literal["decode", "flip"]
    window: bool = True
    fast_idct: bool = False
    shards: ShardsName = "shards"

    @property
    def num_inputs(self) -> int:
        """How many of what ``part_source`` gives the graph takes."""
        return 4 if self.ends == "flip" else 3 if self.window else 1

    @contextmanager
    def open(self, setting: Setting) -> Iterator[Batches]:
        index, planner = planned(Ours({"rule": "grid"}, shards=self.shards), setting, 1.0)
        plans = TrainPlans(planner, first_step=0, stop_step=_MANY_STEPS, micro_batch_size=setting.batch_size)
        with SampleReader(index) as reader:
            pipeline = self.graph((arrays[: self.num_inputs] for arrays in part_source(plans, reader)), setting)
            with kept_to_cores(setting.workers):  # as the loader does
                pipeline.build()
            yield _outputs(pipeline, self.ends, setting.batch_size)

    def graph(self, source: Iterator[tuple[list[np.ndarray], ...]], setting: Setting) -> Any:
        @pipeline_def(batch_size=setting.batch_size, num_threads=setting.workers, device_id=None, exec_dynamic=True)
        def graph() -> Any:
            kinds, ndim = [types.UINT8, *[types.INT32] * 3][: self.num_inputs], [1, 1, 1, 0][: self.num_inputs]
            encoded, *more = fn.external_source(
                source=source, num_outputs=self.num_inputs, batch=True, dtype=kinds, ndim=ndim
            )
            if not self.window:
                return decoding.decode_whole(encoded, "cpu")
            start, shape, *mirrored = more
            if self.fast_idct:
                return fn.decoders.image_slice(encoded, start=start, shape=shape, axes=[0, 1], **FAST_IDCT)
            images = decoding.decode_window(encoded, start, shape)
            return nodes.flip(nodes.resize_whole(images, setting.image_size), *mirrored) if mirrored else images

        return graph()


def part_source(plans: Iterator[StepPlan], reader: SampleReader) -> Iterator[tuple[list[np.ndarray], ...]]:
    """Image files, corners and sizes of their crops, and whether they are mirrored."""
    for plan in plans:
        start, stop = plan.crops[:, :2].astype(np.int32), plan.crops[:, 2:].astype(np.int32)
        yield reader.read(plan.sample_ids), list(start), list(stop - start), list(plan.flips.astype(np.int32))


def fast_idct_levels(setting: Setting, num_images: int = 64) -> dict[str, float]:
    """How far libjpeg-turbo's fast IDCT moves the pixels: mean and largest difference, in levels of 255."""
    index = open_index(setting.shards, "train")
    with SampleReader(index) as reader:
        encoded = reader.read(np.arange(min(num_images, index.num_samples)))

    @pipeline_def(batch_size=len(encoded), num_threads=setting.workers, device_id=None)
    def graph() -> Any:
        images = fn.external_source(source=lambda: encoded, batch=True, dtype=types.UINT8, ndim=1)
        return decoding.decode_whole(images, "cpu"), fn.decoders.image(images, **FAST_IDCT)

    pipeline = graph()
    pipeline.build()
    decoded = [[np.array(images.at(i)).astype(np.int16) for i in range(len(encoded))] for images in pipeline.run()]
    differences = [np.abs(fast - exact) for exact, fast in zip(*decoded, strict=True)]
    return {
        "mean": float(np.mean([one.mean() for one in differences])),
        "largest": float(max(one.max() for one in differences)),
    }


def _outputs(pipeline: Any, ends: str, batch_size: int) -> Batches:
    label_bytes = 8
    while True:
        (images,) = pipeline.run()
        if ends == "decode":  # of all sizes, and handed to nobody
            yield batch_size, 0
        else:
            tensor = torch.from_numpy(np.array(images.as_tensor()))
            yield batch_size, tensor.nbytes + batch_size * label_bytes
