"""Which shards are to be appended, and whether they are of the set's kind."""

import filecmp
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.addresses import Address
from pipeline.shards.classes import read_class_names
from pipeline.shards.exclusion import ExcludedSample
from pipeline.shards.index import ALL_SPLIT, Shard, ShardIndex, group_tars, index_path, list_splits, read_index
from pipeline.shards.shard import BadShardsError
from pipeline.shards.splits import group_paths
from pipeline.shards.tars import Members, scan_shard
from tools.shards.dataset import read_dataset
from tools.shards.readdress import Group, find_groups

_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)")


@dataclass(frozen=True)
class NewShard:
    """A shard to append, where it lies now.

    Attributes:
        shard: as it is known there.
        excluded: those of its samples that are left out there.
        first_id: of its first sample there.
        sha256: of the file by the dataset.json there, if that says it.
        own_split: the split of the index there; None where the shard has none.
    """

    folder: Path
    shard: Shard
    excluded: tuple[ExcludedSample, ...]
    first_id: int
    sha256: str | None
    own_split: str | None

    @property
    def path(self) -> Path:
        return self.folder / self.shard.name


def find_new(place: Path | Address, split: str | None, old: Sequence[ShardIndex]) -> dict[str, list[NewShard]]:
    """The shards of a folder, or one tar, by the split of the set that they are appended to.

    Args:
        split: which of the set's; None: those that the new shards' own are called.
        old: the set's indexes.

    Raises:
        ValueError: the shards do not fit their index or cannot be indexed, are of a split that the set has not, have
            images or labels in other members than the set's, or are levels.
        OSError: there is nothing, or it cannot be read.
    """
    if isinstance(place, Address):
        raise ValueError(f"{place}: shards are appended from a disk; copy them to one first, and name that folder")
    by_split = {index.split: index for index in old}
    found: dict[str, list[NewShard]] = {}
    for group in _groups(place, split, by_split):
        index = by_split[group.split]
        if group.members != index.members:
            raise ValueError(
                f"{place}: its samples hold images and labels in other members ({_told(group.members)}) than those of "
                f"{index.folder} ({_told(index.members)}); write its tars as the others are, or train on both as two "
                "sources (data.train)"
            )
        found[group.split] = _of_group(place, group)
    return found


def _groups(place: Path, split: str | None, by_split: dict[str, ShardIndex]) -> list[Group]:
    if not place.is_dir():
        if not place.is_file() or place.suffix != ".tar":
            raise FileNotFoundError(f"{place}: neither a folder of shards nor a .tar")
        return [_unindexed(place, [place], split or next(iter(group_paths([place], place.parent))), by_split)]
    if not list_splits(place):
        groups = [_unindexed(place, tars, name, by_split, split) for name, tars in group_tars(place).items()]
    else:
        groups = find_groups(place)
        if any(read_index(index_path(place, group.split)).level is not None for group in groups):
            raise ValueError(f"{place}: holds smaller images, a level; name the folder that it lies in")
    if split is not None:
        own = {group.split: group for group in groups}
        chosen = own.get(split, own.get(ALL_SPLIT))
        if chosen is None:
            raise ValueError(f"{place}: holds no split '{split}'; those there are: {', '.join(own) or 'none'}")
        groups = [Group(split, chosen.shards, chosen.members, chosen.excluded)]
    if not groups:
        raise FileNotFoundError(f"{place}: neither tars nor an index")
    for group in groups:
        _known(place, group.split, by_split)
    return groups


def _unindexed(
    place: Path, tars: Sequence[Path], name: str, by_split: dict[str, ShardIndex], split: str | None = None
) -> Group:
    """Tars without an index, read as those of the set are."""
    members = _known(place, split or name, by_split).members
    shards, faults = [], []
    for path in tars:
        stat, scan = path.stat(), scan_shard(path, *members)
        shards.append(Shard(path.name, stat.st_size, stat.st_mtime_ns, len(scan.rows), scan.digest))
        faults += scan.faults
    if faults:
        raise BadShardsError(faults)
    return Group(name, tuple(shards), members, ())


