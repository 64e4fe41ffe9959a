"""A source of labelled images -> WebDataset shards with their indexes and ``dataset.json``.

What is written depends on the source and the settings alone, not on the number of workers, nor on whether the
conversion was stopped and started again. (The sample indexes also record when their shards were written.)
Within a split the images lie in an order keyed by seed and name.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.files import write_atomically
from pipeline.shards.classes import most_classes
from pipeline.shards.index import ShardIndex, build_index
from tools.shards.addressable import check_jpegtran
from tools.shards.dali_index import write_dali_index
from tools.shards.dataset import DATASET_NAME, FORMAT_VERSION, REJECTED_NAME, describe_split, read_finished
from tools.shards.files import ShardWriter
from tools.shards.images import Encoding
from tools.shards.journal import Journal, Rejected, ShardRecord
from tools.shards.sources.source import Source, SourceSplit
from tools.shards.tally import Tally
from tools.shards.units_files import write_units_files
from tools.shards.workers import Prepared, prepare_in_order


@dataclass(frozen=True)
class Settings:
    """What shapes the result. shard_samples and shard_bytes: a shard is full when it reaches either."""

    val_fraction: float = 0.0
    shard_samples: int = 1000
    shard_bytes: int = 500_000_000
    seed: int = 0
    encoding: Encoding = field(default_factory=Encoding)

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val-fraction {self.val_fraction}; allowed is 0 up to, but not including, 1")
        for name, value in (("shard-samples", self.shard_samples), ("shard-bytes", self.shard_bytes)):
            if value < 1:
                raise ValueError(f"{name} {value}; allowed is 1 or more")


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
    on_total: Callable[[int, int], object] = lambda total, done: None,
    on_images: Callable[[int], object] = lambda count: None,
    on_phase: Callable[[str], object] = lambda phase: None,
) -> Conversion:
    """Writes the shards of all splits into ``out``, going on where an earlier call with the same settings stopped.

    spec: how the source was named, for dataset.json. on_total(total, done), on_images(count) and on_phase(text)
    report progress in images; a second total is that of images that are looked through for their units. Raises
    ValueError where ``out`` holds something else or no image is usable, OSError where the disk refuses or jpegtran is
    wanted and missing.
    """
    parts = divide(source, settings)
    job = _job(source, settings)
    if (finished := read_finished(out, job)) is not None:
        return Conversion(finished, was_finished=True)
    if settings.encoding.transcodes:
        check_jpegtran()
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out, job)
    try:
        for leftover in out.glob(".*.tmp"):
            leftover.unlink()
        done = {split: _position(journal, split) for split in parts}
        on_total(sum(len(positions) for _, positions in parts.values()), sum(done.values()))
        rejected: list[Rejected] = []
        num_classes = len(source.classes) or most_classes(sum(len(positions) for _, positions in parts.values()))
        for split, (content, positions) in parts.items():
            prepared = prepare_in_order(content.read, positions[done[split] :], settings.encoding, num_classes, workers)
            tail = _write_split(out, split, content.names, positions, prepared, settings, journal, on_images)
            rejected += [entry for shard in journal.shards if shard.split == split for entry in shard.rejected]
            rejected += tail
            if not any(shard.split == split for shard in journal.shards):
                _write_rejected(out, rejected)
                raise ValueError(
                    f"split '{split}' has no usable image: all {len(positions)} were rejected, the first because "
                    f"{rejected[-1]['reason']}; see {out / REJECTED_NAME}"
                )
        on_phase("writing the indexes")
        _write_rejected(out, rejected)
        indexes = _write_indexes(out, list(parts), journal.shards)
        if settings.encoding.addressable:
            on_total(sum(index.num_samples for index in indexes.values()), 0)
            on_phase("writing where the units lie")
            write_units_files(list(indexes.values()), workers=workers, on_images=on_images)
        dataset = _describe(indexes, job, spec, source, journal.shards, len(rejected))
        write_atomically(out / DATASET_NAME, json.dumps(dataset, indent=2) + "\n", sync=True)
        journal.remove()
    finally:
        journal.close()
    return Conversion(dataset, was_finished=False)


def divide(source: Source, settings: Settings) -> dict[str, tuple[SourceSplit, npt.NDArray[np.int64]]]:
    """Output split -> where it comes from and the positions there, in the order in which they are written.

    Which images are held out, and the order, are keyed by seed and name: neither depends on how the source lists
    them, and an image that joins the source moves no other from one split to another.
    """
    if settings.val_fraction and set(source.splits) != {"train"}:
        raise ValueError(f"the source has splits of its own ({', '.join(source.splits)}); leave --val-fraction out")
    parts = {}
    for split, content in source.splits.items():
        order = _keyed_order(content, settings.seed)
        if not settings.val_fraction:
            parts[split] = (content, order)
            continue
        draws = np.array([_hash(settings.seed, "val", name) for name in content.names], dtype=np.uint64)
        held_out = (draws / 2.0**64)[order] < settings.val_fraction
        for name, chosen in (("train", order[~held_out]), ("val", order[held_out])):
            if not len(chosen):
                raise ValueError(
                    f"--val-fraction {settings.val_fraction} leaves no image for split '{name}' "
                    f"of {len(content.names)}; choose another fraction or seed"
                )
            parts[name] = (content, chosen)
    return parts


def _job(source: Source, settings: Settings) -> dict[str, Any]:
    """All that decides on the bytes. How the source was named is not part of it: a folder may be moved."""
    values = asdict(settings)
    encoding = values.pop("encoding")
    if not encoding["addressable"]:
        del encoding["addressable"]  # as in folders that were made before there was the choice
    return {
        "format_version": FORMAT_VERSION,
        **encoding,
        **values,
        "fingerprint": source.fingerprint,
    }


def _keyed_order(content: SourceSplit, seed: int) -> npt.NDArray[np.int64]:
    draws = np.array([_hash(seed, "order", name) for name in content.names], dtype=np.uint64)
    if content.blocks is None:
        return np.argsort(draws, kind="stable")
    # Blocks first, so that each is read once: images of different blocks do not mix, and need not, because the
    # loader shuffles the whole split.
    blocks = np.array(content.blocks)
    block_draws = np.array(
        [_hash(seed, "block", str(block)) for block in range(int(blocks.max()) + 1)], dtype=np.uint64
    )
    return np.lexsort((draws, block_draws[blocks]))


def _hash(seed: int, purpose: str, name: str) -> int:
    text = f"{seed}\0{purpose}\0{name}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _position(journal: Journal, split: str) -> int:
    return max((shard.next_position for shard in journal.shards if shard.split == split), default=0)


def _write_split(
    out: Path,
    split: str,
    names: list[str],
    positions: npt.NDArray[np.int64],
    prepared: Iterator[Prepared],
    settings: Settings,
    journal: Journal,
    on_images: Callable[[int], object],
) -> list[Rejected]:
    """Writes the rest of a split's shards. Returns what was rejected behind the last of them."""
    mine = [shard for shard in journal.shards if shard.split == split]
    number, key = len(mine), sum(shard.num_samples for shard in mine)
    rejected: list[Rejected] = []
    reencoded = Counter[str]()
    writer: ShardWriter | None = None
    tally = Tally()
    start = _position(journal, split)

    def finish(writer: "ShardWriter", next_position: int) -> None:
        size_bytes, sha256 = writer.finish()
        record = ShardRecord(split, writer.name, writer.num_samples, size_bytes, sha256, next_position, rejected.copy())
        record = replace(record, reencoded=dict(reencoded))
        journal.add(replace(record, addressable=tally.as_json()) if settings.encoding.addressable else record)
        rejected.clear()
        reencoded.clear()

    try:
        for step, result in enumerate(prepared, start):
            on_images(1)
            if isinstance(result, str):
                rejected.append({"source": names[positions[step]], "reason": result})
                continue
            if writer is None:
                writer, tally = ShardWriter(out, f"{split}-{number:06d}.tar"), Tally()
            writer.add(f"{key:08d}", (result.data, result.extension, result.label))
            if result.stored is not None:
                tally.add(result.stored)
            if result.reencoded:
                reencoded[result.reencoded] += 1
            key += 1
            if writer.num_samples == settings.shard_samples or writer.num_bytes >= settings.shard_bytes:
                finish(writer, step + 1)
                writer = None
                number += 1
        if writer is not None:
            finish(writer, len(positions))
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    return rejected


