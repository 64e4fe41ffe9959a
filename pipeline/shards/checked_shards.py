"""Whether tars are still those that were indexed, and the commands that index them anew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.addresses import Address
from pipeline.shards.level import make_level_again
from pipeline.shards.shard import Shard, StaleIndexError
from pipeline.shards.splits import group_tars
from pipeline.shards.tars import scan_shard
from pipeline.told import tell_once

_ShardIndex = Any  # its module imports this one

# Shards that this process has read once more and found to be as their index says, so that no second opening does it.
_scanned: set[tuple[Path, Shard]] = set()


def check_shards(index: _ShardIndex) -> tuple[Shard, ...]:
    """The shards with the modification times at which their contents were found to be those of the index."""
    rescanned = False
    checked = []
    for shard in index.shards:
        path = index.folder / shard.name
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise StaleIndexError(
                f"{path}: this shard is in {index.split}.index but no longer in the folder; bring it "
                f"back, or index what is there with: {again(index)}"
            ) from None
        if stat.st_size != shard.size_bytes:
            raise StaleIndexError(
                f"{path}: has {stat.st_size} bytes, but had {shard.size_bytes} when it was indexed; "
                f"if the new content is meant, index it with: {again(index)}"
            )
        checked.append(replace(shard, mtime_ns=stat.st_mtime_ns))
        if stat.st_mtime_ns == shard.mtime_ns or (path.absolute(), checked[-1]) in _scanned:
            continue
        rescanned = True
        if scan_shard(path, *index.members).digest != shard.digest:
            raise StaleIndexError(
                f"{path}: was changed after it was indexed (its headers, labels or image sizes differ); "
                f"if the new content is meant, index it with: {again(index)}"
            )
        _scanned.add((path.absolute(), checked[-1]))
    if rescanned:
        tell_once(
            f"{index.folder}: shards carry other modification times than in their index, as copies do. Their contents "
            f"were read and fit; to be spared that at every start: {again(index)}"
        )
    return tuple(checked)


def index_command(folder: Path | Address) -> str:
    return f"python -m tools.shards index {folder}"


def again(index: _ShardIndex) -> str:
    """The command that makes this index anew: what tars and members it is of has to be said as it was then."""
    if index.level is not None:
        return make_level_again(index.folder, index.level.pixels)
    options = [f" --{name.replace('_', '-')} {value}" for name, value in index.members._asdict().items() if value]
    try:
        is_found = index.split in group_tars(index.folder)
    except ValueError:
        is_found = False
    which = "" if is_found else f" --split {index.split} --pattern 'GLOB'"
    return f"{index_command(index.folder)}{which}{''.join(options)}"