def _known(place: Path, split: str, by_split: dict[str, ShardIndex]) -> ShardIndex:
    if split not in by_split:
        raise ValueError(
            f"{place}: its shards are of the split '{split}', and the set has none of that name; --split says to which "
            f"they are appended: {', '.join(by_split)}"
        )
    return by_split[split]


def _of_group(place: Path, group: Group) -> list[NewShard]:
    folder = place if place.is_dir() else place.parent
    dataset = (read_dataset(place) if place.is_dir() else None) or {}
    sums = {name: sha for split in dataset.get("splits", {}).values() for name, sha in split["sha256"].items()}
    splits = list_splits(place) if place.is_dir() else []
    own = {shard.name: split for split in splits for shard in read_index(index_path(folder, split)).shards}
    found, first = [], 0
    for shard in group.shards:
        excluded = tuple(one for one in group.excluded if one.shard == shard.name)
        found.append(NewShard(folder, shard, excluded, first, sums.get(shard.name), own.get(shard.name)))
        first += shard.num_samples
    return found


def check_classes(folder: Path, names: Sequence[str], place: Path) -> str | None:
    """A line where nobody names the classes of new shards; None where they are those of the set.

    Raises:
        ValueError: their list of names is another one.
    """
    new = read_class_names(place) if place.is_dir() else []
    if not names:
        return None
    if not new:
        return f"{place} names no classes: its labels are taken for those of {folder}"
    if new != list(names):
        at = next((i for i, pair in enumerate(zip(names, new, strict=False)) if pair[0] != pair[1]), None)
        what = f"{len(new)} classes, not {len(names)}" if at is None else f"class {at} is {new[at]}, not {names[at]}"
        raise ValueError(
            f"{place}: has another list of classes than {folder} ({what}); convert it with the same classes, or train "
            "on both as two sources, which are joined by name (data.train)"
        )
    return None


def check_new(folder: Path, old: Sequence[Shard], new: Sequence[NewShard]) -> None:
    """Raise ValueError if a shard is among those of the set already, or twice among the new ones."""
    known: dict[tuple[int, str], list[Path]] = {}
    for shard in old:
        known.setdefault((shard.size_bytes, shard.digest), []).append(folder / shard.name)
    for one in new:
        alike = known.setdefault((one.shard.size_bytes, one.shard.digest), [])
        for path in alike:
            if filecmp.cmp(path, one.path, shallow=False):  # images may differ where headers and labels do not
                raise ValueError(
                    f"{one.path}: is there already, as {path}, so nothing was appended; name only shards that are new"
                )
        alike.append(one.path)


def next_names(last: str, count: int) -> list[str]:
    """Names for new shards, which sort behind the last one of a set: its last number, counted on.

    Raises:
        ValueError: it has no number, or too few digits.
    """
    match = _NUMBERED.fullmatch(last.removesuffix(".tar"))
    if match is None:
        raise ValueError(
            f"{last}: the set's last shard has no number in its name that new ones could be counted on from; write the "
            "set with names such as train-000000.tar"
        )
    prefix, digits, rest = match.groups()
    numbers = [f"{int(digits) + 1 + i:0{len(digits)}d}" for i in range(count)]
    if count and len(numbers[-1]) > len(digits):
        raise ValueError(
            f"{last}: {count} more shards do not fit into the {len(digits)} digits of the set's names, and longer ones "
            "would not sort behind them; write the set with names such as train-000000.tar"
        )
    return [f"{prefix}{number}{rest}.tar" for number in numbers]


def _told(members: Members) -> str:
    given: dict[str, Any] = {name: value for name, value in members._asdict().items() if value}
    return ", ".join(f"{name} {value}" for name, value in given.items()) or "the usual ones"
