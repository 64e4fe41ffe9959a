"""Where the units of a shard's addressable JPEGs lie: a memory-mapped file beside the shard, two bytes a unit.

``train-000000.units`` for ``train-000000.tar``, an Arrow file with a row for each indexed sample of the shard. Without
it the loader looks for the units itself, in the whole file of each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.shards.arrow_file import DamagedTableError, Table, read_table, write_table
from pipeline.shards.shard import Shard
from pipeline.told import tell_once

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
    _table: Table = field(repr=False)

    def check_whole(self) -> None:
        """Look whether the file is as long as it was when it was opened.

        Raises:
            UnreadableUnitsError: it was cut short, and to touch what is lost would end the process with SIGBUS.
        """
        try:
            self._table.check_whole()
        except DamagedTableError as error:
            raise UnreadableUnitsError(f"{self._path}: {error}; {_how_to_mend(self._path.parent)}") from None

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
    write_table(units_path(tar), table, _METADATA_KEY, metadata)


def open_units(folder: Path, shard: Shard) -> ShardUnits | None:
    """The units of a shard's samples; None where there is no file of them, or one of another shard.

    Raises:
        UnreadableUnitsError: it is no such file, or a damaged one.
        OSError: it cannot be opened.
    """
    path = units_path(folder / shard.name)
    if Path(shard.name).is_absolute():  # of one of several folders
        folder = path.parent
    if not path.is_file():
        return None
    try:
        table = read_table(path, _METADATA_KEY, FORMAT_VERSION)
        if table.facts["digest"] != shard.digest:
            return None
        table.expect(_SCHEMA, shard.num_samples)
        table.check_part(0, 0, shard.num_samples)
        table.batch.validate(full=True)
    except (DamagedTableError, pa.ArrowException, KeyError) as error:
        raise UnreadableUnitsError(f"{path}: not a readable file of units ({error}); {_how_to_mend(folder)}") from error
    if table.row_digests is None:
        tell_once(
            f"{folder}: its files of units have no digests of their rows, so they are not checked; to have them "
            f"checked: python -m tools.shards units {folder}"
        )
    column = table.batch.column("lengths")
    return ShardUnits(
        table.batch.column("header_bytes").to_numpy(),
        column.offsets.to_numpy(),
        column.values.to_numpy() if len(column.values) else np.empty(0, np.uint16),
        path,
        table,
    )


def _how_to_mend(folder: Path) -> str:
    return f"remove it, or make it again with: python -m tools.shards units {folder}"
