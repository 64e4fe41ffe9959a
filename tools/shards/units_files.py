"""The ``.units`` files of a folder, from its shards as they are: read in parallel, a shard a worker."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.jpeg.addressable import NotAddressableError, Units, units_of
from pipeline.shards.index import Shard, ShardIndex
from pipeline.shards.units import write_units
from tools.shards.pool import as_done


@dataclass(frozen=True)
class _Job:
    """A shard, and where the images of its samples lie: (offset, length) each."""

    path: Path
    shard: Shard
    places: list[tuple[int, int]]


def write_units_files(
    indexes: Sequence[ShardIndex], *, workers: int = 1, on_images: Callable[[int], object] = lambda count: None
) -> dict[str, int]:
    """Write ``.units`` beside every shard of the indexes, in the place of any that is there.

    Args:
        on_images: told the number of images of each shard when it is done.

    Returns:
        Split -> its number of addressable images.

    Raises:
        OSError: a shard cannot be read or is shorter than indexed, or the disk refuses.
    """
    found = dict.fromkeys((index.split for index in indexes), 0)
    jobs = [(index.split, job) for index in indexes for job in _jobs(index)]
    for (split, job), num_addressable in as_done(_write, jobs, workers):
        found[split] += num_addressable
        on_images(len(job.places))
    return found


def _jobs(index: ShardIndex) -> list[_Job]:
    ends = np.cumsum([shard.num_samples for shard in index.shards]).tolist()
    places = list(zip(index.offset.tolist(), index.length.tolist(), strict=True))
    return [
        _Job(index.folder / shard.name, shard, places[end - shard.num_samples : end])
        for shard, end in zip(index.shards, ends, strict=True)
    ]


def _write(one: tuple[str, _Job]) -> int:
    _, job = one
    units: list[Units | None] = []
    with open(job.path, "rb") as file:
        for offset, length in job.places:
            image = os.pread(file.fileno(), length, offset)
            if len(image) < length:
                raise OSError(f"{job.path}: ends before byte {offset + length}, which its index names")
            try:
                units.append(units_of(image))
            except NotAddressableError:
                units.append(None)
    write_units(job.path, job.shard.digest, units)
    return sum(one is not None for one in units)
