"""Writes the score maps of a folder's shards: a shard at a time, each file whole or absent, none twice."""

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.selection.maps import GRID_SIZE, check_map_name, open_shard_maps, write_maps
from pipeline.shards.index import ShardIndex, index_path, list_splits, open_index, read_index
from tools.command import bar_interval_s
from tools.shards.maps.kinds import KINDS, Maker, split_kind
from tools.shards.maps.shard_images import ShardImages
from tools.shards.pool import worker_processes

LARGEST_GRID = 64


@dataclass(frozen=True)
class MapJob:
    """What is to be made for every shard.

    Attributes:
        kind: as on the command line, such as ``contrast`` or ``magnitude:runs/fashion_mnist``.
        name: of the maps; None: the kind's.
        weights: a file of the model's weights, for a kind that takes one.

    Raises:
        ValueError: no such kind, a name or a grid that no maps have, weights for a kind that takes none.
    """

    kind: str
    name: str | None = None
    grid_size: int = GRID_SIZE
    weights: Path | None = None

    def __post_init__(self) -> None:
        name, _ = split_kind(self.kind)
        check_map_name(self.map_name)
        if not 1 <= self.grid_size <= LARGEST_GRID:
            raise ValueError(f"--grid {self.grid_size}; allowed is 1 to {LARGEST_GRID}")
        if self.weights is not None and not KINDS[name].takes_weights:
            takers = " or ".join(one for one, kind in KINDS.items() if kind.takes_weights)
            raise ValueError(f"--weights is of the kind {takers}; {name} takes none")

    @property
    def map_name(self) -> str:
        return self.name or split_kind(self.kind)[0]

    @property
    def in_workers(self) -> bool:
        return KINDS[split_kind(self.kind)[0]].in_workers

    def open(self) -> Maker:
        """What makes the maps. Raises ValueError or OSError where it cannot be opened."""
        name, argument = split_kind(self.kind)
        return KINDS[name].open(argument, self.weights)


@dataclass(frozen=True)
class Scored:
    """What was done for one split."""

    split: str
    num_samples: int
    num_made: int
    num_there: int


@dataclass(frozen=True)
class _Shard:
    """One shard's work; a worker maps the index itself."""

    folder: Path
    split: str
    number: int
    unscored: tuple[int, ...]


def score_folder(
    folder: Path, job: MapJob, *, split: str | None = None, workers: int = 1, show_progress: bool = False
) -> list[Scored]:
    """Make the maps that are not there yet, of one split or of all that the folder has an index of.

    A shard's maps are there if the file was made of these images, by the same kind, model and grid.

    Raises:
        ValueError: shards, a model or images that cannot be used. What was finished before stays.
        OSError: a file cannot be read or written.
    """
    if workers < 1:
        raise ValueError(f"workers {workers}; allowed is 1 or more")
    splits = [split] if split is not None else list_splits(folder)
    indexes = [open_index(folder, one) for one in splits or ["train"]]  # which says what is missing where none is
    maker = job.open()
    found, missing = [], []
    for index in indexes:
        shards = [_Shard(folder, index.split, n, _unscored(index, n)) for n in range(len(index.shards))]
        rest = [shard for shard in shards if not _is_there(index, shard, job, maker)]
        found.append(Scored(index.split, index.num_samples, len(rest), len(shards) - len(rest)))
        missing += rest
    total = sum(index.num_samples for index in indexes)
    bar = tqdm(total=total, unit="img", disable=not show_progress, mininterval=bar_interval_s())
    with bar:
        counts = {(index.split, n): int(size) for index in indexes for n, size in enumerate(index.shard_sizes)}
        bar.update(total - sum(counts[shard.split, shard.number] for shard in missing))
        for count in _run(missing, job, maker, workers):
            bar.update(count)
    return found


def _unscored(index: ShardIndex, number: int) -> tuple[int, ...]:
    first = sum(shard.num_samples for shard in index.shards[:number])
    excluded = index.excluded[index.shard[index.excluded] == number]
    return tuple((excluded - first).tolist())


def _is_there(index: ShardIndex, shard: _Shard, job: MapJob, maker: Maker) -> bool:
    try:
        maps = open_shard_maps(index.folder, index.shards[shard.number], job.map_name)
        if maps is not None:
            maps.check()
    except ValueError:  # damaged: a new one takes its place
        return False
    if maps is None or set(maps.facts.unscored) - set(shard.unscored):
        return False
    facts = maps.facts
    same_kind = facts.kind_name == split_kind(job.kind)[0]
    return same_kind and facts.made_by == maker.made_by and facts.grid_size == job.grid_size


def _run(shards: Sequence[_Shard], job: MapJob, maker: Maker, workers: int) -> Iterator[int]:
    """Samples scored, shard by shard as they are done."""
    workers = min(workers, len(shards)) if job.in_workers else 1
    if workers <= 1:
        for shard in shards:
            yield _score_shard(shard, job, maker)
        return
    with worker_processes(workers) as pool:
        for future in as_completed([pool.submit(_score_shard, shard, job, None) for shard in shards]):
            yield future.result()


def _score_shard(shard: _Shard, job: MapJob, maker: Maker | None) -> int:
    """Make one shard's maps and write them."""
    maker = maker or job.open()
    index = read_index(index_path(shard.folder, shard.split))
    with ShardImages(index, shard.number, shard.unscored) as images:
        grids = np.zeros((images.shard.num_samples, job.grid_size, job.grid_size), np.uint8)
        for row, grid in zip(images.rows, maker.maps(images, images.rows, job.grid_size), strict=True):
            grids[row] = grid
    tar = index.folder / images.shard.name
    write_maps(
        tar,
        job.map_name,
        images.shard.digest,
        grids,
        kind=job.kind,
        made_by=maker.made_by,
        unscored=images.unscored,
    )
    return len(images.rows)
