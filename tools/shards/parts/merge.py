"""The parts of a conversion -> what one machine would have left beside the shards."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import write_atomically
from tools.shards.conversion.finish import finish as finish_conversion
from tools.shards.dataset import DATASET_NAME, read_dataset
from tools.shards.journal import Journal, ShardRecord, part_journals, read_head
from tools.shards.parts.journals import COMPARED, difference
from tools.shards.parts.part import Part, check_numbers
from tools.shards.readdress import finish as finish_readdressing
from tools.shards.whole_file import remove_leftovers

Finish = Callable[[Path, dict[str, Any], dict[str, Any], Sequence[ShardRecord]], dict[str, Any]]

# Each writes what stands beside the shards, from (out, job, about, records), and returns the content of dataset.json.
FINISH: dict[str, Finish] = {"convert": finish_conversion, "readdress": finish_readdressing}


@dataclass(frozen=True)
class _Left:
    """What a part has left. head: the first line of its journal."""

    path: Path
    part: Part
    head: dict[str, Any]


def merge(
    out: Path,
    *,
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_phase: Callable[[str], object] = lambda phase: None,
) -> tuple[dict[str, Any], bool]:
    """Join the parts of a conversion in their folder.

    Args:
        on_total, on_phase: told (samples, samples), all of which are written, and what is done now.

    Returns:
        The content of ``dataset.json``, and whether the parts were merged already.

    Raises:
        ValueError: parts are missing, unfinished, doubled, differ or are at work, or a split has no usable image; says
            which.
        OSError: the disk refuses.
    """
    if not out.is_dir():
        raise FileNotFoundError(f"{out}: no such folder; name the --out of the parts")
    left = _read(out)
    if (dataset := read_dataset(out)) is not None:
        # A merge that was killed has left journals behind.
        for one in left:
            if one.head["job"] != dataset["job"]:
                raise ValueError(f"{one.path}: is of another conversion than {out / DATASET_NAME}; remove one of them")
            one.path.unlink()
        return dataset, True
    if not left:
        raise ValueError(
            f"{out}: holds no parts; they are made with --part K/N (parts of score need no merge: their files are all "
            "there is)"
        )
    _check_alike(left)
    check_numbers(out, {one.path: one.part for one in left})
    with ExitStack() as stack:
        journals = []
        for one in left:
            journals.append(_opened(out, one))
            stack.callback(journals[-1].close)
        _check_shards(out, left, journals)
        records = [record for journal in journals for record in journal.shards]
        num_samples = sum(record.num_samples for record in records)
        on_total(num_samples, num_samples)
        on_phase("writing the indexes")
        remove_leftovers(out)
        first = left[0].head
        dataset = FINISH[first["command"]](out, first["job"], first["about"], records)
        write_atomically(out / DATASET_NAME, json.dumps(dataset, indent=2) + "\n", sync=True)
        for journal in journals:
            journal.remove()
    return dataset, False


def _read(out: Path) -> list[_Left]:
    found = []
    for path in part_journals(out):
        try:
            if (head := read_head(path)) is None:
                raise ValueError(f"{path}: its part has only begun; run it again")
            found.append(_Left(path, Part(head["part"], head["of"]), head))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not the journal of a part ({type(error).__name__}: {error})") from None
    return found


def _check_alike(left: Sequence[_Left]) -> None:
    """All are parts of what most of them are of."""
    kinds = [json.dumps({name: one.head[name] for name in COMPARED}, sort_keys=True) for one in left]
    [(kind, _)] = Counter(kinds).most_common(1)
    usual = left[kinds.index(kind)]
    for one in left:
        if why := difference(one.head, usual.head):
            raise ValueError(
                f"part {one.part} ({one.path.name}) is of another conversion than part {usual.part}: {why}; make it "
                f"again as part {usual.part} was made, or remove its journal and its shards"
            )


def _opened(out: Path, one: _Left) -> Journal:
    """A part's journal, so that nobody writes to it meanwhile."""
    job = {key: value for key, value in one.head.items() if key != "about"}
    try:
        return Journal(out, job, one.path.name)
    except ValueError as error:
        raise ValueError(f"part {one.part}: {error}") from None


def _check_shards(out: Path, left: Sequence[_Left], journals: Sequence[Journal]) -> None:
    unfinished = []
    for one, journal in zip(left, journals, strict=True):
        planned = len(one.part.share(range(one.head["num_shards"])))
        if len({record.name for record in journal.shards}) < planned:
            unfinished.append(f"part {one.part} has {len(journal.shards)} of its {planned} shards")
    if unfinished:
        raise ValueError(f"{out}: {', '.join(unfinished)}; run the same command again to finish it, then merge")
    names = Counter(record.name for journal in journals for record in journal.shards)
    if doubled := sorted(name for name, count in names.items() if count > 1):
        holders = [
            str(one.part)
            for one, journal in zip(left, journals, strict=True)
            if any(record.name == doubled[0] for record in journal.shards)
        ]
        raise ValueError(
            f"{out}: {doubled[0]} was written by more than one call (part {' and '.join(holders)}); remove the journal "
            "of such a part and run it again, alone"
        )
