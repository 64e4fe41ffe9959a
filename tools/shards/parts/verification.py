"""A verification in parts: what each has found lies in the folder until the parts are merged."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.files import write_atomically
from pipeline.shards.index import index_path, read_index
from pipeline.shards.tars import Fault
from tools.shards.parts.part import Part, check_numbers
from tools.shards.parts.versions import describe_versions, versions
from tools.shards.verify import Report, ShardJob, fault_in, list_jobs, report_on, verify_shards


@dataclass(frozen=True)
class Found:
    """What a part has found. of: what it looked at and by what. faults: of each of its shards."""

    path: Path
    part: Part
    of: dict[str, Any]
    faults: list[list[Fault]]


@dataclass(frozen=True)
class Left:
    """What a part says at its end: where it keeps what it found, and each fault as a verification names it."""

    path: Path
    num_shards: int
    faults: list[Fault]


def verify_part(folder: Path, part: Part, *, workers: int = 1, show_progress: bool = False) -> Left:
    """Verify one share of a folder's shards and leave there what was found.

    Raises:
        FileNotFoundError, ValueError, OSError: as of ``verify_folder``; or the folder cannot be written.
    """
    jobs = list_jobs(folder)
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"{folder}: cannot be written, but a part leaves there what it finds until parts are merged"
        )
    mine = part.share(jobs)
    found = verify_shards(mine, workers=workers, show_progress=show_progress)
    path = folder / part.file_name("verification", ".json")
    content = {
        "part": part.number,
        "count": part.count,
        "of": _looked_at(jobs),
        "faults": [[asdict(fault) for fault in found[job]] for job in mine],
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n", sync=True)
    return Left(path, len(mine), [fault_in(folder, job, fault) for job in mine for fault in found[job]])


def found_files(folder: Path) -> list[Path]:
    """What parts of a verification have left in a folder."""
    return sorted(folder.glob("verification-*-of-*.json"))


def merge_found(folder: Path) -> Report:
    """What a verification in one piece would say. The parts' files stay: they are the caller's to remove.

    Raises:
        ValueError: parts are missing, or looked at other shards or with other versions; says which.
    """
    jobs = list_jobs(folder)
    now = _looked_at(jobs)
    parts = [_read(path) for path in found_files(folder)]
    for one in parts:
        if one.part.count != parts[0].part.count:
            raise ValueError(f"part {one.part} ({one.path.name}) and part {parts[0].part} are not of one; remove one")
        if why := _difference(one.of, now):
            raise ValueError(f"part {one.part} ({one.path.name}) {why}; run it again, then merge")
    check_numbers(folder, {one.path: one.part for one in parts})
    faults = [ones for found in sorted(parts, key=lambda one: one.part) for ones in found.faults]
    return report_on(folder, dict(zip(jobs, faults, strict=True)))


def _looked_at(jobs: list[ShardJob]) -> dict[str, Any]:
    """The shards as their indexes are, and the versions of what looks at them."""
    places = list(dict.fromkeys((job.folder, job.split) for job in jobs))
    indexes = [[split, read_index(index_path(folder, split)).fingerprint] for folder, split in places]
    return {"indexes": indexes, "sums": [job.sha256 for job in jobs], "versions": versions()}


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    if any(theirs[name] != ours[name] for name in ("indexes", "sums")):
        return "looked at other shards than those that are here now"
    differing = describe_versions(theirs["versions"], ours["versions"])
    return f"was run by other versions than the merge: {differing}" if differing else ""


def _read(path: Path) -> Found:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        faults = [[Fault(**fault) for fault in ones] for ones in content["faults"]]
        return Found(path, Part(content["part"], content["count"]), content["of"], faults)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not of a part of a verification ({type(error).__name__}: {error})") from None
