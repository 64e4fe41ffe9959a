"""A source of labelled images -> WebDataset shards with their indexes and ``dataset.json``.

What is written depends on the source and the settings alone: not on who writes it, on how many hosts, nor on whether
the conversion was stopped and started again. (The sample indexes also record when their shards were written.)
Within a split the images lie in an order keyed by seed and name.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import write_atomically
from tools.shards.addressable import check_jpegtran
from tools.shards.conversion.finish import about, finish
from tools.shards.conversion.plan import Settings, Span, divide, job_of, plan_shards, span
from tools.shards.conversion.shard import Maker
from tools.shards.dataset import DATASET_NAME, read_finished
from tools.shards.journal import Journal, ShardRecord
from tools.shards.parts.journals import open_part
from tools.shards.parts.part import Part
from tools.shards.pool import as_done
from tools.shards.sources.source import Source
from tools.shards.whole_file import remove_leftovers

__all__ = ["DATASET_NAME", "Conversion", "Settings", "convert", "divide"]


@dataclass(frozen=True)
class Conversion:
    """What a conversion made. dataset: the content of dataset.json; was_finished: nothing was left to do."""

    dataset: dict[str, Any]
    was_finished: bool


def convert(
    source: Source,
    spec: str,
    out: Path,
    settings: Settings,
    *,
    workers: int = 1,
    ray: str | None = None,
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_images: Callable[[int], object] = lambda count: None,
    on_phase: Callable[[str], object] = lambda phase: None,
) -> Conversion:
    """Writes the shards of all splits into ``out``, going on where an earlier call with the same settings stopped.

    spec: how the source was named, for dataset.json. ray: a Ray cluster, see ``pool.as_done``. on_total(total, done),
    on_images(count) and on_phase(text) report progress in images. Raises ValueError where ``out`` holds something else
    or no image is usable, OSError where the disk refuses or jpegtran is wanted and missing.
    """
    if ray is not None:
        _check_planned(settings, "--ray")
    divided, job = divide(source, settings), job_of(source, settings)
    if (finished := read_finished(out, job)) is not None:
        return Conversion(finished, was_finished=True)
    if settings.encoding.transcodes:
        check_jpegtran()
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out, job)
    try:
        remove_leftovers(out)
        maker = Maker.of(source, divided, out, settings)
        planned = plan_shards(divided, settings.shard_samples)
        if settings.shard_bytes is None:
            _write_planned(maker, planned, journal, workers, ray, on_total, on_images)
        else:
            _write_by_bytes(maker, planned, journal, workers, on_total, on_images)
        remove_leftovers(out)  # of workers that were lost on the way
        on_phase("writing the indexes")
        dataset = finish(out, job, about(source, spec, list(divided)), journal.shards)
        write_atomically(out / DATASET_NAME, json.dumps(dataset, indent=2) + "\n", sync=True)
        journal.remove()
    finally:
        journal.close()
    return Conversion(dataset, was_finished=False)


def convert_part(
    source: Source,
    spec: str,
    out: Path,
    settings: Settings,
    part: Part,
    *,
    workers: int = 1,
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_images: Callable[[int], object] = lambda count: None,
) -> Sequence[ShardRecord] | None:
    """Writes one part of the shards into ``out``, where other parts may be written at the same time.

    Returns the part's shards, or None where the parts are merged already. Raises what ``convert`` raises, and
    ValueError where there are parts of another kind or bytes are to end shards.
    """
    _check_planned(settings, "--part")
    divided, job = divide(source, settings), job_of(source, settings)
    if settings.encoding.transcodes:
        check_jpegtran()
    planned = plan_shards(divided, settings.shard_samples)
    names = [one.name for one in planned]
    journal = open_part(out, part, "convert", job, about(source, spec, list(divided)), names)
    if journal is None:
        return None
    try:
        maker = Maker.of(source, divided, out, settings)
        _write_planned(maker, part.share(planned), journal, workers, None, on_total, on_images)
        return journal.shards
    finally:
        journal.close()


def _check_planned(settings: Settings, option: str) -> None:
    if settings.shard_bytes is not None:
        raise ValueError(
            f"--shard-bytes with {option}: where bytes end a shard, only its writer knows where the next begins, so "
            "that nobody else can write that; give --shard-samples alone"
        )


def _write_planned(
    maker: Maker,
    planned: Sequence[Span],
    journal: Journal,
    workers: int,
    ray: str | None,
    on_total: Callable[[int, int], object],
    on_images: Callable[[int], object],
) -> None:
    """Write those of the planned shards that the journal does not have, and record each."""
    written = {record.name for record in journal.shards}
    rest = [one for one in planned if one.name not in written]
    total = _positions(planned)
    on_total(total, total - _positions(rest))
    if ray is not None:
        for one, record in as_done(maker, rest, workers, ray=ray):
            journal.add(record)
            on_images(one.stop - one.start)
        return
    for split in maker.divided:
        mine = [one for one in rest if one.split == split]
        if not mine:
            continue
        _, positions = maker.divided[split]
        wanted = np.concatenate([positions[one.start : one.stop] for one in mine])
        prepared = maker.prepared(split, wanted, workers)
        for one in mine:
            journal.add(maker.write(one, prepared, on_images))


def _positions(spans: Sequence[Span]) -> int:
    return sum(one.stop - one.start for one in spans)


def _write_by_bytes(
    maker: Maker,
    planned: Sequence[Span],
    journal: Journal,
    workers: int,
    on_total: Callable[[int, int], object],
    on_images: Callable[[int], object],
) -> None:
    """The same where a shard may end earlier than planned, so that each begins where the one before it ended."""
    done = {split: [one for one in journal.shards if one.split == split] for split in maker.divided}
    starts = {split: max((one.next_position for one in records), default=0) for split, records in done.items()}
    on_total(_positions(planned), sum(starts.values()))
    for split, (_, positions) in maker.divided.items():
        start, number = starts[split], len(done[split])
        prepared = maker.prepared(split, positions[start:], workers)
        while start < len(positions):
            most = min(start + maker.settings.shard_samples, len(positions))
            record = maker.write(span(split, number, start, most), prepared, on_images)
            journal.add(record)
            start, number = record.next_position, number + 1
