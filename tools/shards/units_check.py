"""Holds the ``.units`` files of a folder against the shards beside them."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.shards.index import Shard, ShardIndex
from pipeline.shards.tars import Fault, Row
from pipeline.shards.units import open_units, units_path


def remove_stale_units(index: ShardIndex) -> list[Path]:
    """Remove the files of units that were made for other shards than the index's, or cannot be read. Returns them."""
    stale = []
    for shard in index.shards:
        path = units_path(index.folder / shard.name)
        if not path.is_file():
            continue
        try:
            is_stale = open_units(index.folder, shard) is None
        except ValueError:
            is_stale = True
        if is_stale:
            path.unlink()
            stale.append(path)
    return stale


def compare_units(folder: Path, shard: Shard, rows: Sequence[Row]) -> list[Fault]:
    """Each image whose units are not those in the shard's file of units; nothing where there is no such file.

    Args:
        rows: the samples of the shard, which is as it was indexed.
    """
    path = units_path(folder / shard.name)
    if not path.is_file():
        return []
    try:
        stored = open_units(folder, shard)
    except ValueError as error:
        return [Fault(path.name, "", str(error))]
    if stored is None:
        again = f"make it again with: python -m tools.shards units {folder}"
        return [Fault(path.name, "", f"was made for another shard, so it is not used; {again}")]
    faults = []
    with open(folder / shard.name, "rb") as file:
        for row, header_bytes, start, stop in zip(
            rows, stored.header_bytes.tolist(), stored.starts[:-1].tolist(), stored.starts[1:].tolist(), strict=True
        ):
            image = os.pread(file.fileno(), row.length, row.offset)
            if reason := _difference(image, header_bytes, stored.lengths[start:stop]):
                faults.append(Fault(path.name, row.key, reason))
    return faults


def _difference(image: bytes, header_bytes: int, lengths: np.ndarray) -> str:
    from pipeline.jpeg.addressable import NotAddressableError, units_of

    try:
        units = units_of(image)
    except NotAddressableError as error:
        return f"the image is addressable by this file, but {error}" if header_bytes else ""
    if not header_bytes:
        return "the image is addressable, but not by this file"
    if header_bytes != units.header_bytes or not np.array_equal(lengths, units.lengths.reshape(-1)):
        return "the image's units do not lie where this file says"
    return ""
