"""What lies beside shards and is carried along with them: units, score maps, indexes for DALI."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.selection import maps
from pipeline.selection.maps import map_path, maps_beside, open_shard_maps, score_command
from pipeline.shards import units
from pipeline.shards.arrow_file import DamagedTableError, read_table, write_table
from pipeline.shards.index import Shard, ShardIndex
from pipeline.shards.units import units_path

_UNITS, _MAP = b"units", b"map"


@dataclass(frozen=True)
class Kinds:
    """What a set has beside its shards. maps: by name, what decides the scores of the first shard that has one."""

    idx: bool
    units: bool
    maps: dict[str, Any]

    @classmethod
    def of(cls, index: ShardIndex) -> "Kinds":
        tars = [index.folder / shard.name for shard in index.shards]
        return cls(
            idx=any(tar.with_suffix(".idx").is_file() for tar in tars),
            units=any(units_path(tar).is_file() for tar in tars),
            maps={name: _maps_of(index.folder, index.shards, name) for name in maps_beside(index)},
        )


def carry(kinds: Kinds, folder: Path, shard: Shard, target: Path) -> dict[str, str]:
    """Write beside a shard's copy what lies beside the shard, as far as the set has it.

    Args:
        folder, shard: where the shard lies, as it is known there.
        target: its copy, of the same content.

    Returns:
        What is missing, ``units`` or the name of a map, and why.

    Raises:
        ValueError: a file of units or a score map cannot be read.
    """
    missing, tar = {}, folder / shard.name
    if kinds.units and not _renamed(units_path(tar), units_path(target), _UNITS, units.FORMAT_VERSION, shard.digest):
        missing["units"] = "have none"
    for name, facts in kinds.maps.items():
        if (own := _maps_of(folder, [shard], name)) is None:
            missing[name] = "have none"
        elif own != facts:
            missing[name] = "have some that were made otherwise"
        else:
            _renamed(map_path(tar, name), map_path(target, name), _MAP, maps.FORMAT_VERSION, shard.digest)
    return missing


def how_to_make(kind: str, folder: Path) -> str:
    """The command that makes what ``carry`` found missing."""
    return f"python -m tools.shards units {folder}" if kind == "units" else score_command(folder, kind)


def _maps_of(folder: Path, shards: Sequence[Shard], name: str) -> list[Any] | None:
    """What decides the scores of the first of the shards that has maps of this name."""
    for shard in shards:
        if (found := open_shard_maps(folder, shard, name)) is not None:
            return [found.facts.kind_name, found.facts.made_by, found.facts.grid_size]
    return None


def _renamed(source: Path, target: Path, key: bytes, version: int, digest: str) -> bool:
    """A table of a shard, as that of its copy of another name; False where there is none, or one of another shard."""
    if not source.is_file():
        return False
    try:
        table = read_table(source, key, version)
        if table.facts["digest"] != digest:
            return False
        table.check_part(0, 0, table.batch.num_rows)
    except (DamagedTableError, KeyError) as error:
        raise ValueError(f"{source}: cannot be read ({error}); remove it, or make it again") from error
    write_table(target, table.batch, key, {**table.facts, "shard": target.with_suffix(".tar").name})
    return True
