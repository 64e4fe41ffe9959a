"""The samples of several folders as one index: sample i of a source is row ``first_id + i``. Nothing is copied."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.addresses import Address
from pipeline.shards.index import ShardIndex
from pipeline.shards.joined import chunks_of, files_of
from pipeline.storage.shard_files import joined_shards

Table = npt.NDArray[np.int32] | None  # the run's label of each of a source's labels; None where they are the same


@dataclass(frozen=True, eq=False)
class Source:
    """One of the folders. ``index``: its own, with its own labels; ``first_id``: the row of its first sample."""

    name: str
    first_id: int
    index: ShardIndex


@dataclass(frozen=True, eq=False)
class MixedIndex(ShardIndex):
    """Several indexes one behind the other. ``shards`` are named by their whole paths, labels are the run's.

    Attributes:
        sources: in the order of their rows.
        parts: the indexes that the shards are of, and the number here of the first shard of each, ascending.
    """

    sources: tuple[Source, ...] = ()
    parts: tuple[tuple[int, ShardIndex], ...] = ()

    @cached_property
    def files(self) -> "MixedIndex":
        """The files of the sources and their levels, see ``joined.files_of``."""
        joined: MixedIndex = files_of(self)
        levels = [one for one in self.levels if isinstance(one, MixedIndex)]
        parts = [(first, index) for one in levels for first, index in one.parts]
        shifts = [(1 + number) * len(self.shards) for number, one in enumerate(levels) for _ in one.parts]
        object.__setattr__(
            joined,
            "parts",
            (*self.parts, *((shift + first, index) for shift, (first, index) in zip(shifts, parts, strict=True))),
        )
        return joined

    @property
    def place(self) -> Path | Address:
        """Where the shards lie, if that is one folder; else the folder that all of theirs are in, on this host."""
        return self.sources[0].index.place if len(self.sources) == 1 else self.folder

    @property
    def folders(self) -> tuple[ShardIndex, ...]:
        return tuple(source.index for source in self.sources)

    def own(self, number: int) -> tuple[ShardIndex, int]:
        """The index that a shard is of, as it lies in its folder, and the shard's number there."""
        first, index = next(part for part in reversed(self.parts) if part[0] <= number)
        return index, number - first

    def source_numbers(self, sample_ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Which source each sample is of: int64 [B], places in ``sources``."""
        return np.searchsorted([source.first_id for source in self.sources], sample_ids, side="right") - 1


def mixed(named: Sequence[tuple[str, ShardIndex]], tables: Sequence[Table]) -> MixedIndex:
    """The indexes as one. Where they have levels, all have the same.

    Its fingerprint depends on theirs, on their names and on the tables, and not on where they lie.

    Args:
        tables: for each the run's labels of its labels, int32; -1 where a label has none, which no sample may have.
    """
    each = [index for _, index in named]
    firsts = np.cumsum([0, *(len(index.shard) for index in each)]).tolist()
    first_shards = np.cumsum([0, *(len(index.shards) for index in each)]).tolist()
    labels = np.concatenate([_labels_of(index, table) for index, table in zip(each, tables, strict=True)])
    whole = [None if table is None else table.tolist() for table in tables]
    facts = [[name, index.fingerprint, table] for (name, index), table in zip(named, whole, strict=True)]

    def joined(
        name: str, added: Sequence[int] | None = None
    ) -> Any:  # in place of an array, as far as it is picked from
        return MixedColumn([getattr(index, name) for index in each], added=added)

    levels = [
        mixed([(name, index.levels[number]) for name, index in named], tables) for number in range(len(each[0].levels))
    ]
    return MixedIndex(
        folder=Path(os.path.commonpath([index.folder.absolute() for index in each])),
        split=each[0].split,
        shards=tuple(
            replace(shard, name=str(index.folder.absolute() / shard.name)) for index in each for shard in index.shards
        ),
        fingerprint=sha256(dumps(facts).encode()).hexdigest(),
        label_field=None,
        min_label=int(labels.min()),
        max_label=int(labels.max()),
        shard=joined("shard", first_shards[:-1]),
        **{name: joined(name) for name in ("offset", "length", "width", "height")},
        label=MixedColumn([index.label for index in each], tables=tables),  # type: ignore[arg-type]
        _keys=pa.chunked_array([chunk for index in each for chunk in chunks_of(index._keys)]),
        _extensions=pa.chunked_array([chunk for index in each for chunk in chunks_of(index._extensions)]),
        _rows=_MixedRows(each, first_shards),  # type: ignore[arg-type]
        excluded=np.concatenate([first + index.excluded for first, index in zip(firsts, each, strict=False)]),
        levels=tuple(levels),
        remote=joined_shards([(index.remote, len(index.shards)) for index in each]),
        sources=tuple(Source(name, first, index) for first, (name, index) in zip(firsts, named, strict=False)),
        parts=tuple(zip(first_shards, each, strict=False)),
    )


def _labels_of(index: ShardIndex, table: Table) -> npt.NDArray[np.integer]:
    """The labels that occur, or the lowest and the highest of them, as the run has them."""
    if table is None:
        return np.array([index.min_label, index.max_label])
    return table[np.unique(index.label)]


class MixedColumn:
    """Columns one behind the other: what is picked is read, and no more.

    Args:
        added: a number for each column that its values are added to.
        tables: for each column what its values stand for, by their value; None where for themselves.
    """

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        columns: Sequence[npt.NDArray[Any]],
        *,
        added: Sequence[int] | None = None,
        tables: Sequence[Table] | None = None,
    ) -> None:
        self._columns, self.dtype = columns, columns[0].dtype
        self._added = [0] * len(columns) if added is None else added
        self._tables = [None] * len(columns) if tables is None else tables
        self._ends = np.cumsum([len(column) for column in columns])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        places = np.asarray(rows, dtype=np.int64)
        if np.any((places < 0) | (places >= len(self))):
            raise IndexError(f"rows are 0 to {len(self) - 1}, got {places}")
        numbers = np.searchsorted(self._ends, places, side="right")
        picked = np.empty(places.shape, dtype=self.dtype)
        for number in np.unique(numbers).tolist():
            here, column = numbers == number, self._columns[number]
            values = column[places[here] - (self._ends[number] - len(column))]
            table = self._tables[number]
            picked[here] = values + self.dtype.type(self._added[number]) if table is None else table[values]
        return picked

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of it, as a copy."""
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)

    def __eq__(self, other: object) -> bool:
        raise TypeError("compare np.asarray of a column, which holds its values, or what was picked from it")


class _MixedRows:
    """``CheckedRows`` of several indexes, one behind the other."""

    def __init__(self, each: Sequence[ShardIndex], first_shards: Sequence[int]) -> None:
        self._each, self._first_shards = each, first_shards

    def check(self, shards: npt.NDArray[np.integer]) -> None:
        numbers = np.searchsorted(self._first_shards, shards, side="right") - 1
        for number in np.unique(numbers).tolist():
            self._each[number]._rows.check(shards[numbers == number] - self._first_shards[number])
