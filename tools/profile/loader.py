"""What the parts of a loader's work take: loaders that end early, each doing one part more than the one before.

``result.PARTS`` tells them. A part is what a batch takes longer with it than without it, in the same threads. The parts
of a loader work at the same time: while a batch is read, earlier ones are decoded. So a part that the others hide takes
about nothing, and may come out below nothing by as much as repeats differ, while all parts add up to the time of the
whole loader.

The loader never reads an addressable JPEG whole, so of such shards ``read`` alone is a loader that does otherwise: what
reading would take if they were ordinary. ``splice`` is what it takes to leave out what no kept patch needs instead, and
``read`` and ``splice`` together are the loader's own reading. Where that saves more than it takes, as on a slow disk,
``splice`` is below nothing.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch

from engine.bad_data import DataError
from pipeline.batch import Batch
from pipeline.graph.augmentation import input_names
from pipeline.graph.bad_samples import BadSampleError, Planner, RowReader, Rows
from pipeline.graph.decoded import DecodedRows
from pipeline.graph.graph import build_graph
from pipeline.graph.inputs import SourceArrays
from pipeline.graph.settings import GraphSettings, LastPart
from pipeline.loader import PatchLoader, Work
from pipeline.plan.step import StepPlan
from pipeline.shards.index import ShardIndex, StaleIndexError
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import open_units

End = Literal["read", "splice", "decode", "augment", "select"]


class _Ending(NamedTuple):
    """whole_files: of ``GraphSettings``. last_part: of the graph; None: there is none, and files are read alone."""

    whole_files: bool
    last_part: LastPart | None


# The parts that a loader may end with. But for the first they are read as the run's own loader reads them.
_ENDINGS: dict[End, _Ending] = {
    "read": _Ending(True, None),
    "splice": _Ending(False, None),
    "decode": _Ending(False, "decode"),
    "augment": _Ending(False, "augment"),
    "select": _Ending(False, "select"),
}
_WARMUP_BATCHES = 3  # two that DALI has ready, and one


@dataclass(frozen=True)
class LoaderTimes:
    """What a run's loader took to make some batches while nothing held it up.

    Attributes:
        elapsed_s: until the last one was there.
        cpu_ms_per_image: processor time of the whole process for an image, all threads.
        thread_us_per_image: that of the loader's own thread, in microseconds.
        bytes_read_per_image, pages_read_per_image: see ``Batch.bytes_read``.
        last: the last batch.
    """

    elapsed_s: float
    cpu_ms_per_image: float
    thread_us_per_image: float
    bytes_read_per_image: float
    pages_read_per_image: float
    last: Batch


def time_loader(loader: PatchLoader, batches: Iterator[Batch], num_warmup: int, num_batches: int) -> LoaderTimes:
    """Take batches from a loader as fast as it makes them. Nothing else may run in the process.

    Args:
        batches: of the loader. num_warmup: batches after which what it had ready at the start is used up.
    """
    for _ in range(num_warmup):
        batch = next(batches)
    _finish_on_gpu()
    read, work, cpu_s, start = loader.read, loader.work, time.process_time(), time.perf_counter()
    for _ in range(num_batches):
        batch = next(batches)
    _finish_on_gpu()
    elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_s
    num_images = loader.read.num_images - read.num_images
    done = loader.work
    if done.num_images == work.num_images:  # too few batches: all of them were ready
        work = Work(0, 0.0)
    # The thread's images are its own: it is ahead of those who take the batches, by now more or less than before.
    thread_s_per_image = (done.thread_cpu_s - work.thread_cpu_s) / (done.num_images - work.num_images)
    read_per_image = loader.read.per_image(since=read)
    return LoaderTimes(elapsed_s, 1e3 * cpu_s / num_images, 1e6 * thread_s_per_image, *read_per_image, batch)


def augments(settings: GraphSettings) -> bool:
    """Whether there is anything between flip and selection."""
    augment = settings.data.augment
    return settings.augments and (augment.auto is not None or bool(input_names(augment)))


def splices(index: ShardIndex, settings: GraphSettings) -> bool:
    """Whether of some images no more is read than the patches are made from: there are files of their units.

    Raises:
        ValueError: a file of units cannot be read.
    """
    return settings.splices and any(open_units(index.folder, shard) is not None for shard in index.files.shards)


def time_loader_until(
    end: End,
    plans: Iterator[StepPlan],
    num_batches: int,
    *,
    index: ShardIndex,
    settings: GraphSettings,
    substitutes: Planner | None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds in which a loader without a thread of its own makes so many batches, once its first ones are used up.

    Args:
        end: the last of its parts.
        settings: of the run's own loader.
        substitutes: as for ``RowReader``.
        clock: that counts them; ``time.process_time`` counts those that all threads have worked.

    Raises:
        DataError: an image or a shard that cannot be used.
    """
    ending = _ENDINGS[end]
    # Without a graph the last part stays the run's: what is needed of a file is worked out from it.
    settings = replace(settings, whole_files=ending.whole_files, last_part=ending.last_part or settings.last_part)
    with SampleReader(index) as reader:
        files = RowReader(index, reader, settings, substitutes)
        rows = DecodedRows(index, files, settings) if settings.decoded else files
        recent: deque[Rows] = deque(maxlen=_WARMUP_BATCHES + 1)

        def source(_: int) -> SourceArrays:
            recent.append(rows.read(next(plans)))
            return rows.arrays(recent[-1])

        def make_batch() -> Callable[[], object]:
            if ending.last_part is None:
                return lambda: source(0)
            return build_graph(source, settings).run

        try:
            while True:
                try:
                    return _time(make_batch(), num_batches, clock)
                except RuntimeError:
                    # As the run's loader does: once the rows that cannot be decoded are known they are left out.
                    if not any(rows.examine(one) for one in recent):
                        raise
        except (BadSampleError, StaleIndexError, OSError) as error:
            raise DataError(str(error)) from error


def _time(make_batch: Callable[[], object], num_batches: int, clock: Callable[[], float]) -> float:
    for _ in range(_WARMUP_BATCHES):
        make_batch()
    _finish_on_gpu()
    start = clock()
    for _ in range(num_batches):
        make_batch()
    _finish_on_gpu()
    return clock() - start


def _finish_on_gpu() -> None:
    """Wait where the work is a GPU's: it hands batches over before it has made them."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
