"""How much memory a run's images will take, decoded and as kept patches, before it takes any."""

import os

import numpy as np

from engine.config import RunConfig
from pipeline.config import DataConfig
from pipeline.plan.schedule import num_kept_at
from pipeline.shards.index import ShardIndex


def held_bytes(data: DataConfig, index: ShardIndex, rows_per_rank: int) -> int:
    """Bytes of decoded images in a rank's memory, once it is full, for images of the data set's mean size.

    Echo holds at most ``echo_gap`` images for each of the rank's rows of a batch.
    """
    total_bytes = 3 * int((np.asarray(index.height, dtype=np.int64) * np.asarray(index.width)).sum())
    echoed = rows_per_rank * data.echo_gap * total_bytes // len(index.shard) if data.echo > 1 else 0
    in_memory = data.cache is not None and data.cache.kind == "memory"
    return echoed + (min(data.cache.max_bytes, total_bytes) if data.cache is not None and in_memory else 0)


def describe_held(
    data: DataConfig, index: ShardIndex, rows_per_rank: int, local_size: int, memory_bytes: int | None = None
) -> str | None:
    """A line about echo and cache, None where there is neither.

    Args:
        local_size: ranks on this host.
        memory_bytes: of this host; looked up by default.

    Raises:
        ValueError: the ranks of this host would hold more than it has.
    """
    if data.echo == 1 and data.cache is None:
        return None
    memory_bytes = memory_bytes or _memory_bytes()
    mine = held_bytes(data, index, rows_per_rank)
    if mine * local_size > memory_bytes:
        raise ValueError(
            f"data.echo and data.cache would hold about {_shown(mine)} of decoded images on each of the {local_size} "
            f"rank(s) of this host, which has {_shown(memory_bytes)} of memory; choose a smaller data.echo_gap or "
            "data.cache.max_bytes, or data.cache.kind: disk"
        )
    parts = []
    if data.echo > 1:
        parts.append(f"echo {data.echo}: each decoded image serves {data.echo} steps, {data.echo_gap} apart")
    if data.cache is not None:
        where = "memory" if data.cache.folder is None else str(data.cache.folder)
        parts.append(f"cache in {where}, up to {_shown(data.cache.max_bytes)} a rank")
    return f"{'; '.join(parts)}; a rank holds about {_shown(mine)} of decoded images in memory"


def check_batches(
    config: RunConfig, rows_per_rank: int, num_val_samples: int, local_size: int, memory_bytes: int | None = None
) -> None:
    """Raise ValueError for batches whose kept patches alone are more than this host's memory.

    Args:
        rows_per_rank: a rank's images of a global batch.
        local_size, memory_bytes: as for ``describe_held``.
    """
    data = config.data
    memory_bytes = memory_bytes or _memory_bytes()
    rates = [*config.schedule.rates(), *([1.0] if config.schedule.cooldown.amount else [])]
    sides = (
        ("train.global_batch_size", rows_per_rank, rates),
        ("eval.micro_batch_size", min(config.eval.micro_batch_size, num_val_samples), config.eval.keep_rates),
    )
    for key, num_images, keep_rates in sides:
        num_kept = max(num_kept_at(rate, data.num_patches) for rate in keep_rates)
        batch_bytes = num_images * num_kept * 3 * data.patch_size**2
        if batch_bytes * data.prefetch_batches * local_size > memory_bytes:
            raise ValueError(
                f"a batch of {num_images:,} images of data.image_size {data.image_size:,} with {num_kept:,} kept "
                f"patches each takes {_shown(batch_bytes)} a rank, and data.prefetch_batches keeps "
                f"{data.prefetch_batches} of them ready on each of the {local_size} rank(s) of this host, which has "
                f"{_shown(memory_bytes)} of memory; choose a smaller data.image_size, {key} or data.prefetch_batches"
            )


def _memory_bytes() -> int:
    """Of this host."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _shown(num_bytes: int) -> str:
    if num_bytes >= 1e12:
        return f"{num_bytes / 1e12:,.1f} TB"
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"
