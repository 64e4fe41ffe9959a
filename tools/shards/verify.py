"""Holds the indexes of a folder, its tars and every image against one another."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
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
from tools.shards.pool import as_done
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
    folder: Path,
    *,
    workers: int = 1,
    ray: str | None = None,
    show_progress: bool = False,
    splits: Collection[str] | None = None,
) -> Report:
    """Reads every shard that an index of the folder names and decodes every image, as the loader and as Pillow do.

    Levels beside the shards are verified with them, as folders of shards and as smaller images of these samples.
    splits: look at the indexes of these alone, and not for tars that none names. ray: a Ray cluster, see
    ``pool.as_done``. Raises FileNotFoundError where there is no index, ValueError where an index or dataset.json cannot
    be read, OSError where the loader's decoder cannot work.
    """
    jobs = list_jobs(folder, splits)
    return report_on(folder, verify_shards(jobs, workers=workers, ray=ray, show_progress=show_progress), splits)


@dataclass(frozen=True)
class ShardJob:
    """One shard; the worker maps the index itself. sha256: what dataset.json says of the shard, if anything."""

    folder: Path
    split: str
    number: int
    num_samples: int
    sha256: str | None


def list_jobs(folder: Path, splits: Collection[str] | None = None) -> list[ShardJob]:
    """The shards that a verification reads: those of the levels, then the folder's own."""
    indexes = _chosen(folder, splits)
    jobs = [job for place in _levels(folder, indexes) for job in list_jobs(place, splits)]
    stated = (read_dataset(folder) or {}).get("splits", {})
    for index in indexes:
        sums = stated.get(index.split, {}).get("sha256", {})
        jobs += [
            ShardJob(folder, index.split, number, shard.num_samples, sums.get(shard.name))
            for number, shard in enumerate(index.shards)
        ]
    return jobs


def verify_shards(
    jobs: Sequence[ShardJob], *, workers: int = 1, ray: str | None = None, show_progress: bool = False
) -> dict[ShardJob, list[Fault]]:
    """The faults of each shard."""
    found = {}
    total = sum(job.num_samples for job in jobs)
    with tqdm(total=total, unit="img", disable=not show_progress, mininterval=bar_interval_s()) as bar:
        for job, faults in as_done(_verify_shard, jobs, workers, ray=ray):
            found[job] = faults
            bar.update(job.num_samples)
    return found


def report_on(folder: Path, found: Mapping[ShardJob, list[Fault]], splits: Collection[str] | None = None) -> Report:
    """What a verification says whose shards, all of ``list_jobs``, have these faults. Reads the indexes alone.

    Raises:
        FileNotFoundError, ValueError: as of ``verify_folder``.
    """
    indexes = _chosen(folder, splits)
    dataset = read_dataset(folder)
    faults = [fault for index in indexes for fault in check_levels(folder, index)]
    places = _levels(folder, indexes)
    reports = [report_on(place, found, splits) for place in places]
    for place, report in zip(places, reports, strict=True):
        faults += [_at_level(place, fault) for fault in report.faults]
    indexed = {shard.name for index in indexes for shard in index.shards}
    for path in list_tars(folder):
        if path.name not in indexed and splits is None:
            faults.append(Fault(path.name, "", "no index names this tar, so its samples are not used"))
    for index in indexes:
        stated = (dataset or {}).get("splits", {}).get(index.split)
        faults += _compare_with_dataset(index, stated) if stated else []
        faults += _check_exclusion(index)
    mine = [job for job in list_jobs(folder, splits) if job.folder == folder]
    faults += [fault for job in mine for fault in found[job]]
    known = {
        (sample.shard, sample.key)
        for index in indexes
        for sample in known_samples(exclusion_path(index.folder, index.split), index.fingerprint)
    }
    faults = [fault for fault in faults if sample_of(fault) not in known]
    num_shards = len(mine) + sum(report.num_shards for report in reports)
    num_samples = sum(index.num_samples for index in indexes) + sum(report.num_samples for report in reports)
    return Report(num_shards, num_samples, faults, len(known))


def fault_in(folder: Path, job: ShardJob, fault: Fault) -> Fault:
    """A shard's fault as a verification of the folder names it."""
    return fault if job.folder == folder else _at_level(job.folder, fault)


def _at_level(place: Path, fault: Fault) -> Fault:
    return replace(fault, shard=f"{place.name}/{fault.shard}")


def _chosen(folder: Path, splits: Collection[str] | None) -> list[ShardIndex]:
    return [index for index in read_indexes(folder) if splits is None or index.split in splits]


def _levels(folder: Path, indexes: Sequence[ShardIndex]) -> list[Path]:
    pixels = sorted({pixels for index in indexes for pixels in indexed_levels(folder, index)}, reverse=True)
    return [level_folder(folder, one) for one in pixels]


def read_indexes(folder: Path) -> list[ShardIndex]:
    """All indexes of a folder. Raises FileNotFoundError where there is none, ValueError where one is damaged."""
    if not folder.is_dir():
        raise FileNotFoundError(f"shard folder {folder} does not exist")
    if not (splits := list_splits(folder)):
        raise FileNotFoundError(f"{folder}: no index; make one with: python -m tools.shards index {folder}")
    return [read_index(index_path(folder, split)) for split in splits]


def _verify_shard(job: ShardJob) -> list[Fault]:
    """The faults of a shard."""
    index = read_index(index_path(job.folder, job.split))
    shard = index.shards[job.number]
    path = index.folder / shard.name
    rows = _rows_of(index, job.number)
    if not path.is_file():
        return [Fault(shard.name, "", f"is in {job.split}.index, but not in the folder")]
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
    return faults + check_images(path, scan.rows)


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
