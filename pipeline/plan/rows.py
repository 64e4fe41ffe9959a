"""How samples fall to ranks and steps, and which stands in for one that cannot be used."""

import numpy as np

from pipeline.growth import Growth
from pipeline.plan import keyed
from pipeline.plan.keyed import Stream
from pipeline.plan.short_epochs import SampleIds


def rank_rows(global_batch_size: int, rank: int, world_size: int) -> tuple[int, int]:
    """First row and number of rows of a rank's part of the global batch: consecutive, equal parts.

    Raises:
        ValueError: the ranks do not divide the batch.
    """
    if global_batch_size % world_size:
        raise ValueError(
            f"global_batch_size {global_batch_size} is not divided by {world_size} ranks; "
            f"choose a multiple of {world_size}"
        )
    assert 0 <= rank < world_size
    num_rows = global_batch_size // world_size
    return rank * num_rows, num_rows


def substitute(samples: SampleIds, seed: int, sample_id: int, attempt: int, first: int | None = None) -> int:
    """A sample drawn from the data set, or from its ``first`` samples, by (seed, sample_id, attempt)."""
    word = int(keyed.words(seed, Stream.SUBSTITUTE, sample_id, attempt + 1)[attempt])
    return int(samples.sample_ids(np.array([word % (first or samples.num_samples)]))[0])


def steps_per_epoch(num_samples: int, global_batch_size: int) -> int:
    """Full global batches in an epoch of so many samples; what is left over waits for another epoch's order.

    Raises:
        ValueError: not even one batch.
    """
    if global_batch_size < 1 or num_samples < global_batch_size:
        raise ValueError(
            f"global_batch_size {global_batch_size} does not fit {num_samples} training samples; "
            "it is at least 1 and at most the number of samples"
        )
    return num_samples // global_batch_size


def earlier_epochs(growth: Growth, global_batch_size: int) -> tuple[tuple[int, int], ...]:
    """How long the epochs were before a training set has grown, as ``EpochLengths`` has them.

    Raises:
        ValueError: not even one batch.
    """
    return tuple((one.before_epoch, steps_per_epoch(one.samples, global_batch_size)) for one in growth)
