"""Plan + graph + shards as an iterator of batches, prefetched on a thread of its own."""

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import thread_time
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from nvidia.dali.pipeline import Pipeline
from torch.profiler import record_function

from pipeline.batch import Batch
from pipeline.compiling import is_first_start
from pipeline.finishing import Finisher
from pipeline.graph.bad_samples import BadRow, RowReader, Rows
from pipeline.graph.decoded import DecodedRows
from pipeline.graph.faults import check_images_explain
from pipeline.graph.graph import build_graph
from pipeline.graph.inputs import SourceArrays, handed_bytes
from pipeline.graph.pixel_cache import PixelCache
from pipeline.graph.settings import GraphSettings
from pipeline.looking_ahead import LookAhead
from pipeline.plan.step import StepPlan, TrainPlanner, ValidationPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.magnitude import EmbeddingSnapshot
from pipeline.selection.snapshots import SnapshotBoard
from pipeline.shards.index import ShardIndex
from pipeline.shards.reader import SampleReader
from pipeline.storage.errors import StoreGoneError
from pipeline.storage.reserve import Reserve
from pipeline.told import tell_once
from pipeline.train_plans import NotYetError, TrainPlans

_END = object()
_CLOSE_TIMEOUT_S = 10.0


def validation_plans(planner: ValidationPlanner, *, rank: int = 0, world_size: int = 1) -> Iterator[StepPlan]:
    """A rank's batches of one pass over the validation set."""
    for batch in range(planner.num_batches(world_size)):
        yield planner.plan(batch, rank, world_size)


class Work(NamedTuple):
    """What a loader's own thread has done so far: images it has made, and seconds of a processor it has taken."""

    num_images: int
    thread_cpu_s: float


class Read(NamedTuple):
    """What was read for the batches that a loader has given out so far: see ``Batch.bytes_read``."""

    num_images: int
    num_bytes: int
    num_pages: int

    def per_image(self, since: "Read | None" = None) -> tuple[float, float]:
        """Bytes and pages for an image, of the batches given out since then; of all of them by default."""
        num_images, num_bytes, num_pages = since or (0, 0, 0)
        images = self.num_images - num_images
        return (self.num_bytes - num_bytes) / images, (self.num_pages - num_pages) / images


class Issued(NamedTuple):
    """What DALI has been handed for a plan, and how many bytes that is."""

    plan: StepPlan
    rows: Rows
    num_bytes: int


