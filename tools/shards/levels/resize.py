"""Shards -> smaller images of the same samples, in the same order, in ``level-256/`` and the like beside them.

A level has all that a folder of shards has: tars of the same names, an index, which says its size and what it was made
from, ``.idx`` files and ``dataset.json``. Shards are worked on in parallel, and each is whole or absent; a call
that was stopped goes on. What is written does not depend on the number of workers.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_atomically
from pipeline.shards.exclusion import add_samples, exclusion_path
from pipeline.shards.index import ShardIndex, build_index, fingerprint_of, open_index
from pipeline.shards.level import Level, make_level_again
from pipeline.shards.levels import level_folder, open_level
from tools.shards.dataset import DATASET_NAME, FORMAT_VERSION, describe_split, read_dataset
from tools.shards.images import DEFAULT_QUALITY
from tools.shards.journal import JOURNAL_NAME, Journal, ShardRecord
from tools.shards.levels.shard import LevelJob, write_level_shard
from tools.shards.readdress import Group, find_groups, write_shards
from tools.shards.readdress_shard import ShardJob
from tools.shards.whole_file import remove_leftovers

_TRAINING = ("train", "all")  # what ``open_index`` opens for training, the first that is there


def resize_levels(
    folder: Path,
    levels: Sequence[int],
    *,
    addressable: bool = False,
    workers: int = 1,
    ray: str | None = None,
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_images: Callable[[int], object] = lambda count: None,
    on_phase: Callable[[str], object] = lambda phase: None,
) -> dict[int, dict[str, Any]]:
    """Write smaller images of a folder's training split beside its shards, going on where an earlier call stopped.

    Args:
        levels: pixels of the shorter side of each.
        addressable: JPEGs are written so that each of their units can be reached alone.
        ray: a Ray cluster, see ``pool.as_done``.
        on_total, on_images, on_phase: told (samples in all, those done before), samples done, and what is done now.

    Returns:
        The content of each level's ``dataset.json``.

    Raises:
        ValueError: the shards do not fit their index, there is no training split, they are a level themselves, or
            something else lies where a level would.
        OSError: a shard cannot be read, or the disk refuses.
    """
    index, group = _training_group(folder)
    dataset = read_dataset(folder)
    made = {}
    for pixels in levels:
        out = level_folder(folder, pixels)
        level = Level(pixels, fingerprint_of(group.shards))
        job = {
            "format_version": FORMAT_VERSION,
            "level": level._asdict(),
            "quality": DEFAULT_QUALITY,
            "addressable": addressable,
        }
        if (finished := _finished(out, job, index)) is not None:
            made[pixels] = finished
            continue
        out.mkdir(exist_ok=True)
        journal = Journal(out, job)
        try:
            remove_leftovers(out)
            done = {record.name for record in journal.shards}
            jobs = [
                LevelJob(ShardJob(folder, out, group.split, shard, group.members), pixels, addressable)
                for shard in group.shards
                if shard.name not in done
            ]
            total = sum(shard.num_samples for shard in group.shards)
            on_total(total, total - sum(one.place.shard.num_samples for one in jobs))
            on_phase(f"level {pixels}")
            write_shards(write_level_shard, jobs, workers, journal, on_images, ray=ray)
            remove_leftovers(out)  # of workers that were lost on the way
            made[pixels] = _describe(folder, out, job, level, group, journal.shards, dataset)
            write_atomically(out / DATASET_NAME, json.dumps(made[pixels], indent=2) + "\n", sync=True)
            journal.remove()
        finally:
            journal.close()
    return made


def _training_group(folder: Path) -> tuple[ShardIndex, Group]:
    """The index that training opens, and its shards."""
    index = open_index(folder, _TRAINING[0])
    if index.level is not None:
        raise ValueError(
            f"{folder}: is level {index.level.pixels} of {folder.parent} itself; make levels of the full size: "
            f"python -m tools.shards resize-levels {folder.parent}"
        )
    [group] = [one for one in find_groups(folder) if one.split == index.split]
    return index, group


def _finished(out: Path, job: dict[str, Any], index: ShardIndex) -> dict[str, Any] | None:
    """dataset.json of a finished level, None where it is to be written. Raises ValueError where there is another."""
    if not out.exists() or (out / JOURNAL_NAME).exists():
        return None
    if out.is_dir() and not any(out.iterdir()):
        return None
    dataset = read_dataset(out) if out.is_dir() else None
    again = make_level_again(out, job["level"]["pixels"]) + (" --addressable" if job["addressable"] else "")
    if dataset is None:
        raise ValueError(f"{out}: lies where a level goes, and is none that was made here; move it away or: {again}")
    if dataset["job"] != job:
        raise ValueError(
            f"{out}: was made from other shards or in another way than is asked for now; make it anew: {again}"
        )
    open_level(index, job["level"]["pixels"])
    return dataset


def _describe(
    folder: Path,
    out: Path,
    job: dict[str, Any],
    level: Level,
    group: Group,
    shards: Sequence[ShardRecord],
    dataset: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write the index of a level and return the content of its dataset.json."""
    paths = [out / shard.name for shard in group.shards]
    index = build_index(
        out, group.split, paths, **group.members._asdict(), leave_out_faulty=bool(group.excluded), level=level
    )
    if group.excluded:
        add_samples(exclusion_path(out, group.split), index.fingerprint, group.excluded)
    classes = (dataset or {}).get("classes")
    split = describe_split(index, sorted(shards, key=lambda one: one.name), len(classes or []))
    return {
        "format_version": FORMAT_VERSION,
        "source": f"shards:{folder}",
        "classes": classes,
        "rejected": 0,
        "splits": {group.split: split | {"level": sum_levels([one.level for one in shards if one.level is not None])}},
        "job": job,
    }


def sum_levels(tallies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One ``LevelTally``, as JSON, of several."""
    unread: dict[str, int] = {}
    for tally in tallies:
        for reason, count in tally["unread"].items():
            unread[reason] = unread.get(reason, 0) + count
    numbers = {name: sum(tally[name] for tally in tallies) for name in ("num_shrunk", "num_copied")}
    return {**numbers, "unread": dict(sorted(unread.items()))}
