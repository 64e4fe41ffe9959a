"""What is left to do behind the graph: to choose where nothing has chosen yet, to gather, and to hand over."""

from typing import Any

import numpy as np
import torch
from nvidia.dali.pipeline import Pipeline

from pipeline.batch import Batch
from pipeline.config import DataConfig
from pipeline.crossing import Crossing, Slot
from pipeline.graph.bad_samples import Rows
from pipeline.graph.on_device import (
    all_on_device,
    gather_on_device,
    open_device_scores,
    perturbed_on_device,
    ranked_on_device,
)
from pipeline.graph.settings import GraphSettings
from pipeline.plan.step import StepPlan
from pipeline.selection.config import open_patch_scores, select
from pipeline.selection.magnitude import EmbeddingSnapshot
from pipeline.selection.patches import ids_dropped
from pipeline.selection.rules import gumbel

Tensors = dict[str, torch.Tensor]  # by the names that ``Batch`` has for them


class Finisher:
    """Makes batches of a graph's outputs. All but its making is for the loader's thread.

    Args:
        settings: of the graph.
        seed: key of what an estimate of a score draws.
        device: where the batches are wanted; that of the graph, where it works on a GPU.
    """

    def __init__(self, settings: GraphSettings, seed: int, device: torch.device) -> None:
        self._settings, self._seed, self._device = settings, seed, device
        self._crossing = Crossing(device)
        self._snapshot: EmbeddingSnapshot | None = None
        self._scores: dict[int, Any] = {}  # by grid size

    @property
    def _on_device(self) -> bool:
        """Whether the graph gives whole images on a device, instead of patches in host memory."""
        return self._settings.device_id is not None

    def begin(self) -> None:
        """Prepare the calling thread for all that follows."""
        self._crossing.enter()

    def open_scores(self, snapshot: EmbeddingSnapshot | None) -> None:
        """What scores images from now on, under the snapshot in force; nothing where none are scored here."""
        self._snapshot, self._scores = snapshot, {}
        if self._settings.scores_behind:
            self._scores_of(self._settings.data.grid_size)

    def _scores_of(self, grid_size: int) -> Any:
        """What scores images of so many patches a side: patches in host memory, or images on a device."""
        if grid_size not in self._scores:
            self._scores[grid_size] = self._open_scores(grid_size)
        return self._scores[grid_size]

    def _open_scores(self, grid_size: int) -> Any:
        selection, snapshot, seed = self._settings.selection, self._snapshot, self._seed
        if self._on_device:
            return open_device_scores(selection, grid_size, self._device, snapshot=snapshot, seed=seed)
        return open_patch_scores(selection, grid_size, snapshot=snapshot, seed=seed)

    def _data(self, plan: StepPlan) -> DataConfig:
        """With the sizes of a plan's images and patches."""
        return self._settings.at(plan.stage).data

    def run(self, graph: Pipeline) -> Any:
        """The graph's next outputs. On a GPU they may still be in the making, ahead of what its stream is given next.

        Raises:
            StopIteration, RuntimeError: what the graph raises.
        """
        return graph.run(self._crossing.stream) if self._on_device else graph.run()

    def batch(self, rows: Rows, handed_bytes: int, *outputs: Any) -> Batch:
        """The batch of some rows.

        Args:
            handed_bytes: of all that the graph was handed for them.
            outputs: the graph's for these rows: see ``graph.define_graph``.
        """
        plan, slot = rows.plan, self._crossing.slot()
        slot.hold("labels", plan.labels)
        if not self._settings.training:
            slot.hold("counted", plan.counted)
        if plan.weights is not None:
            slot.hold("weights", plan.weights)
        if plan.augment is not None and plan.augment.mix_labels is not None:
            assert plan.augment.mix_weights is not None
            slot.hold("mix_labels", plan.augment.mix_labels)
            slot.hold("mix_weights", plan.augment.mix_weights)
        tensors = self._gathered(slot, rows, *outputs) if self._on_device else self._copied(slot, plan, *outputs)
        return Batch(
            plan=plan,
            bad=rows.bad,
            bytes_read=rows.num_bytes,
            pages_read=rows.num_pages,
            num_bytes=slot.num_bytes + (handed_bytes if self._on_device else 0),
            ready=self._crossing.finish(slot, kept=outputs),
            **{"counted": torch.from_numpy(plan.counted), **tensors},
        )

    def close(self) -> None:
        """Wait until the device has read all that it was given to make batches from."""
        self._crossing.close()

    def _copied(self, slot: Slot, plan: StepPlan, *outputs: Any) -> Tensors:
        """Of the graph's patches in host memory, which are copied once on the way to where they are wanted."""
        num_patches = self._data(plan).num_patches
        patches, *others = (np.asarray(output.as_tensor()) for output in outputs)
        if self._settings.scores_behind:
            ids = self._chosen(plan, patches)
            _take(slot, "patches", patches, ids)
        else:
            ids = others[0]
            slot.hold("patches", patches)
        slot.hold("ids_keep", ids)
        if self._settings.targets:
            dropped = ids_dropped(ids, num_patches)
            slot.hold("ids_target", dropped)
            if self._settings.scores_behind:
                _take(slot, "target_patches", patches, dropped)
            else:
                slot.hold("target_patches", others[1])
        return self._crossing.send(slot)

    def _chosen(self, plan: StepPlan, patches: np.ndarray) -> np.ndarray:
        """The ids kept of images that come as all their patches; nothing is scored where all are kept."""
        data, num_kept, selection = self._data(plan), plan.stage.num_kept, self._settings.selection
        num_patches = data.num_patches
        if num_kept == num_patches:
            return np.tile(np.arange(num_patches, dtype=np.int32), (plan.num_rows, 1))
        return select(self._scores_of(data.grid_size)(patches), plan.noise, num_kept, data.grid_size, selection)

    def _gathered(self, slot: Slot, rows: Rows, pixels: Any) -> Tensors:
        """Of the graph's images on a device, uint8 [B, S, S, 3]."""
        images, data = torch.from_dlpack(pixels.as_tensor()), self._data(rows.plan)
        if rows.ids is not None:
            slot.hold("ids_keep", rows.ids)
            if self._settings.targets:
                slot.hold("ids_target", ids_dropped(rows.ids, data.num_patches))
            tensors = self._crossing.send(slot)
        else:
            tensors = self._ranked(slot, rows.plan, images)
        tensors["patches"] = gather_on_device(images, tensors["ids_keep"], data.patch_size)
        if self._settings.targets:
            tensors["target_patches"] = gather_on_device(images, tensors["ids_target"], data.patch_size)
        return tensors

    def _ranked(self, slot: Slot, plan: StepPlan, images: torch.Tensor) -> Tensors:
        """What the slot holds, and the ids of the patches that are chosen of images on a device."""
        data, num_kept = self._data(plan), plan.stage.num_kept
        num_patches = data.num_patches
        temperature = self._settings.selection.temperature
        if num_kept == num_patches:
            tensors = self._crossing.send(slot)
            kept, dropped = all_on_device(plan.num_rows, num_patches, images.device)
        else:
            if temperature > 0:
                slot.hold("gumbels", gumbel(plan.noise))
            tensors = self._crossing.send(slot)
            scores = self._scores_of(data.grid_size)(images)
            if temperature > 0:
                scores = perturbed_on_device(scores, tensors.pop("gumbels"), temperature)
            kept, dropped = ranked_on_device(scores, num_kept)
        return tensors | {"ids_keep": kept} | ({"ids_target": dropped} if self._settings.targets else {})


def _take(slot: Slot, name: str, patches: np.ndarray, ids: np.ndarray) -> None:
    """Patches [B, K, P*P*3] at ids int32 [B, K] of all of them, [B, N, P*P*3], into a slot."""
    taken = slot.empty(name, (*ids.shape, patches.shape[2]), patches.dtype)
    for row, row_ids, out in zip(patches, ids, taken, strict=True):
        np.take(row, row_ids, axis=0, out=out, mode="clip")  # in the mode "raise" it would be copied twice
