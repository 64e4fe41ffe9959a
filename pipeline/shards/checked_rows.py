"""Whether the rows of a mapped index are still those that were written, shard by shard."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.shards.arrow_file import READ_AHEAD_UP_TO_BYTES, DamagedTableError, Table


class CheckedRows:
    """Holds the rows of each shard against their digest, once.

    Args:
        path: of the index, for messages.
        shard_sizes: rows of each shard.
        again: the command that makes the index.
    """

    def __init__(self, path: Path, table: Table, shard_names: list[str], shard_sizes: list[int], again: str) -> None:
        self._path, self._table, self._names, self._again = path, table, shard_names, again
        self._ends = np.cumsum(shard_sizes).tolist()
        self._unchecked = np.full(len(shard_sizes), table.row_digests is not None)
        self._num_unchecked = int(self._unchecked.sum())

    @property
    def has_digests(self) -> bool:
        return self._table.row_digests is not None

    @property
    def is_small(self) -> bool:
        """Whether all of it is checked when it is opened; a larger one shard by shard, as they are first used."""
        return self._table.num_bytes <= READ_AHEAD_UP_TO_BYTES

    def check_all(self) -> None:
        """Raises ValueError, naming the file, the shard and the way on."""
        self.check(np.arange(len(self._ends)))

    def check(self, shards: npt.NDArray[np.integer]) -> None:
        """Check the rows of these shards, by number, where that was not done before.

        Raises:
            ValueError: the file is not as it was written, or was cut short since it was opened.
        """
        shard = -1
        try:
            self._table.check_whole()
            if not self._num_unchecked:
                return
            for shard in np.unique(shards[self._unchecked[shards]]).tolist():
                start = 0 if shard == 0 else self._ends[shard - 1]
                self._table.check_part(shard, start, self._ends[shard])
                self._unchecked[shard] = False
                self._num_unchecked -= 1
        except DamagedTableError as error:
            where = f" (of {self._names[shard]})" if shard >= 0 else ""
            raise ValueError(f"{self._path}: {error}{where}; make it again with: {self._again}") from None
