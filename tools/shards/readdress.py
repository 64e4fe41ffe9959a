"""Shards -> the same shards with addressable JPEGs, with their indexes, in another folder.

A shard stays a shard: its name, its samples, their order and their labels are the same, and so are all files in it but
the JPEGs that are transcoded, each without loss. Shards are worked on in parallel, and each is whole or absent. What is
written does not depend on the number of workers, nor on whether the work was stopped and started again.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.files import write_atomically
from pipeline.shards.exclusion import ExcludedSample, add_samples, exclusion_path, known_samples
from pipeline.shards.index import (
    Fault,
    Shard,
    build_index,
    fingerprint_of,
    group_tars,
    index_path,
    list_splits,
    open_index,
    read_index,
)
from pipeline.shards.splits import list_tars
from pipeline.shards.tars import Members, scan_shard
from tools.shards.addressable import check_jpegtran
from tools.shards.dataset import (
    DATASET_NAME,
    FORMAT_VERSION,
    REJECTED_NAME,
    describe_split,
    read_dataset,
    read_finished,
)
from tools.shards.journal import Journal, ShardRecord
from tools.shards.pool import worker_processes
from tools.shards.readdress_shard import ShardJob, readdress_shard

Job = TypeVar("Job")


@dataclass(frozen=True)
class Group:
    """The shards of one split as they are found, and the samples that are left out of it."""

    split: str
    shards: tuple[Shard, ...]
    members: Members
    excluded: tuple[ExcludedSample, ...]


def readdress(
    folder: Path,
    out: Path,
    *,
    workers: int = 1,
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_images: Callable[[int], object] = lambda count: None,
    on_phase: Callable[[str], object] = lambda phase: None,
) -> tuple[dict[str, Any], bool]:
    """Write all shards of a folder anew into ``out``, going on where an earlier call stopped.

    Args:
        on_total, on_images, on_phase: told (samples in all, those done before), samples done, and what is done now.

    Returns:
        The content of ``dataset.json``, and whether nothing was left to do.

    Raises:
        ValueError: the shards do not fit their index or cannot be indexed, or ``out`` holds something else.
        OSError: a shard cannot be read, the disk refuses, or there is no jpegtran.
    """
    _check_places(folder, out)
    groups, dataset = find_groups(folder), read_dataset(folder)
    job = _job(groups, dataset)
    if (finished := read_finished(out, job)) is not None:
        return finished, True
    check_jpegtran()
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out, job)
    try:
        for leftover in out.glob(".*.tmp"):
            leftover.unlink()
        finished_shards = {record.name for record in journal.shards}
        jobs = [
            ShardJob(folder, out, group.split, shard, group.members)
            for group in groups
            for shard in group.shards
            if shard.name not in finished_shards
        ]
        total = sum(shard.num_samples for group in groups for shard in group.shards)
        on_total(total, total - sum(one.shard.num_samples for one in jobs))
        write_shards(readdress_shard, jobs, workers, journal, on_images)
        on_phase("writing the indexes")
        described = _describe(folder, out, job, groups, journal.shards, dataset)
        write_atomically(out / DATASET_NAME, json.dumps(described, indent=2) + "\n", sync=True)
        journal.remove()
    finally:
        journal.close()
    return described, False


def _check_places(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        what = "is a file; name the folder that holds the shards" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"shard folder {folder} {what}")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"--out {out} is {folder} or lies in it; the shards there stay as they are; name another place"
        )


def find_groups(folder: Path) -> list[Group]:
    """The shards of a folder by split: as its indexes have them, or as ``index`` would where there is none.

    Raises FileNotFoundError where there is no tar, StaleIndexError or ValueError where the indexes do not fit the
    tars or a sample cannot be indexed.
    """
    if splits := list_splits(folder):
        groups = []
        for split in splits:
            index, fingerprint = open_index(folder, split), read_index(index_path(folder, split)).fingerprint
            excluded = known_samples(exclusion_path(folder, split), fingerprint)
            groups.append(Group(split, index.shards, index.members, excluded))
        indexed = {shard.name for group in groups for shard in group.shards}
        if others := sorted(path.name for path in list_tars(folder) if path.name not in indexed):
            raise ValueError(
                f"{folder}: no index names {others[0]}{f' and {len(others) - 1} more' if others[1:] else ''}; index "
                f"all shards first with: python -m tools.shards index {folder}, or move these elsewhere"
            )
        return groups
    if not (tars := group_tars(folder)):
        raise FileNotFoundError(f"{folder}: neither tars nor an index")
    faults: list[Fault] = []
    groups = []
    for split, paths in tars.items():
        shards = []
        for path in paths:
            stat, scan = path.stat(), scan_shard(path)
            shards.append(Shard(path.name, stat.st_size, stat.st_mtime_ns, len(scan.rows), scan.digest))
            faults += scan.faults
        groups.append(Group(split, tuple(shards), Members(), ()))
    if faults:
        raise ValueError(
            f"{folder}: has no index, and {len(faults)} sample(s) or shard(s) cannot be indexed, the first being "
            f"{faults[0]}; make an index first, which may leave samples out or take labels from elsewhere: "
            f"python -m tools.shards index {folder} --help"
        )
    return groups


def _job(groups: Sequence[Group], dataset: dict[str, Any] | None) -> dict[str, Any]:
    """All that decides on the bytes: how the shards came to be, as far as is known, and what they are."""
    made = dataset["job"] if dataset and "job" in dataset else {"format_version": FORMAT_VERSION}
    readdressed: dict[str, Any] = {group.split: fingerprint_of(group.shards) for group in groups}
    if any(group.excluded for group in groups):
        readdressed["excluded"] = {group.split: len(group.excluded) for group in groups}
    return {**made, "readdressed": readdressed}


def write_shards(
    write: Callable[[Job], ShardRecord],
    jobs: list[Job],
    workers: int,
    journal: Journal,
    on_images: Callable[[int], object],
) -> None:
    """Write the shards and record each as soon as it is whole. With one worker no process is started."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            journal.add(record := write(job))
            on_images(record.num_samples)
        return
    with worker_processes(workers) as pool:
        for done in as_completed([pool.submit(write, job) for job in jobs]):
            journal.add(record := done.result())
            on_images(record.num_samples)


def _describe(
    folder: Path,
    out: Path,
    job: dict[str, Any],
    groups: Sequence[Group],
    shards: Sequence[ShardRecord],
    dataset: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write the indexes, the lists of what is left out, and return the content of dataset.json."""
    splits = {}
    for group in groups:
        paths = [out / shard.name for shard in group.shards]
        index = build_index(out, group.split, paths, **group.members._asdict(), leave_out_faulty=bool(group.excluded))
        if group.excluded:
            add_samples(exclusion_path(out, group.split), index.fingerprint, group.excluded)
        records = sorted((one for one in shards if one.split == group.split), key=lambda one: one.name)
        classes = (dataset or {}).get("classes")
        splits[group.split] = describe_split(index, records, len(classes or []))
    if (folder / REJECTED_NAME).is_file():
        shutil.copyfile(folder / REJECTED_NAME, out / REJECTED_NAME)
    known = dataset or {"format_version": FORMAT_VERSION, "source": f"shards:{folder}", "classes": None, "rejected": 0}
    return {**known, "splits": splits, "job": job}
