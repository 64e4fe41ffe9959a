"""Shards of other folders -> behind those of a set, with what lies beside them. In one step or not at all."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.addresses import Address
from pipeline.files import write_atomically
from pipeline.shards.classes import read_class_names
from pipeline.shards.exclusion import ExcludedSample, add_samples, exclusion_path, known_samples
from pipeline.shards.index import Shard, ShardIndex, extend_index, index_path, open_index, read_index
from pipeline.shards.level import Level, make_level_again
from pipeline.shards.levels import level_folder, list_levels, open_level
from pipeline.shards.shard import BadShardsError
from pipeline.shards.tars import Row, Scan, scan_shard
from tools.shards.appending.beside import Kinds, carry, how_to_make
from tools.shards.appending.described import with_appended
from tools.shards.appending.larger_folder import bring_back, changed, held
from tools.shards.appending.new_shards import NewShard, check_classes, check_new, find_new, next_names
from tools.shards.dali_index import write_dali_index
from tools.shards.dataset import DATASET_NAME, read_dataset
from tools.shards.journal import JOURNAL_NAME, part_journals
from tools.shards.readdress import find_groups
from tools.shards.verify import read_indexes
from tools.shards.whole_file import WholeFile

OnImages = Callable[[int], object]


@dataclass(frozen=True)
class Appended:
    """What was appended to a split. before, after: samples that are not excluded, shards, and the fingerprint."""

    split: str
    names: list[str]
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass
class _Told:
    """What a person is to hear besides: lines, and the shards that lack something, by what, why and the way on."""

    notes: list[str] = field(default_factory=list)
    missing: dict[tuple[str, str], list[str]] = field(default_factory=dict)


def append(
    folder: Path,
    places: Sequence[Path | Address],
    split: str | None = None,
    *,
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_images: OnImages = lambda count: None,
) -> tuple[list[Appended], list[str]]:
    """Append the shards of other places to a set, in the order in which the places are named.

    They are copied, and numbered on behind the set's last shard. The set is the old one or the new one at any time.

    Args:
        split: which of the set's splits all of them are for; None: those that they are of by name.
        on_total, on_images: told (samples in all, 0), and samples done.

    Returns:
        What was appended to each split, and lines about what is missing beside the new shards.

    Raises:
        ValueError: they are not of the set's kind, are there already, or a set is not finished or does not fit its
            index; says which.
        OSError: a shard cannot be read, or the disk refuses.
    """
    folder = folder.resolve()
    bring_back(folder)
    with held(folder, index_path(folder, read_indexes(folder)[0].split)):
        indexes, told = _checked(folder), _Told()
        names = read_class_names(folder)
        num_classes = len(names) or 1 + max(index.max_label for index in indexes)
        new: dict[str, list[NewShard]] = {}
        for place in places:
            if isinstance(place, Path) and (note := check_classes(folder, names, place)):
                told.notes.append(note)
            for name, shards in find_new(place, split, indexes).items():
                if holding := _with_samples(shards, told):
                    new.setdefault(name, []).extend(holding)
        for index in indexes:
            check_new(folder, index.shards, new.get(index.split, []))
        if not new:
            raise ValueError(f"no shard with a sample to append in {', '.join(map(str, places))}")
        on_total(sum(one.shard.num_samples for shards in new.values() for one in shards), 0)
        before = {name: open_index(folder, name) for name in new}
        with changed(folder) as larger:
            named = {
                name: _append_split(folder, larger, before[name], new[name], num_classes, on_images, told)
                for name in new
            }
    after = {name: open_index(folder, name) for name in new}
    appended = [Appended(name, named[name], _facts(before[name]), _facts(after[name])) for name in new]
    return appended, [*told.notes, *_describe_missing(folder, told.missing)]


def _checked(folder: Path) -> list[ShardIndex]:
    """The indexes of a set that is finished and fits them, samples that are left out counted in."""
    if (folder / JOURNAL_NAME).exists() or part_journals(folder):
        raise ValueError(f"{folder}: holds an unfinished conversion; finish it with the command that began it")
    find_groups(folder)
    indexes = read_indexes(folder)
    for index in indexes:
        if index.level is not None:
            raise ValueError(
                f"{folder}: is level {index.level.pixels} of {folder.parent}; append to that, and to a folder that has "
                "this level too"
            )
    return indexes


def _with_samples(shards: Sequence[NewShard], told: _Told) -> list[NewShard]:
    told.notes += [f"passed over: {one.path}: holds no samples" for one in shards if not one.shard.num_samples]
    return [one for one in shards if one.shard.num_samples]


def _append_split(
    folder: Path,
    larger: Path,
    before: ShardIndex,
    new: Sequence[NewShard],
    num_classes: int,
    on_images: OnImages,
    told: _Told,
) -> list[str]:
    """Append to one split, in the folder that takes the set's place. Returns the new shards' names."""
    names = next_names(before.shards[-1].name, len(new))
    index = _append_files(larger, before, new, names, None, num_classes, on_images, told)
    for pixels in list_levels(folder):
        if not index_path(level_folder(folder, pixels), before.split).is_file():
            continue
        if (shards := _at_level(before, new, pixels)) is None:
            told.missing[f"level {pixels}", make_level_again(level_folder(folder, pixels), pixels)] = names
            continue
        level, place = open_level(before, pixels), level_folder(larger, pixels)
        _append_files(place, level, shards, names, Level(pixels, index.fingerprint), num_classes, lambda _: None, told)
    return names


def _at_level(before: ShardIndex, new: Sequence[NewShard], pixels: int) -> list[NewShard] | None:
    """The same samples at a level; None where the set's level, or one beside new shards, is not there or not theirs."""
    opened: dict[Path, Mapping[str, Shard]] = {}
    try:
        open_level(before, pixels)
        for one in new:
            if one.own_split is None:
                return None
            if one.folder not in opened:
                level = open_level(open_index(one.folder, one.own_split), pixels)
                opened[one.folder] = {shard.name: shard for shard in level.shards}
    except (FileNotFoundError, ValueError):
        return None
    return [
        replace(one, folder=level_folder(one.folder, pixels), shard=opened[one.folder][one.shard.name], sha256=None)
        for one in new
    ]


