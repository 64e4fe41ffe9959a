"""Random numbers that are looked up, not drawn.

Every number is a pure function of (seed, stream, counter, row, column), computed with the Philox counter-based
generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Nothing has a position that could
be lost or that could depend on the number of ranks, threads or prefetched batches.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

_WORDS_PER_BLOCK = 4  # of 64 bits in a block of Philox-4x64
_FLOATS_PER_BLOCK = 2 * _WORDS_PER_BLOCK  # one from each half of a word
_BLOCKS_AT_A_TIME = 8192  # 256 KiB of words: they are turned into numbers before they leave the processor's cache


class Stream(IntEnum):
    """What a random number is for. A value is part of every run's identity: never renumber one."""

    ORDER = 1
    SHARD_ORDER = 2
    CROP = 3
    FLIP = 4
    SELECTION = 5
    KEEP_RATE = 6
    VALIDATION_SELECTION = 7
    MODEL = 8
    SUBSTITUTE = 9
    EMBEDDING_ROWS = 10
    AUTO_AUGMENT = 12
    COLOR_JITTER = 13
    MIX = 14
    ERASE = 15
    ERASE_NOISE = 16
    EXAMPLES = 17
    IMAGE_SIZE = 20
    PATCH_SIZE = 21
    MAGNITUDE = 22
    MIXUP = 23
    CUTMIX = 24
    MIXTURE = 30
    SOURCE = 31


def _philox(seed: int, stream: Stream, counter: int, first_block: int = 0) -> np.random.Philox:
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed is an integer from 0 to 2**64 - 1, got {seed}")
    return np.random.Philox(
        key=np.array([seed, int(stream)], dtype=np.uint64),
        counter=np.array([first_block, 0, counter, 0], dtype=np.uint64),
    )


def words(seed: int, stream: Stream, counter: int, count: int, first: int = 0) -> np.ndarray:
    """Words ``first`` to ``first + count - 1`` of an endless row of random 64-bit words: uint64 [count]."""
    first_block, before = divmod(first, _WORDS_PER_BLOCK)
    return _philox(seed, stream, counter, first_block).random_raw(before + count)[before:]


def uniform(seed: int, stream: Stream, counter: int, *, first_row: int, num_rows: int, num_columns: int) -> np.ndarray:
    """Rows ``first_row`` to ``first_row + num_rows - 1`` of an endless table of uniform numbers.

    A row's values do not depend on which other rows are asked for, so each rank reads just its own part.

    Returns:
        float32 [num_rows, num_columns] in [0, 1), on a grid of 2**-24.
    """
    blocks_per_row = -(-num_columns // _FLOATS_PER_BLOCK)
    generator = _philox(seed, stream, counter, first_row * blocks_per_row)
    numbers = np.empty((num_rows, num_columns), dtype=np.float32)
    rows_at_a_time = max(1, _BLOCKS_AT_A_TIME // max(1, blocks_per_row))
    for start in range(0, num_rows, rows_at_a_time):
        rows = numbers[start : start + rows_at_a_time]
        raw = generator.random_raw(len(rows) * blocks_per_row * _WORDS_PER_BLOCK)
        halves = raw.astype("<u8", copy=False).view("<u4").reshape(len(rows), blocks_per_row * _FLOATS_PER_BLOCK)
        halves >>= np.uint32(8)
        np.multiply(halves[:, :num_columns], np.float32(2.0**-24), out=rows, dtype=np.float32, casting="unsafe")
    return numbers


def uniform_of_steps(seed: int, stream: Stream, steps: np.ndarray) -> np.ndarray:
    """A number for each of some steps, int64 [n], as for rows of one table: float32 [n] in [0, 1)."""
    runs = np.split(steps, np.flatnonzero(np.diff(steps) != 1) + 1) if steps.size else []
    draws = [KeyedRows(seed, 0, int(run[0]), len(run)).uniform(stream, 1)[:, 0] for run in runs]
    return np.concatenate(draws) if draws else np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class KeyedRows:
    """Some rows of a table of random numbers: those of one step that one rank plans.

    Attributes:
        counter: which table of a stream; in training the step.
        first, count: the rows, as they are numbered in the global batch.
    """

    seed: int
    counter: int
    first: int
    count: int

    def uniform(self, stream: Stream, num_columns: int) -> np.ndarray:
        """float32 [count, num_columns] in [0, 1)."""
        return uniform(
            self.seed, stream, self.counter, first_row=self.first, num_rows=self.count, num_columns=num_columns
        )

    def words(self, stream: Stream) -> np.ndarray:
        """One word for each row: uint64 [count]."""
        return words(self.seed, stream, self.counter, self.count, self.first)

    @property
    def pairs(self) -> "KeyedRows":
        """A row for every two of these, which begin at an even one."""
        return KeyedRows(self.seed, self.counter, self.first // 2, self.count // 2)
