"""Holds the indexes of a folder, its tars and every image against one another."""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.selection.maps import list_maps, map_path, open_shard_maps, score_command
from pipeline.shards.exclusion import exclusion_path, known_samples, read_exclusion
from pipeline.shards.index import Shard, ShardIndex, index_path, list_splits, read_index
from pipeline.shards.levels import level_folder
from pipeline.shards.splits import list_tars
from pipeline.shards.tars import Fault, Row, scan_shard
from tools.command import bar_interval_s
from tools.shards.dali_index import render_dali_index
from tools.shards.dataset import read_dataset
from tools.shards.decoding.images_check import check_images
from tools.shards.exclude import sample_of
from tools.shards.levels.check import check_levels, indexed_levels
from tools.shards.pool import worker_processes
from tools.shards.units_check import compare_units


@dataclass(frozen=True)
class Report:
    """What a verification looked at, and each fault that it found, but for those of ``num_excluded`` samples.

    They are on the lists of excluded samples, so the loader leaves them out.
    """

    num_shards: int
    num_samples: int
    faults: list[Fault]
    num_excluded: int = 0

    def as_json(self) -> dict[str, Any]:
        return {"ok": not self.faults, **asdict(self)}


def verify_folder(
    folder: Path, *, workers: int = 1, show_progress: bool = False, splits: Collection[str] | None = None
) -> Report:
    """Reads every shard that an index of the folder names and decodes every image, as the loader and as Pillow do.

    Levels beside the shards are verified with them, as folders of shards and as smaller images of these samples.
    splits: look at the indexes of these alone, and not for tars that none names. Raises FileNotFoundError where there
    is no index, ValueError where an index or dataset.json cannot be read, OSError where the loader's decoder cannot
    work.
    """
    indexes = [index for index in read_indexes(folder) if splits is None or index.split in splits]
    dataset = read_dataset(folder)
    faults = [fault for index in indexes for fault in check_levels(folder, index)]
    levels = sorted({pixels for index in indexes for pixels in indexed_levels(folder, index)}, reverse=True)
    places = [level_folder(folder, pixels) for pixels in levels]
    reports = [verify_folder(place, workers=workers, show_progress=show_progress, splits=splits) for place in places]
    for place, report in zip(places, reports, strict=True):
        faults += [replace(fault, shard=f"{place.name}/{fault.shard}") for fault in report.faults]
    indexed = {shard.name for index in indexes for shard in index.shards}
    for path in list_tars(folder):
        if path.name not in indexed and splits is None:
            faults.append(Fault(path.name, "", "no index names this tar, so its samples are not used"))
    jobs: list[_Job] = []
    for index in indexes:
        stated = (dataset or {}).get("splits", {}).get(index.split)
        faults += _compare_with_dataset(index, stated) if stated else []
        faults += _check_exclusion(index)
        sums = stated["sha256"] if stated else {}
        jobs += [
            _Job(str(folder), index.split, number, sums.get(shard.name)) for number, shard in enumerate(index.shards)
        ]
    num_samples = sum(index.num_samples for index in indexes)
    with tqdm(total=num_samples, unit="img", disable=not show_progress, mininterval=bar_interval_s()) as bar:
        for count, found in _run(jobs, workers):
            faults += found
            bar.update(count)
    known = {
        (sample.shard, sample.key)
        for index in indexes
        for sample in known_samples(exclusion_path(index.folder, index.split), index.fingerprint)
    }
    faults = [fault for fault in faults if sample_of(fault) not in known]
    num_shards = len(jobs) + sum(report.num_shards for report in reports)
    num_samples += sum(report.num_samples for report in reports)
    return Report(num_shards, num_samples, faults, len(known))


def read_indexes(folder: Path) -> list[ShardIndex]:
    """All indexes of a folder. Raises FileNotFoundError where there is none, ValueError where one is damaged."""
    if not folder.is_dir():
        raise FileNotFoundError(f"shard folder {folder} does not exist")
    if not (splits := list_splits(folder)):
        raise FileNotFoundError(f"{folder}: no index; make one with: python -m tools.shards index {folder}")
    return [read_index(index_path(folder, split)) for split in splits]


@dataclass(frozen=True)
class _Job:
    """One shard; the worker maps the index itself. sha256: what dataset.json says of the shard, if anything."""

    folder: str
    split: str
    number: int
    sha256: str | None


