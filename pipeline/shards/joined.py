"""The files of an index and of its levels as one index: ``ShardIndex.files``."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.addresses import Address
from pipeline.shards.level import LEVEL_PREFIX, make_level_again

_ShardIndex = Any  # its module imports this one


def files_of(index: _ShardIndex) -> _ShardIndex:
    """The files of an index and of its levels as one index: that of sample i at its k-th level is row i + k * M.

    M is the number of the index's rows; level 0 is the index itself. Without levels it is the index. Nothing is copied.
    """
    if not index.levels:
        return index
    each = (index, *index.levels)
    num_shards = len(index.shards)

    def joined(name: str, step: int = 0) -> Any:  # in place of the arrays of an index, as far as they are picked from
        return JoinedColumn([getattr(one, name) for one in each], step)

    names = ["", *(one.folder.name for one in index.levels)]
    shards = [  # whole paths stay what they are
        replace(shard, name=os.path.join(name, shard.name))
        for name, one in zip(names, each, strict=True)
        for shard in one.shards
    ]
    return replace(
        index,
        shards=tuple(shards),
        shard=joined("shard", num_shards),
        **{name: joined(name) for name in ("offset", "length", "label", "width", "height")},
        _keys=pa.chunked_array([chunk for one in each for chunk in chunks_of(one._keys)]),
        _extensions=pa.chunked_array([chunk for one in each for chunk in chunks_of(one._extensions)]),
        _rows=_JoinedRows(each),
        levels=(),
    )


def chunks_of(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """An Arrow column, which may be joined of several already, as arrays."""
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def folder_of(index: _ShardIndex, number: int) -> Path | Address:
    """Where a shard lies: the place of the index, or that of the source or level that it is of."""
    own, _ = index.own(number)
    if own.remote is not None:
        address: Address = own.remote.address
        return address
    path: Path = index.folder / index.shards[number].name
    return path.parent


def index_command_of(index: _ShardIndex, number: int) -> str:
    """The command that indexes the new content of a shard of ``files_of``, or makes it anew where it is a level's."""
    folder = folder_of(index, number)
    if isinstance(folder, Address):
        return f"python -m tools.shards index {folder}"
    pixels = folder.name.removeprefix(LEVEL_PREFIX)
    if pixels == folder.name or folder == index.folder or not pixels.isdecimal():
        return f"python -m tools.shards index {folder}"
    return make_level_again(folder, int(pixels))


class JoinedColumn:
    """Columns of equal length one behind the other: what is picked is read, and no more.

    Args:
        step: is added to the k-th column's values k times.
    """

    def __init__(self, columns: Sequence[npt.NDArray[Any]], step: int = 0) -> None:
        assert len({len(column) for column in columns}) == 1
        self._columns, self._step = columns, step

    def __len__(self) -> int:
        return len(self._columns) * len(self._columns[0])

    def __getitem__(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        numbers, places = np.divmod(np.asarray(rows, dtype=np.int64), len(self._columns[0]))
        if np.any((numbers < 0) | (numbers >= len(self._columns))):
            raise IndexError(f"rows are 0 to {len(self) - 1}, got {np.asarray(rows)}")
        picked = np.empty(numbers.shape, dtype=self._columns[0].dtype)
        for number, column in enumerate(self._columns):
            here = numbers == number
            picked[here] = column[places[here]] + column.dtype.type(number * self._step)
        return picked

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of it, as a copy."""
        return self[np.arange(len(self))].astype(dtype or self._columns[0].dtype, copy=False)


class _JoinedRows:
    """``CheckedRows`` of several indexes of as many shards each, one behind the other."""

    def __init__(self, each: Sequence[_ShardIndex]) -> None:
        self._each = each

    def check(self, shards: npt.NDArray[np.integer]) -> None:
        numbers, places = np.divmod(np.asarray(shards, dtype=np.int64), len(self._each[0].shards))
        for number in np.unique(numbers).tolist():
            self._each[number]._rows.check(places[numbers == number])
