"""What the parts of a loader's work take: loaders that end early, each doing one part more than the one before.

======== ==============================================================================================================
read     plan a batch and read its files; their headers are looked at; under ``data.echo`` they are decoded, too
decode   decode, crop, resize and flip. DALI decodes no more of a file than the crop needs, so these are one part
augment  RandAugment or TrivialAugment, colour jitter, mixing, erasing
select   score the patches, rank them, gather the kept ones; on a GPU no more than ranking what the graph itself scores
copy     out of DALI's memory into the batch, and from the loader's thread to the trainer's; on a GPU the gathering, and
         for a rule that looks through the model its scoring and ranking, are here
======== ==============================================================================================================

A part is what a batch takes longer with it than without it, in the same threads. The parts of a loader work at the same
time: while a batch is read, earlier ones are decoded. So a part that the others hide takes about nothing, and may come
out below nothing by as much as repeats differ, while all parts add up to the time of the whole loader.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from engine.bad_data import DataError
from pipeline.graph.augmentation import input_names
from pipeline.graph.bad_samples import BadSampleError, Planner, RowReader, Rows
from pipeline.graph.decoded import DecodedRows
from pipeline.graph.graph import GraphSettings, LastPart, Scorer, SourceArrays, build_graph
from pipeline.plan.step import StepPlan
from pipeline.shards.index import ShardIndex, StaleIndexError
from pipeline.shards.reader import SampleReader

_WARMUP_BATCHES = 3  # two that DALI has ready, and one


def augments(settings: GraphSettings) -> bool:
    """Whether there is anything between flip and selection."""
    return settings.augments and bool(input_names(settings.data.augment, settings.device_id is not None))


def time_loader_until(
    last_part: LastPart | None,
    plans: Iterator[StepPlan],
    num_batches: int,
    *,
    index: ShardIndex,
    settings: GraphSettings,
    substitutes: Planner | None,
    scorer: Scorer | None,
) -> float:
    """Seconds in which a loader without a thread of its own makes so many batches, once its first ones are used up.

    Args:
        last_part: where its graph ends; None: it has none, and reads only.
        settings: of the run's own loader.
        substitutes, scorer: as for ``RowReader`` and ``build_graph``.

    Raises:
        DataError: an image or a shard that cannot be used.
    """
    if last_part is not None:
        settings = replace(settings, last_part=last_part)
    with SampleReader(index) as reader:
        files = RowReader(index, reader, settings, substitutes)
        rows = DecodedRows(index, files, settings) if settings.decoded else files
        recent: deque[Rows] = deque(maxlen=_WARMUP_BATCHES + 1)

        def source(_: int) -> SourceArrays:
            recent.append(rows.read(next(plans)))
            return rows.arrays(recent[-1])

        def make_batch() -> Callable[[], object]:
            if last_part is None:
                return lambda: source(0)
            return build_graph(source, settings, scorer).run

        try:
            while True:
                try:
                    return _time(make_batch(), num_batches)
                except RuntimeError:
                    # As the run's loader does: once the rows that cannot be decoded are known they are left out.
                    if not any(rows.examine(one) for one in recent):
                        raise
        except (BadSampleError, StaleIndexError, OSError) as error:
            raise DataError(str(error)) from error


def _time(make_batch: Callable[[], object], num_batches: int) -> float:
    for _ in range(_WARMUP_BATCHES):
        make_batch()
    start = time.perf_counter()
    for _ in range(num_batches):
        make_batch()
    return time.perf_counter() - start
