"""Where the units of a shard's addressable JPEGs lie: a memory-mapped file beside the shard, two bytes a unit.

``train-000000.units`` for ``train-000000.tar``, an Arrow file with a row for each indexed sample of the shard. Without
it the loader looks for the units itself, in the whole file of each image.
"""

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.shards.arrow_file import write_table
from pipeline.shards.index import Shard, map_file

if TYPE_CHECKING:  # it brings numba with it, which those who only look at files do without
    from pipeline.jpeg.addressable import Units

FORMAT_VERSION = 1
UNITS_SUFFIX = ".units"
_SCHEMA = pa.schema([("header_bytes", pa.uint32()), ("lengths", pa.large_list(pa.uint16()))])
_METADATA_KEY = b"units"


class UnreadableUnitsError(ValueError):
    """A file of units that is none; the message names it and says what to do."""


@dataclass(frozen=True, eq=False)
class ShardUnits:
    """The units of a shard's samples; the arrays are views of the mapped file.

    Attributes:
        header_bytes: uint32 [samples]; 0 where the sample is not addressable.
        starts: int64 [samples + 1], where each sample's lengths begin.
        lengths: uint16 [units of all samples], bytes of each unit with the marker behind it.
    """

    header_bytes: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.uint16]
    _path: Path
    _mapped: mmap.mmap = field(repr=False)

    def check_whole(self) -> None:
        """Look whether the file is as long as it was when it was opened.

        Raises:
            UnreadableUnitsError: it was cut short, and to touch what is lost would end the process with SIGBUS.
        """
        if self._mapped.size() < len(self._mapped):
            raise UnreadableUnitsError(
                f"{self._path}: was cut short while it was open, from {len(self._mapped)} to {self._mapped.size()} "
                f"bytes; {_how_to_mend(self._path.parent)}"
            )

    @property
    def num_addressable(self) -> int:
        return int(np.count_nonzero(self.header_bytes))


def units_path(tar: Path) -> Path:
    return tar.with_suffix(UNITS_SUFFIX)


def write_units(tar: Path, digest: str, units: Sequence["Units | None"]) -> None:
    """Write the file beside a shard, under a temporary name first.

    Args:
        digest: of the shard, as the index has it.
        units: of each of its samples in order; None where one is not addressable.
    """
    starts = np.zeros(len(units) + 1, np.int64)
    np.cumsum([0 if one is None else one.lengths.size for one in units], out=starts[1:])
    lengths = [one.lengths.reshape(-1) for one in units if one is not None]
    values = np.concatenate(lengths) if lengths else np.empty(0, np.uint16)
    columns = [
        pa.array([0 if one is None else one.header_bytes for one in units], pa.uint32()),
        pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), pa.array(values, pa.uint16())),
    ]
    metadata = {"format_version": FORMAT_VERSION, "shard": tar.name, "digest": digest}
    table = pa.record_batch(columns, schema=_SCHEMA)
    write_table(units_path(tar), table, _METADATA_KEY, json.dumps(metadata))


def open_units(folder: Path, shard: Shard) -> ShardUnits | None:
    """The units of a shard's samples; None where there is no file of them, or one of another shard.

    Raises:
        UnreadableUnitsError: it is no such file, or a damaged one.
        OSError: it cannot be opened.
    """
    path = units_path(folder / shard.name)
    if not path.is_file():
        return None
    try:
        mapped = map_file(path)
        with pa.BufferReader(pa.py_buffer(mapped)) as source, pa.ipc.open_file(source) as reader:
            metadata = json.loads((reader.schema.metadata or {})[_METADATA_KEY])
            if metadata["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format {metadata['format_version']}, and this program reads {FORMAT_VERSION}")
            if metadata["digest"] != shard.digest:
                return None
            if not reader.schema.equals(_SCHEMA) or reader.num_record_batches != 1:
                raise ValueError("its columns are not those of units")
            batch = reader.get_batch(0)
            batch.validate(full=True)
            if batch.num_rows != shard.num_samples:
                raise ValueError(f"it has {batch.num_rows} rows, and the shard {shard.num_samples} samples")
            column = batch.column("lengths")
            if any(array.null_count for array in (batch.column("header_bytes"), column, column.values)):
                raise ValueError("some of its values are missing")
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's own, which names the file; Arrow's has no number
        raise UnreadableUnitsError(f"{path}: not a readable file of units ({error}); {_how_to_mend(folder)}") from error
    return ShardUnits(
        batch.column("header_bytes").to_numpy(),
        column.offsets.to_numpy(),
        column.values.to_numpy() if len(column.values) else np.empty(0, np.uint16),
        path,
        mapped,
    )


def _how_to_mend(folder: Path) -> str:
    return f"remove it, or make it again with: python -m tools.shards units {folder}"
