"""A table beside a shard or a set of them: an Arrow file that is mapped into memory and knows its own digests.

What the file says of itself stands as JSON in the schema's metadata: with a digest of these facts, and one of each part
of the rows, so that a bit that changes on the disk is an error and not another label.
"""

import hashlib
import io
import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.files import write_atomically

READ_AHEAD_UP_TO_BYTES = 1 << 30


class DamagedTableError(ValueError):
    """A file that is no such table, or not as it was written. The message says why; the caller names the file."""


@dataclass(frozen=True, eq=False)
class Table:
    """A mapped file.

    Attributes:
        facts: what it says of itself, digests left out.
        batch: its rows; the columns are views of the mapped file.
        row_digests: SHA-256 of each part of the rows; None in a file from before there were digests.
    """

    facts: dict[str, Any]
    batch: pa.RecordBatch
    row_digests: list[str] | None
    _mapped: mmap.mmap = field(repr=False)

    @property
    def num_bytes(self) -> int:
        return len(self._mapped)

    def expect(self, schema: pa.Schema, num_rows: int) -> None:
        """Raise DamagedTableError if its columns or its number of rows are others."""
        if not self.batch.schema.equals(schema):
            raise DamagedTableError("its columns are not those of such a file")
        if self.batch.num_rows != num_rows:
            raise DamagedTableError(f"it has {self.batch.num_rows} rows, but should have {num_rows}")

    def check_part(self, number: int, start: int, stop: int) -> None:
        """Hold the rows of a part, ``start`` to ``stop - 1``, against its digest, if there is one.

        Raises:
            DamagedTableError: they are not those that were written.
        """
        if self.row_digests is not None and _digest(self.batch, start, stop) != self.row_digests[number]:
            raise DamagedTableError(
                f"its rows {start} to {stop - 1} are not those that were written: they changed on the disk"
            )

    def check_whole(self) -> None:
        """Look whether the file is as long as it was when it was opened.

        Raises:
            DamagedTableError: it was cut short, and to touch what is lost would end the process with SIGBUS.
        """
        if self._mapped.size() < len(self._mapped):
            raise DamagedTableError(
                f"was cut short while it was open, from {len(self._mapped)} to {self._mapped.size()} bytes"
            )


def write_table(
    path: Path, table: pa.RecordBatch, key: bytes, facts: Mapping[str, Any], part_sizes: Sequence[int] | None = None
) -> None:
    """Write a table of one batch, under a temporary name first.

    Args:
        key: under which ``facts``, what the file says of itself, stand in the schema's metadata.
        part_sizes: rows of each part that can be checked alone; None: all rows are one part.
    """
    ends = list(accumulate([table.num_rows] if part_sizes is None else part_sizes))
    assert ends[-1] == table.num_rows
    digests = [_digest(table, start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    told = {**facts, "row_digests": digests}
    told["facts_digest"] = _digest_of_facts(told)
    with_facts = table.replace_schema_metadata({key: json.dumps(told, sort_keys=True).encode()})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, with_facts.schema) as writer:
        writer.write_batch(with_facts)
    write_atomically(path, sink.getbuffer(), sync=True)


def read_table(path: Path, key: bytes, version: int) -> Table:
    """Map a file that ``write_table`` wrote, and check its facts; its rows are for ``Table.check_part``.

    Args:
        version: of the format, that its facts must name.

    Raises:
        DamagedTableError: it is no such file, is damaged, or of another format.
        OSError: it cannot be opened.
    """
    mapped = map_file(path)
    try:
        with pa.BufferReader(pa.py_buffer(mapped)) as source, pa.ipc.open_file(source) as reader:
            facts = json.loads((reader.schema.metadata or {})[key])
            if facts["format_version"] != version:
                raise DamagedTableError(f"format {facts['format_version']}, but this program reads format {version}")
            if "facts_digest" in facts and facts.pop("facts_digest") != _digest_of_facts(facts):
                raise DamagedTableError("what it says of itself changed on the disk")
            if reader.num_record_batches != 1:
                raise DamagedTableError("its columns are not those of such a file")
            batch = reader.get_batch(0)
            batch.validate()
            if any(_has_nulls(column) for column in batch.columns):
                raise DamagedTableError("some of its values are missing")
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        # Arrow's own OSErrors name no file, and what is wrong is in the file, not with the disk.
        raise error if isinstance(error, DamagedTableError) else DamagedTableError(_reason(error)) from error
    digests = facts.pop("row_digests", None)
    return Table(facts, batch.replace_schema_metadata(None), digests, mapped)


def map_file(path: Path) -> mmap.mmap:
    """The file as memory, read-only. Raises OSError, or DamagedTableError where it is empty.

    Of a large one a step touches a page here and there, and for each of them the kernel would read megabytes ahead.
    """
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise DamagedTableError("it is empty") from None
    if len(mapped) > READ_AHEAD_UP_TO_BYTES:
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)


def _has_nulls(column: pa.Array) -> bool:
    nested = [column.values] if pa.types.is_large_list(column.type) else []
    return bool(column.null_count) or any(_has_nulls(one) for one in nested)


def _digest_of_facts(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(batch: pa.RecordBatch, start: int, stop: int) -> str:
    """SHA-256 of the memory of some rows, the places of strings and lists among it."""
    found = hashlib.sha256()
    for column in batch.columns:
        for piece in _pieces(column, start, stop):
            found.update(piece.data)
    return found.hexdigest()


def _pieces(column: pa.Array, start: int, stop: int) -> Iterator[np.ndarray]:
    """The memory of the rows ``start`` to ``stop - 1`` of a column without missing values."""
    assert column.offset == 0
    buffers = column.buffers()
    if pa.types.is_large_string(column.type) or pa.types.is_large_list(column.type):
        if start == stop:
            return
        places = np.frombuffer(buffers[1], np.int64)[start : stop + 1]
        first, last = int(places[0]), int(places[-1])
        yield places
        if pa.types.is_large_list(column.type):
            if not 0 <= first <= last <= len(column.values):
                raise DamagedTableError("its lists lie outside of it")
            yield from _pieces(column.values, first, last)
        elif first < last:
            text = np.frombuffer(buffers[2], np.uint8)
            if not 0 <= first <= last <= len(text):
                raise DamagedTableError("its strings lie outside of it")
            yield text[first:last]
    elif start < stop:
        width = column.type.bit_width // 8
        yield np.frombuffer(buffers[1], np.uint8)[start * width : stop * width]
