"""The journals of a conversion's parts: one a part, in the folder of the shards, until they are merged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.shards.dataset import read_finished
from tools.shards.journal import JOURNAL_NAME, Journal, describe_difference, part_journals, read_head
from tools.shards.parts.part import Part
from tools.shards.parts.versions import describe_versions, versions

COMPARED = ("command", "of", "num_shards", "job", "versions")
"""What the heads of the parts of one conversion have in common."""


def open_part(
    out: Path, part: Part, command: str, job: dict[str, Any], about: dict[str, Any], planned: Sequence[str]
) -> Journal | None:
    """The journal of a part, begun or gone on with; None where the parts are merged already.

    Makes the folder, and removes what a killed call of this part left half-written: other parts may be at work there.

    Args:
        command: which command's part it is.
        job: all that decides on the bytes.
        about: what else a merge has to know, as JSON can hold it.
        planned: names of the shards of all parts.

    Raises:
        ValueError: the folder holds something else: other parts, a conversion in one piece, or foreign shards.
        OSError: the disk refuses.
    """
    if read_finished(out, job, in_parts=True) is not None:
        return None
    if (out / JOURNAL_NAME).exists():
        raise ValueError(
            f"{out}: holds an unfinished conversion without --part; finish it without, remove it, or choose another "
            "--out"
        )
    head = {
        "command": command,
        "part": part.number,
        "of": part.count,
        "num_shards": len(planned),
        "job": job,
        "versions": versions(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for path in part_journals(out):
        if (other := read_head(path)) is not None and (why := difference(other, head)):
            raise ValueError(
                f"{out}: holds {path.name} of another conversion ({why}); repeat its settings, or choose another --out"
            )
    journal = Journal(out, head, part.file_name("conversion", ".jsonl"), about)
    mine = {Path(name).stem for name in part.share(planned)}
    for leftover in out.glob(".*.tmp"):
        if leftover.name[1:].partition(".")[0] in mine:
            leftover.unlink(missing_ok=True)
    return journal


def difference(other: dict[str, Any], head: dict[str, Any]) -> str:
    """Why two heads are not of parts of one conversion; empty where they are."""
    whys = []
    if other["command"] != head["command"]:
        whys.append(f"by {other['command']}, now {head['command']}")
    if other["of"] != head["of"]:
        whys.append(f"in {other['of']} parts, now in {head['of']}")
    if other["job"] != head["job"]:
        whys.append(describe_difference(other["job"], head["job"]))
    elif other["num_shards"] != head["num_shards"]:
        whys.append(f"{other['num_shards']} shards, now {head['num_shards']}")
    if found := describe_versions(other["versions"], head["versions"]):
        whys.append(f"made by other versions: {found}")
    return ", ".join(whys)