def _write_indexes(out: Path, splits: list[str], shards: list[ShardRecord]) -> dict[str, ShardIndex]:
    indexes = {}
    for split in splits:
        paths = [out / shard.name for shard in shards if shard.split == split]
        indexes[split] = build_index(out, split, paths, on_shard=write_dali_index)
    return indexes


def _describe(
    indexes: dict[str, ShardIndex],
    job: dict[str, Any],
    spec: str,
    source: Source,
    shards: list[ShardRecord],
    num_rejected: int,
) -> dict[str, Any]:
    """The content of dataset.json."""
    num_classes = len(source.classes) or 1 + max(index.max_label for index in indexes.values())
    splits, reencoded = {}, Counter[str]()
    for shard in shards:
        reencoded.update(shard.reencoded or {})
    for split, index in indexes.items():
        mine = [shard for shard in shards if shard.split == split]
        splits[split] = describe_split(index, mine, num_classes)
    return {
        "format_version": FORMAT_VERSION,
        "source": spec,
        "classes": source.classes or [str(label) for label in range(num_classes)],
        "splits": splits,
        "rejected": num_rejected,
        "passed_over": dict(sorted(source.passed_over.items())),
        "reencoded": dict(sorted(reencoded.items())),
        "job": job,
    }


def _write_rejected(out: Path, rejected: list[Rejected]) -> None:
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected)
    write_atomically(out / REJECTED_NAME, text, sync=True)
