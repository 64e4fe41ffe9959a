"""The images of one shard, as what makes score maps reads them."""

import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

import numpy as np

from pipeline.shards.index import ShardIndex, StaleIndexError


class ShardImages:
    """One shard of an index, open.

    Args:
        unscored: rows of samples that are excluded, ascending. A row is a place among the shard's indexed samples.

    Attributes:
        rows: the others.

    Raises:
        OSError: the shard cannot be opened.
    """

    def __init__(self, index: ShardIndex, number: int, unscored: Sequence[int]) -> None:
        self.index, self.shard, self.unscored = index, index.shards[number], list(unscored)
        self._first = sum(shard.num_samples for shard in index.shards[:number])
        self.rows = sorted(set(range(self.shard.num_samples)) - set(unscored))
        self._descriptor = os.open(index.folder / self.shard.name, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, row: int, most: int | None = None) -> bytes:
        """A sample's image file, or its first bytes.

        Raises:
            StaleIndexError: the shard ends before it.
        """
        sample_id = self._first + row
        length = int(self.index.length[sample_id])
        wanted = length if most is None else min(most, length)
        found = os.pread(self._descriptor, wanted, int(self.index.offset[sample_id]))
        if len(found) < wanted:
            raise StaleIndexError(
                f"{self.index.folder}: {self.describe(row)} should have {length} bytes, but the shard ends before: it "
                "was shortened after it was indexed"
            )
        return found

    def describe(self, row: int) -> str:
        """Where a sample lies, in words."""
        return self.index.describe(self._first + row)

    def close(self) -> None:
        os.close(self._descriptor)

    def __enter__(self) -> "ShardImages":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# (images, rows, grid size) to a map uint8 [G, G] for each row, in order.
MakeMaps = Callable[[ShardImages, Sequence[int], int], Iterator[np.ndarray]]
