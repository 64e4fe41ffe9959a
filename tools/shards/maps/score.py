"""Writes the score maps of a folder's shards: a shard at a time, each file whole or absent, none twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.selection.maps import GRID_SIZE, check_map_name, open_shard_maps, write_maps
from pipeline.shards.index import ShardIndex, index_path, list_splits, open_index, read_index
from tools.command import bar_interval_s
from tools.shards.maps.kinds import KINDS, Maker, split_kind
from tools.shards.maps.shard_images import ShardImages
from tools.shards.parts.part import Part
from tools.shards.pool import as_done

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
    num_samples: int
    unscored: tuple[int, ...]


def score_folder(
    folder: Path,
    job: MapJob,
    *,
    split: str | None = None,
    part: Part | None = None,
    workers: int = 1,
    ray: str | None = None,
    show_progress: bool = False,
) -> list[Scored]:
    """Make the maps that are not there yet, of one split or of all that the folder has an index of.

    A shard's maps are there if the file was made of these images, by the same kind, model and grid.

    Args:
        part: only this share of the shards; others may be scored at the same time.
        ray: a Ray cluster, see ``pool.as_done``.

    Raises:
        ValueError: shards, a model or images that cannot be used. What was finished before stays.
        OSError: a file cannot be read or written.
    """
    if workers < 1:
        raise ValueError(f"workers {workers}; allowed is 1 or more")
    splits = [split] if split is not None else list_splits(folder)
    indexes = [open_index(folder, one) for one in splits or ["train"]]  # which says what is missing where none is
    maker = job.open()
    listed = [(index, number) for index in indexes for number in range(len(index.shards))]
    mine = listed if part is None else part.share(listed)
    shards = [_Shard(folder, index.split, n, int(index.shard_sizes[n]), _unscored(index, n)) for index, n in mine]
    missing = [one for one, (index, _) in zip(shards, mine, strict=True) if not _is_there(index, one, job, maker)]
    total = sum(shard.num_samples for shard in shards)
    with tqdm(total=total, unit="img", disable=not show_progress, mininterval=bar_interval_s()) as bar:
        bar.update(total - sum(shard.num_samples for shard in missing))
        score = _Scorer(job, None if job.in_workers or ray is not None else maker)
        for shard, _ in as_done(score, missing, workers if job.in_workers else 1, ray=ray, on_gpu=not job.in_workers):
            bar.update(shard.num_samples)
    return [_scored(index.split, shards, missing) for index in indexes]


def _scored(split: str, shards: Sequence[_Shard], missing: Sequence[_Shard]) -> Scored:
    mine = [shard for shard in shards if shard.split == split]
    num_made = sum(shard.split == split for shard in missing)
    return Scored(split, sum(shard.num_samples for shard in mine), num_made, len(mine) - num_made)


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


class _Scorer:
    """Makes one shard's maps after the other and writes them; opens what makes them with the first, if it has none."""

    def __init__(self, job: MapJob, maker: Maker | None) -> None:
        self._job, self._maker = job, maker

    def __call__(self, shard: _Shard) -> None:
        self._maker = maker = self._maker or self._job.open()
        index = read_index(index_path(shard.folder, shard.split))
        grid_size = self._job.grid_size
        with ShardImages(index, shard.number, shard.unscored) as images:
            grids = np.zeros((images.shard.num_samples, grid_size, grid_size), np.uint8)
            for row, grid in zip(images.rows, maker.maps(images, images.rows, grid_size), strict=True):
                grids[row] = grid
        write_maps(
            index.folder / images.shard.name,
            self._job.map_name,
            images.shard.digest,
            grids,
            kind=self._job.kind,
            made_by=maker.made_by,
            unscored=images.unscored,
        )
