"""The global sample order: a keyed permutation of the data set, new in every epoch.

Position p of epoch e maps to a sample id by arithmetic alone, so asking for one batch of a billion samples costs as
much as asking for one batch of a thousand, and no rank needs to know what the others do.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from pipeline.plan import keyed
from pipeline.plan.keyed import Stream

_ROUNDS = 8


def _scramble(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) over values + key: uint64 in, uint64 out."""
    x = values + key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(positions: np.ndarray, size: int, round_keys: np.ndarray) -> np.ndarray:
    """A bijection of 0..size-1, chosen by the round keys, at the given positions.

    A Feistel network over pairs (left, right) of a grid with about sqrt(size) columns; values that land in the few
    cells of the grid beyond ``size`` are sent through again until they come back ("cycle walking", Black & Rogaway,
    CT-RSA 2002).

    Args:
        positions: int64, any shape, each in [0, size).
        round_keys: uint64 [rounds].

    Returns:
        int64 of the same shape, each in [0, size).
    """
    num_columns = np.uint64(max(1, int(np.ceil(np.sqrt(size)))))
    num_rows = np.uint64(-(-size // int(num_columns)))
    result = np.asarray(positions).astype(np.uint64)
    flat = result.reshape(-1)
    outside = np.arange(flat.size)
    while outside.size:
        left: np.ndarray = flat[outside] // num_columns
        right: np.ndarray = flat[outside] % num_columns
        for i, key in enumerate(round_keys):
            if i % 2 == 0:
                left = (left + _scramble(right, key) % num_rows) % num_rows
            else:
                right = (right + _scramble(left, key) % num_columns) % num_columns
        flat[outside] = left * num_columns + right
        outside = outside[flat[outside] >= size]
    return flat.reshape(result.shape).astype(np.int64)


@dataclass(frozen=True)
class SampleOrder:
    """Which sample stands at which position of which epoch.

    Args:
        shard_sizes: int64 [num_shards], samples in each shard; a shard's sample ids are consecutive.
        seed: key of the order.
        mode: ``global``: a permutation of all samples. ``window``: shards are permuted, and samples are permuted within
            windows of ``window_shards`` shards, so that few shards are read at a time.
        window_shards: shards per window.
    """

    shard_sizes: np.ndarray
    seed: int
    mode: Literal["global", "window"] = "global"
    window_shards: int = 8
    num_samples: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_samples", int(np.sum(self.shard_sizes)))
        if self.num_samples < 1:
            raise ValueError("a data set without samples has no order")
        if self.window_shards < 1:
            raise ValueError(f"a window holds at least one shard, got {self.window_shards}")
        object.__setattr__(self, "_layout", lru_cache(maxsize=2)(self._window_layout))

    def sample_ids(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Sample ids at ``positions`` of ``epoch``: int64, of the same shape.

        Raises:
            ValueError: a position outside [0, num_samples).
        """
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= self.num_samples):
            raise ValueError(
                f"positions of an epoch are 0 to {self.num_samples - 1}, got {positions.min()} to {positions.max()}"
            )
        if self.mode == "global":
            return permute(positions, self.num_samples, keyed.words(self.seed, Stream.ORDER, epoch, _ROUNDS))
        return self._windowed(epoch, positions)

    def _windowed(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        starts, first_ids = self._layout(epoch)  # type: ignore[attr-defined]
        bounds = np.append(starts[:: self.window_shards], self.num_samples)
        window_of = np.searchsorted(bounds, positions, side="right") - 1
        shuffled = np.empty_like(positions)
        for window in np.unique(window_of):
            here = window_of == window
            keys = keyed.words(self.seed, Stream.ORDER, epoch * len(bounds) + int(window), _ROUNDS)
            first, size = bounds[window], int(bounds[window + 1] - bounds[window])
            shuffled[here] = first + permute(positions[here] - first, size, keys)
        place = np.searchsorted(starts, shuffled, side="right") - 1
        return first_ids[place] + shuffled - starts[place]

    def _window_layout(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """For each shard in this epoch's order: the position at which it starts, and its first sample id."""
        sizes = np.asarray(self.shard_sizes, dtype=np.int64)
        keys = keyed.words(self.seed, Stream.SHARD_ORDER, epoch, _ROUNDS)
        shards = permute(np.arange(len(sizes)), len(sizes), keys)
        first_ids = np.cumsum(sizes) - sizes
        return np.cumsum(sizes[shards]) - sizes[shards], first_ids[shards]