class PatchLoader:
    """Batches for an iterator of plans.

    DALI runs on a thread of the loader's own, which also reads the shards: a cold disk holds up nothing but the queue.
    The loader has no state to save: start it again with plans from the step you want.

    Args:
        planner: whose plans they are. What it plans with holds here too: data set, configuration, seed. Under
            ``data.on_bad_sample: skip`` it names the substitutes of samples that cannot be used.
        plans: micro batches, whose sizes may differ. Where they cannot be made yet (``TrainPlans``), the loader waits.
        batch_size: rows of the largest of them.
        num_threads: DALI's worker threads.
        device_id: the GPU that decodes under ``data.device: gpu``, else None.
        device: where the batches are wanted, and are taken over by ``Batch.to``; host memory by default. A GPU that
            decodes makes them where it is.
        world_size: ranks that read the same plans at the same time, which says what comes next of shards in a store.
        reserve: batches that are kept behind the one given out, where shards lie in a store: they are what is left to
            the ranks to agree on a stop, once the store is lost.
        on_store_lost: called once, by ``next``, with what is wrong with the store; the reserve is still to come.
        targets: the batches carry the dropped patches too, apart from the kept ones.
        snapshots: of the model's embedding, for a rule that looks through the model, else None. The batches up to a
            snapshot's step are made before it, and those from it on wait until it is published.
        cache: of decoded images of the planner's data set; closed with the loader.

    Raises:
        What reading raised, or a BadSampleError that names the images which cannot be decoded; when the batch it
        belongs to is asked for, after all batches before it.
    """

    def __init__(
        self,
        planner: TrainPlanner | ValidationPlanner,
        plans: Iterator[StepPlan],
        *,
        batch_size: int,
        num_threads: int,
        device_id: int | None = None,
        device: torch.device | None = None,
        targets: bool = False,
        snapshots: SnapshotBoard | None = None,
        cache: PixelCache | None = None,
        world_size: int = 1,
        reserve: int = 0,
        on_store_lost: Callable[[StoreGoneError], object] = lambda error: None,
    ) -> None:
        index, data, selection = planner.samples, planner.data, planner.selection
        assert isinstance(index, ShardIndex)
        assert isinstance(selection, SelectionConfig)
        assert (snapshots is not None) == selection.needs_model
        if is_first_start() and sys.stderr.isatty():
            tell_once("compiling the loops over pixels: up to a minute of one core, once")
        self.wait_s = 0.0  # time the consumer has spent waiting so far
        self.work = Work(0, 0.0)
        self.read = Read(0, 0, 0)
        self._bad: list[BadRow] = []  # of the batches given out since take_bad_rows was called
        self._plans, self._data = plans, data
        self._snapshots = snapshots
        self._snapshot: EmbeddingSnapshot | None = None  # that of the graph which runs
        self._reader, self._cache = SampleReader(index), cache
        files = self._reader.files
        self._ahead = None if files is None else LookAhead(replace(planner), index, files, world_size)
        self._reserve = Reserve(reserve if files is not None else 0, on_store_lost)
        # Plans that DALI has, with their rows as read, whose outputs it has not given back.
        self._issued: deque[Issued] = deque()
        self._again: deque[StepPlan] = deque()  # plans to read anew: after a failure, or once a snapshot is there
        self._awaited: int | None = None  # the step of the scores that the next plan needs
        self._source_error: Exception | None = None
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=data.prefetch_batches + self._reserve.size)
        self._closing = threading.Event()
        size, sizes_vary = data.image_size, planner.sizes_vary
        self._settings = GraphSettings(
            data,
            selection,
            planner.crop,
            batch_size,
            num_threads,
            uniform_size=planner.crop == "pad"
            and not sizes_vary
            and bool(np.all((np.asarray(index.width) == size) & (np.asarray(index.height) == size))),
            device_id=device_id,
            targets=targets,
            training=planner.training,
            sizes_vary=sizes_vary,
        )
        if cache is not None or (data.echo > 1 and self._settings.augments):
            self._settings = replace(self._settings, decoded=True)
        substitutes = planner if data.on_bad_sample == "skip" else None
        row_reader = RowReader(index, self._reader, self._settings, substitutes)
        self._rows: RowReader | DecodedRows = row_reader
        if self._settings.decoded:
            self._rows = DecodedRows(index, row_reader, self._settings, cache)
        device = device or torch.device("cpu")
        if device_id is not None:
            device = torch.device("cuda", device_id)
        self._finisher = Finisher(self._settings, planner.seed, device)
        self._thread = threading.Thread(target=self._produce, name="patch-loader", daemon=True)
        self._thread.start()

    @property
    def settings(self) -> GraphSettings:
        """What its graph is built for."""
        return self._settings

    def _source(self, _: int) -> SourceArrays:
        try:
            if self._source_error is not None and not self._again:
                raise StopIteration
            plan = self._again.popleft() if self._again else next(self._plans)
            if self._moment(plan) != self._moment_of_graph():
                self._again.appendleft(plan)  # for the graph with the next snapshot, once this one has run dry
                raise StopIteration
            with record_function("loader: read"):
                if self._ahead is not None:
                    self._ahead.go_to(plan.step)
                rows = self._rows.read(plan)
        except StopIteration:
            raise
        except NotYetError as error:
            self._awaited = error.moment  # once all that was planned is made, which may be what they come of
            raise StopIteration from error
        except Exception as error:
            # DALI reads ahead, and drops what it has read if the source raises: end here, and raise after the rest.
            self._source_error = error
            if isinstance(error, StoreGoneError):
                self._reserve.lose(error)
            self._again.clear()
            raise StopIteration from error
        arrays = self._rows.arrays(rows)
        self._issued.append(Issued(plan, rows, handed_bytes(arrays)))
        return arrays

    def _moment(self, plan: StepPlan) -> int | None:
        """The step of the snapshot that a plan needs, None where the rule needs none."""
        return None if self._snapshots is None else self._snapshots.moment_of(plan.step)

    def _moment_of_graph(self) -> int | None:
        return None if self._snapshot is None else self._snapshot.step

    def _produce(self) -> None:
        try:
            self._finisher.begin()
            graph = self._build_graph() if self._take_snapshot() else None
            while graph is not None and not self._closing.is_set():
                try:
                    with record_function("loader: graph"):
                        outputs = self._finisher.run(graph)
                except StopIteration:
                    # Run dry, at the end or before a snapshot: nothing in the graph was scored by another one.
                    if not self._goes_on():
                        break
                    graph.reset()
                    continue
                except RuntimeError as error:
                    check_images_explain(error, self._settings, self._found_bad)
                    # A graph that has failed loses batches: a new one starts again with all that the old one had.
                    self._again = deque(issued.plan for issued in self._issued) + self._again
                    self._issued.clear()
                    graph = None  # its memory is free before another one takes as much
                    graph = self._build_graph()
                    continue
                with record_function("loader: copy"):
                    issued = self._issued.popleft()
                    batch = self._finisher.batch(issued.rows, issued.num_bytes, *outputs)
                self.work = Work(self.work.num_images + batch.num_images, thread_time())
                self._put(batch)
            self._put(self._source_error or _END)
        except BaseException as error:
            self._put(error)
        finally:
            self._reserve.makes(False)
            self._finisher.close()

    def _found_bad(self) -> bool:
        return any(self._rows.examine(issued.rows) for issued in self._issued)

    def _goes_on(self) -> bool:
        """Wait for whatever made the graph run dry; False if that is the end."""
        if self._awaited is None and not self._again:
            return False
        self._reserve.makes(False)  # until the trainer has used what there is, nothing more comes
        goes_on = self._take_snapshot()
        self._reserve.makes(True)
        return goes_on

    def _find_plan(self) -> bool:
        """Wait until the next plan can be made; False if there is none."""
        while not self._again:
            try:
                self._again.append(next(self._plans))
            except StopIteration:
                return False
            except NotYetError as error:
                assert isinstance(self._plans, TrainPlans)
                if not self._plans.wait(error.moment, self._closing.is_set):
                    return False
        self._awaited = None
        return True

    def _take_snapshot(self) -> bool:
        """Wait for what the next plan needs, scores or a snapshot; False if there is no next plan."""
        if not self._find_plan():
            return False
        if self._snapshots is not None:
            moment = self._snapshots.moment_of(self._again[0].step)
            self._snapshot = self._snapshots.wait_for(moment, self._closing.is_set)
            if self._snapshot is None:
                return False
        self._finisher.open_scores(self._snapshot)
        return True

    def _build_graph(self) -> Pipeline:
        return build_graph(self._source, self._settings)

    def _put(self, item: Any) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return self._reserve.has_come()
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._closing.is_set():
            raise StopIteration
        start = time.perf_counter()
        self._reserve.keep(self._ready.qsize, self._closing.is_set)
        item = self._ready.get()
        self.wait_s += time.perf_counter() - start
        if isinstance(item, Batch):
            self._bad += item.bad
            done = self.read
            self.read = Read(
                done.num_images + item.num_images, done.num_bytes + item.bytes_read, done.num_pages + item.pages_read
            )
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
        if self._reader.files is not None:
            self._reader.files.stop()
        self._thread.join(timeout=_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._reader.close()
            if self._cache is not None:
                self._cache.close()

    def __enter__(self) -> "PatchLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
