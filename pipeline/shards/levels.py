"""The same samples at several sizes: smaller images in ``level-256/`` and the like beside the shards.

The shards of a level have the names of those that they were made from, and in each the same samples stand in the same
order, so that a sample has one id at all levels.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.addresses import Address
from pipeline.shards.index import ShardIndex, StaleIndexError, fingerprint_of, index_path, open_index
from pipeline.shards.level import LEVEL_PREFIX, make_level_again
from pipeline.shards.shard import with_levels
from pipeline.storage.cache import CacheSettings


def level_folder(folder: str | Path, pixels: int) -> Path:
    """Where the shards lie whose images are at most ``pixels`` on their shorter side."""
    return Path(folder) / f"{LEVEL_PREFIX}{pixels}"


def list_levels(folder: Path) -> list[int]:
    """The levels that lie beside shards, the largest first."""
    names = [path.name.removeprefix(LEVEL_PREFIX) for path in folder.glob(f"{LEVEL_PREFIX}*") if path.is_dir()]
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def open_with_levels(
    location: str | Path | Address, split: str, levels: Sequence[int], cache: CacheSettings | None = None
) -> ShardIndex:
    """``open_index`` with its ``levels``. Where there are any, the fingerprint covers them too.

    Args:
        levels: pixels of the shorter side of each, the largest first; none for shards in a store.
        cache: as for ``open_index``.

    Raises:
        FileNotFoundError: there is no such level; says which command makes it.
        StaleIndexError, ValueError: one was made of other shards than those beside it, or cannot be read; see
            ``open_index`` too.
    """
    index = open_index(location, split, cache)
    if not levels:
        return index
    opened = tuple(open_level(index, pixels) for pixels in levels)
    facts = [(one.level, one.fingerprint) for one in opened if one.level is not None]
    return replace(index, levels=opened, fingerprint=with_levels(index.fingerprint, facts))


def open_level(index: ShardIndex, pixels: int) -> ShardIndex:
    """The index of one level of the samples of ``index``. Raises as ``open_with_levels``."""
    folder = level_folder(index.folder, pixels)
    if not index_path(folder, index.split).is_file():
        there = ", ".join(map(str, list_levels(index.folder))) or "none"
        raise FileNotFoundError(
            f"{folder}: no level {pixels} of split '{index.split}'; levels there: {there}; it is made with: "
            f"python -m tools.shards resize-levels {index.folder} --levels {pixels}"
        )
    level = open_index(folder, index.split)
    if level.level is None or level.level.pixels != pixels:
        what = "is not that of a level" if level.level is None else f"is that of level {level.level.pixels}"
        raise ValueError(
            f"{index_path(folder, index.split)}: {what}, not of level {pixels}; "
            f"make it with: {make_level_again(folder, pixels)}"
        )
    parts = [[(shard.name, shard.num_samples) for shard in one.shards] for one in (index, level)]
    if level.level.made_from != fingerprint_of(index.shards) or parts[0] != parts[1]:
        raise StaleIndexError(
            f"{folder}: was made from other shards than those now in {index.folder}; "
            f"make it again with: {make_level_again(folder, pixels)}"
        )
    return level
