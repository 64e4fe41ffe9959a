"""Shards -> the same shards with addressable JPEGs, with their indexes, in another folder.

A shard stays a shard: its name, its samples, their order and their labels are the same, and so are all files in it but
the JPEGs that are transcoded, each without loss. Shards are worked on in parallel, and each is whole or absent. What is
written does not depend on the number of workers, nor on whether the work was stopped and started again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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
from tools.shards.parts.journals import open_part
from tools.shards.parts.part import Part
from tools.shards.pool import as_done
from tools.shards.readdress_shard import ShardJob, readdress_shard
from tools.shards.whole_file import remove_leftovers

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
    ray: str | None = None,
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_images: Callable[[int], object] = lambda count: None,
    on_phase: Callable[[str], object] = lambda phase: None,
) -> tuple[dict[str, Any], bool]:
    """Write all shards of a folder anew into ``out``, going on where an earlier call stopped.

    Args:
        ray: a Ray cluster, see ``pool.as_done``.
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
        remove_leftovers(out)
        _write(_jobs(folder, out, groups), journal, workers, ray, on_total, on_images)
        remove_leftovers(out)  # of workers that were lost on the way
        on_phase("writing the indexes")
        described = finish(out, job, _about(folder, groups, dataset), journal.shards)
        write_atomically(out / DATASET_NAME, json.dumps(described, indent=2) + "\n", sync=True)
        journal.remove()
    finally:
        journal.close()
    return described, False


def readdress_part(
    folder: Path,
    out: Path,
    part: Part,
    *,
    workers: int = 1,
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_images: Callable[[int], object] = lambda count: None,
) -> Sequence[ShardRecord] | None:
    """Write one part of the shards into ``out``, where other parts may be written at the same time.

    Returns:
        The part's shards; None where the parts are merged already.

    Raises:
        ValueError, OSError: as of ``readdress``; or there are parts of another kind.
    """
    _check_places(folder, out)
    groups, dataset = find_groups(folder), read_dataset(folder)
    check_jpegtran()
    jobs = _jobs(folder, out, groups)
    names = [one.shard.name for one in jobs]
    journal = open_part(out, part, "readdress", _job(groups, dataset), _about(folder, groups, dataset), names)
    if journal is None:
        return None
    try:
        _write(part.share(jobs), journal, workers, None, on_total, on_images)
        return journal.shards
    finally:
        journal.close()


def _jobs(folder: Path, out: Path, groups: Sequence[Group]) -> list[ShardJob]:
    return [ShardJob(folder, out, group.split, shard, group.members) for group in groups for shard in group.shards]


def _write(
    jobs: Sequence[ShardJob],
    journal: Journal,
    workers: int,
    ray: str | None,
    on_total: Callable[[int, int], object],
    on_images: Callable[[int], object],
) -> None:
    """Write those of the shards that the journal does not have."""
    written = {record.name for record in journal.shards}
    rest = [one for one in jobs if one.shard.name not in written]
    total = sum(one.shard.num_samples for one in jobs)
    on_total(total, total - sum(one.shard.num_samples for one in rest))
    write_shards(readdress_shard, rest, workers, journal, on_images, ray=ray)


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
    jobs: Sequence[Job],
    workers: int,
    journal: Journal,
    on_images: Callable[[int], object],
    *,
    ray: str | None = None,
) -> None:
    """Write the shards and record each as soon as it is whole."""
    for _, record in as_done(write, jobs, workers, ray=ray):
        journal.add(record)
        on_images(record.num_samples)


def _about(folder: Path, groups: Sequence[Group], dataset: dict[str, Any] | None) -> dict[str, Any]:
    """What ``finish`` has to know of the old shards, as JSON can hold it."""
    known = dataset or {"format_version": FORMAT_VERSION, "source": f"shards:{folder}", "classes": None, "rejected": 0}
    rejected = folder / REJECTED_NAME
    return {
        # Those two are made anew, in their places.
        "known": {name: None if name in ("splits", "job") else value for name, value in known.items()},
        "groups": [
            {
                "split": group.split,
                "shards": [shard.name for shard in group.shards],
                "members": group.members._asdict(),
                "excluded": [asdict(sample) for sample in group.excluded],
            }
            for group in groups
        ],
        "rejected": rejected.read_bytes().decode("utf-8", "surrogateescape") if rejected.is_file() else None,
    }


def finish(out: Path, job: dict[str, Any], about: dict[str, Any], shards: Sequence[ShardRecord]) -> dict[str, Any]:
    """Write the indexes and the lists of what is left out; returns the content of dataset.json, the caller's to write.

    Args:
        shards: all of them, in any order.
    """
    splits = {}
    for group in about["groups"]:
        split, excluded = group["split"], [ExcludedSample(**sample) for sample in group["excluded"]]
        paths = [out / name for name in group["shards"]]
        index = build_index(out, split, paths, **group["members"], leave_out_faulty=bool(excluded))
        if excluded:
            add_samples(exclusion_path(out, split), index.fingerprint, excluded)
        records = sorted((one for one in shards if one.split == split), key=lambda one: one.name)
        splits[split] = describe_split(index, records, len(about["known"]["classes"] or []))
    if about["rejected"] is not None:
        write_atomically(out / REJECTED_NAME, about["rejected"], sync=False)
    return {**about["known"], "splits": splits, "job": job}