def _run(jobs: list[_Job], workers: int) -> Iterator[tuple[int, list[Fault]]]:
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from map(_verify_shard, jobs)
        return
    with worker_processes(workers) as pool:
        yield from pool.map(_verify_shard, jobs)


def _verify_shard(job: _Job) -> tuple[int, list[Fault]]:
    """Number of indexed samples of the shard, and its faults."""
    index = read_index(index_path(job.folder, job.split))
    shard = index.shards[job.number]
    path = index.folder / shard.name
    rows = _rows_of(index, job.number)
    if not path.is_file():
        return len(rows), [Fault(shard.name, "", f"is in {job.split}.index, but not in the folder")]
    scan = scan_shard(path, *index.members)
    faults = list(scan.faults)
    differing = _compare_rows(shard.name, rows, scan.rows)
    faults += differing
    if scan.digest != shard.digest and not differing:
        faults.append(Fault(shard.name, "", "headers or label members are not those that were indexed"))
    if job.sha256 is not None and _sha256(path) != job.sha256:
        faults.append(Fault(shard.name, "", "its SHA-256 is not the one in dataset.json"))
    beside = path.with_suffix(".idx")
    if beside.exists() and beside.read_text(encoding="utf-8", errors="surrogateescape") != render_dali_index(scan):
        faults.append(Fault(beside.name, "", "does not fit its tar"))
    if scan.digest == shard.digest:
        faults += compare_units(index.folder, shard, scan.rows)
    faults += _check_maps(index.folder, shard)
    return len(rows), faults + check_images(path, scan.rows)


def _check_maps(folder: Path, shard: Shard) -> list[Fault]:
    """The score maps of a shard that cannot be read, were made of other images, or are not as they were written."""
    faults = []
    for name in list_maps(folder):
        path = map_path(folder / shard.name, name)
        try:
            maps = open_shard_maps(folder, shard, name)
            if maps is not None:
                maps.check()
            elif path.is_file():
                raise ValueError(f"was made of other images; make it again with: {score_command(folder, name)}")
        except ValueError as error:
            faults.append(Fault(path.name, "", str(error)))
    return faults


def _rows_of(index: ShardIndex, number: int) -> list[Row]:
    """The index's rows of one shard, in plain Python numbers."""
    ends = np.cumsum(index.shard_sizes)
    start, end = int(ends[number] - index.shard_sizes[number]), int(ends[number])
    columns = (index.offset, index.length, index.label, index.width, index.height)
    numbers = zip(*(column[start:end].tolist() for column in columns), strict=True)
    return [Row._make((*row, index.key(i), index.extension(i))) for i, row in enumerate(numbers, start)]


def _compare_rows(name: str, indexed: list[Row], found: list[Row]) -> list[Fault]:
    faults = []
    there = {(row.key, row.offset): row for row in found}
    for row in indexed:
        match = there.pop((row.key, row.offset), None)
        if match is None:
            faults.append(Fault(name, row.key, f"is in the index at byte {row.offset}, but not so in the tar"))
        elif match != row:
            differences = ", ".join(
                f"{field} {value} in the index, {other} in the tar"
                for field, value, other in zip(Row._fields, row, match, strict=True)
                if value != other
            )
            faults.append(Fault(name, row.key, differences))
    faults += [
        Fault(name, row.key, f"is in the tar at byte {row.offset}, but not in the index") for row in there.values()
    ]
    return faults


def _compare_with_dataset(index: ShardIndex, stated: dict[str, Any]) -> list[Fault]:
    faults = []
    if index.fingerprint != stated["fingerprint"]:
        faults.append(Fault(f"{index.split}.index", "", "its fingerprint is not the one in dataset.json"))
    if stated["class_counts"] is not None and index.max_label >= len(stated["class_counts"]):
        reason = f"holds label {index.max_label}, but dataset.json has {len(stated['class_counts'])} classes"
        faults.append(Fault(f"{index.split}.index", "", reason))
    return faults


def _check_exclusion(index: ShardIndex) -> list[Fault]:
    path = exclusion_path(index.folder, index.split)
    if path.is_file() and read_exclusion(path).fingerprint != index.fingerprint:
        return [Fault(path.name, "", "was made for other shards; --exclude makes it anew")]
    return []


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