def _append_files(
    larger: Path,
    before: ShardIndex,
    new: Sequence[NewShard],
    names: Sequence[str],
    level: Level | None,
    num_classes: int,
    on_images: OnImages,
    told: _Told,
) -> ShardIndex:
    """Append to the shards of one folder; returns their index, samples that are left out counted in."""
    index, kinds = read_index(index_path(larger, before.split)), Kinds.of(before)
    found: list[tuple[Shard, list[Row]]] = []
    sums: dict[str, str] = {}
    excluded: list[ExcludedSample] = []
    next_id = len(index.shard)
    for one, name in zip(new, names, strict=True):
        target = larger / name
        size, sums[name] = _copy(one.path, target)
        scan = scan_shard(target, *index.members)
        _check_copy(one, sums[name], scan, num_classes, before.folder)
        shard = Shard(name, size, target.stat().st_mtime_ns, len(scan.rows), scan.digest)
        found.append((shard, scan.rows))
        if kinds.idx:
            write_dali_index(target, scan)
        for kind, why in carry(kinds, one.folder, one.shard, target).items():
            told.missing.setdefault((f"{kind} ({why})", how_to_make(kind, before.folder)), []).append(name)
        for sample in one.excluded:
            row = None if sample.sample_id is None else sample.sample_id - one.first_id + next_id
            excluded.append(replace(sample, shard=name, sample_id=row))
        next_id += shard.num_samples
        on_images(shard.num_samples)
    extended, path = extend_index(index, found, level), exclusion_path(larger, index.split)
    if excluded or path.is_file():
        add_samples(path, extended.fingerprint, [*known_samples(path, index.fingerprint), *excluded])
    if (dataset := read_dataset(larger)) is not None:
        described = with_appended(dataset, extended, sums, _described(new))
        write_atomically(larger / DATASET_NAME, json.dumps(described, indent=2) + "\n", sync=True)
    return extended


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """Size and SHA-256 of the copy of a shard, which is on the disk."""
    copy = WholeFile(target)
    try:
        with open(source, "rb") as file:
            shutil.copyfileobj(file, copy, 1 << 20)
        return copy.finish()
    except BaseException:
        copy.abandon()
        raise


def _check_copy(one: NewShard, sha256: str, scan: Scan, num_classes: int, folder: Path) -> None:
    """Raise ValueError if a shard is not as it was indexed or converted, or has a class that the set has not."""
    if scan.digest != one.shard.digest or one.sha256 not in (None, sha256):
        raise ValueError(f"{one.path}: is not as its index and dataset.json say; to see what: tools.shards verify")
    known = {sample.key for sample in one.excluded}
    if faults := [fault for fault in scan.faults if fault.key not in known]:
        raise BadShardsError(faults)
    for row in scan.rows:
        if row.label >= num_classes:
            raise ValueError(
                f"{one.path}: sample {row.key!r} has label {row.label}, but the classes of {folder} are 0 to "
                f"{num_classes - 1}; a set's classes stay what they are: convert all images anew, or train on both as "
                "two sources (data.train)"
            )


def _described(new: Sequence[NewShard]) -> list[dict[str, Any] | None]:
    """What the dataset.json beside new shards says of their splits, each once."""
    places = dict.fromkeys((one.folder, one.own_split) for one in new)
    return [
        None if split is None else (read_dataset(folder) or {}).get("splits", {}).get(split) for folder, split in places
    ]


def _facts(index: ShardIndex) -> dict[str, Any]:
    return {"num_samples": index.num_samples, "num_shards": len(index.shards), "fingerprint": index.fingerprint}


def _describe_missing(folder: Path, missing: Mapping[tuple[str, str], Sequence[str]]) -> list[str]:
    return [
        f"missing beside {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {what}; to make it: {command}"
        for (what, command), names in missing.items()
    ]
