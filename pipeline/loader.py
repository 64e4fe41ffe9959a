"""Plan + graph + shards as an iterator of batches, prefetched on a thread of its own."""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch

from pipeline.bad_samples import BadRow, Planner, RowReader, Rows
from pipeline.batch import Batch
from pipeline.config import DataConfig, SelectionConfig
from pipeline.graph import GraphSettings, SourceArrays, build_graph
from pipeline.plan import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.reader import SampleReader
from pipeline.shards import ShardIndex

_END = object()
_CLOSE_TIMEOUT_S = 10.0


def train_plans(
    planner: TrainPlanner,
    *,
    first_step: int,
    stop_step: int,
    micro_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[StepPlan]:
    """A rank's micro batches of the steps ``first_step`` to ``stop_step - 1``, in order."""
    for step in range(first_step, stop_step):
        yield from planner.plan(step, rank, world_size).micro_batches(micro_batch_size)


def validation_plans(planner: ValidationPlanner, *, rank: int = 0, world_size: int = 1) -> Iterator[StepPlan]:
    """A rank's batches of one pass over the validation set."""
    for batch in range(planner.num_batches(world_size)):
        yield planner.plan(batch, rank, world_size)


class PatchLoader:
    """Batches for an iterator of plans.

    DALI runs on a thread of the loader's own, which also reads the shards: a cold disk holds up nothing but the queue.
    The loader has no state to save: start it again with plans from the step you want.

    Args:
        index: the data set the plans speak of.
        plans: micro batches, all of ``batch_size`` rows.
        num_threads: DALI's worker threads.
        device_id: the GPU that decodes under ``data.device: gpu``, else None.
        substitutes: replaces the samples that cannot be used; None: such a sample is an error.

    Raises:
        What reading raised, or a BadSampleError that names the images which cannot be decoded; when the batch it
        belongs to is asked for, after all batches before it.
    """

    def __init__(
        self,
        index: ShardIndex,
        plans: Iterator[StepPlan],
        *,
        data: DataConfig,
        selection: SelectionConfig,
        crop: str,
        batch_size: int,
        num_threads: int,
        device_id: int | None = None,
        substitutes: Planner | None = None,
    ) -> None:
        self.wait_s = 0.0  # time the consumer has spent waiting so far
        self._bad: list[BadRow] = []  # of the batches given out since take_bad_rows was called
        self._plans, self._data = plans, data
        self._reader = SampleReader(index)
        # Plans that DALI has, with their rows as read, whose outputs it has not given back.
        self._issued: deque[tuple[StepPlan, Rows]] = deque()
        self._again: deque[StepPlan] = deque()  # plans that a graph had taken when it failed
        self._source_error: Exception | None = None
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=data.prefetch_batches)
        self._closing = threading.Event()
        size = data.image_size
        self._settings = GraphSettings(
            data,
            selection,
            crop,
            batch_size,
            num_threads,
            uniform_size=crop == "pad" and bool(np.all((index.width == size) & (index.height == size))),
            device_id=device_id,
        )
        self._rows = RowReader(index, self._reader, self._settings, substitutes)
        self._thread = threading.Thread(target=self._produce, name="patch-loader", daemon=True)
        self._thread.start()

    def _source(self, _: int) -> SourceArrays:
        try:
            if self._source_error is not None and not self._again:
                raise StopIteration
            plan = self._again.popleft() if self._again else next(self._plans)
            rows = self._rows.read(plan)
        except StopIteration:
            raise
        except Exception as error:
            # DALI reads ahead, and drops what it has read if the source raises: end here, and raise after the rest.
            self._source_error = error
            self._again.clear()
            raise StopIteration from error
        self._issued.append((plan, rows))
        return self._rows.arrays(rows)

    def _produce(self) -> None:
        try:
            graph = build_graph(self._source, self._settings)
            while not self._closing.is_set():
                try:
                    outputs = graph.run()
                except StopIteration:
                    break
                except RuntimeError:
                    if not any(self._rows.examine(rows) for _, rows in self._issued):
                        raise
                    # A graph that has failed loses batches: a new one starts again with all that the old one had.
                    self._again = deque(plan for plan, _ in self._issued) + self._again
                    self._issued.clear()
                    graph = build_graph(self._source, self._settings)
                    continue
                self._put(self._batch(outputs))
            self._put(self._source_error or _END)
        except BaseException as error:
            self._put(error)

    def _batch(self, outputs: Any) -> Batch:
        _, rows = self._issued.popleft()
        plan = rows.plan
        pixels, ids = outputs
        ids_keep = torch.from_numpy(np.array(ids.as_tensor()))
        if self._settings.device_id is None:
            patches = torch.from_numpy(np.array(pixels.as_tensor()))
        else:
            patches = gather_on_device(torch.from_dlpack(pixels.as_tensor()), ids_keep, self._data.patch_size)
            # DALI takes its images back when this returns, so they have to be read by then.
            torch.cuda.current_stream(patches.device).synchronize()
        return Batch(
            patches=patches,
            ids_keep=ids_keep,
            labels=torch.from_numpy(plan.labels),
            counted=torch.from_numpy(plan.counted),
            plan=plan,
            bad=rows.bad,
            mix_labels=_tensor(plan.augment.mix_labels) if plan.augment is not None else None,
            mix_weights=_tensor(plan.augment.mix_weights) if plan.augment is not None else None,
        )

    def _put(self, item: Any) -> None:
        while not self._closing.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._closing.is_set():
            raise StopIteration
        start = time.perf_counter()
        item = self._ready.get()
        self.wait_s += time.perf_counter() - start
        if isinstance(item, Batch):
            self._bad += item.bad
            return item
        self.close()
        if item is _END:
            raise StopIteration
        raise item

    def take_bad_rows(self) -> list[BadRow]:
        """The bad rows of all batches given out since the last call."""
        bad, self._bad = self._bad, []
        return bad

    def close(self) -> None:
        """Stop the thread and close the shards. Safe to call twice.

        A thread that hangs in a read is left to itself: it keeps no process alive.
        """
        self._closing.set()
        self._thread.join(timeout=_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._reader.close()

    def __enter__(self) -> "PatchLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tensor(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array)


def gather_on_device(images: torch.Tensor, ids_keep: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Kept patches gathered where the images are.

    Args:
        images: uint8 [B, S, S, 3] on any device.
        ids_keep: int32 [B, K] on any device.

    Returns:
        uint8 [B, K, P*P*3] on the device of ``images``.
    """
    batch, size = images.shape[:2]
    grid = size // patch_size
    ids = ids_keep.to(images.device, torch.int64)
    tiles = images.reshape(batch, grid, patch_size, grid, patch_size * 3)
    rows = torch.arange(batch, device=images.device)[:, None]
    return tiles[rows, ids // grid, :, ids % grid].reshape(batch, ids.shape[1], -1)
