"""Which shards of a store a loader needs next, by its plans: nothing is guessed."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.shards.index import ShardIndex
from pipeline.storage.shard_files import MOST_OPEN, ShardFiles

_MOST_SHARDS = 64  # fetched ahead
_MOST_OPEN = MOST_OPEN // 2  # each is an open file, and so are those that a batch reads beside them
_MOST_STEPS = 100  # looked at for one that is planned: to look costs some of the planning


class Ahead(Protocol):
    """A planner, as far as it says what will be read."""

    @property
    def data(self) -> DataConfig: ...
    @property
    def training(self) -> bool: ...
    def ids_ahead(self, step: int, world_size: int) -> npt.NDArray[np.int64] | None:
        """The samples of a step on all ranks, None where the plan does not say so yet or is over."""


class LookAhead:
    """Tells the shards' keeper what a step and those after it need, as far as the cache has room for.

    Args:
        files: of the reader that reads the plans.
    """

    def __init__(self, planner: Ahead, index: ShardIndex, files: ShardFiles, world_size: int) -> None:
        self._ids_ahead, self._world_size = planner.ids_ahead, world_size
        self._shard_of, self._files, self._sizes = index.shard, files, files.remote.sizes
        self._most_bytes = files.remote.settings.max_bytes
        self._most_shards = most_shards(
            planner.data,
            training=planner.training,
            num_shards=len([size for size in self._sizes if size]),
            num_folders=len(in_stores(index)),
        )
        self._step, self._unseen = -1, -1
        self._last_use: dict[int, int] = {}  # in the order of their first use

    def go_to(self, step: int) -> None:
        """The loader is about to read this step. Shards that no step from here on needs are let go."""
        if step == self._step:
            return
        if not self._step <= step <= self._unseen:  # a loader that begins, or reads once more
            self._last_use.clear()
            self._unseen = step
        self._step = step
        self._last_use = {shard: last for shard, last in self._last_use.items() if last >= step}
        for _ in range(_MOST_STEPS):
            if self._is_enough() or not self._look_at_next():
                break
        self._files.want(list(self._last_use))

    def _is_enough(self) -> bool:
        if self._unseen == self._step:  # whatever the room, the step itself is read
            return False
        num_bytes = sum(self._sizes[shard] for shard in self._last_use)
        return len(self._last_use) >= self._most_shards or (
            self._most_bytes is not None and num_bytes >= self._most_bytes
        )

    def _look_at_next(self) -> bool:
        """False where nothing is known of the next step."""
        ids = self._ids_ahead(self._unseen, self._world_size)
        if ids is None:
            return False
        for shard in dict.fromkeys(self._shard_of[ids].tolist()):
            if self._sizes[shard]:  # else it lies on a disk
                self._last_use[shard] = self._unseen
        self._unseen += 1
        return True


def in_stores(index: ShardIndex) -> list[list[int]]:
    """The shards' bytes of each folder of the index that is in a store."""
    return [one.remote.sizes for one in index.folders if one.remote is not None]


def most_shards(data: DataConfig, *, training: bool, num_shards: int, num_folders: int = 1) -> int:
    """How many shards are looked ahead for: at the least a window and the next one, where a window is shuffled."""
    most = min(num_shards, _MOST_OPEN)
    at_once = 2 * data.window_shards * num_folders if data.shuffle == "window" else num_shards
    return min(most, max(_MOST_SHARDS, at_once if training else 2))


def bytes_needed(sizes: Sequence[int], data: DataConfig, *, training: bool) -> int:
    """Bytes of a folder's shards that a cache must hold for a loader not to fetch one twice in an epoch.

    Training needs the largest shards of two windows and one more, for substitutes, or all where the whole set is
    shuffled at once; validation goes from one shard to the next.
    """
    if training and data.shuffle == "global":
        return sum(sizes)
    return sum(sorted(sizes, reverse=True)[: 2 * data.window_shards + 1 if training else 2])


def check_cache_fits(data: DataConfig, train: ShardIndex, vals: Mapping[str, ShardIndex]) -> None:
    """Raise ValueError if the cache of shards is too small for what is read at a time, or that is too many files.

    vals: the validation sets, of which one is read at a time, by the configuration's keys.
    """
    stores = in_stores(train)
    if stores and data.shuffle == "window" and 2 * data.window_shards * len(stores) > _MOST_OPEN:
        where = "" if len(stores) == 1 else f" of each of {len(stores)} sources"
        raise ValueError(
            f"data.window_shards is {data.window_shards}, but of shards in a store, which are held open, at most "
            f"{_MOST_OPEN // 2 // len(stores)}{where} are shuffled together; lower it"
        )
    needed = {"data.train": sum(bytes_needed(sizes, data, training=True) for sizes in stores)} if stores else {}
    held = {
        key: sum(bytes_needed(sizes, data, training=False) for sizes in found)
        for key, index in vals.items()
        if (found := in_stores(index))
    }
    if held:
        largest = max(held, key=held.__getitem__)
        needed[largest] = held[largest]
    if data.cache_max_bytes is None or sum(needed.values()) <= data.cache_max_bytes:
        return
    parts = ", ".join(f"{num_bytes:,} for {key}" for key, num_bytes in needed.items())
    way_on = "raise it"
    if stores and data.shuffle == "global":
        way_on += (
            ", or set data.shuffle to window, which reads a few shards at a time: under global any sample of the set "
            "may be next, so the cache must hold all of it"
        )
    elif stores:
        way_on += ", or lower data.window_shards"
    raise ValueError(
        f"data.cache_max_bytes is {data.cache_max_bytes:,}, but {sum(needed.values()):,} are needed at a time "
        f"({parts}): {way_on}"
    )
