"""What stands beside the shards of a conversion, once all of them are written."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.files import write_atomically
from pipeline.shards.index import ShardIndex, build_index
from tools.shards.dali_index import write_dali_index
from tools.shards.dataset import FORMAT_VERSION, REJECTED_NAME, describe_split
from tools.shards.journal import Rejected, ShardRecord
from tools.shards.sources.source import Source


def about(source: Source, spec: str, splits: Sequence[str]) -> dict[str, Any]:
    """What ``finish`` has to know of a source, as JSON can hold it. splits: of the shards, in order."""
    passed_over = dict(sorted(source.passed_over.items()))
    return {"source": spec, "classes": source.classes, "passed_over": passed_over, "splits": list(splits)}


def finish(out: Path, job: dict[str, Any], about: dict[str, Any], shards: Sequence[ShardRecord]) -> dict[str, Any]:
    """Write the indexes and ``rejected.jsonl``; returns ``dataset.json``, which the caller writes.

    Args:
        shards: all of them, in any order. One without a sample is not in the folder.

    Raises:
        ValueError: a split has no usable image.
    """
    by_split = {
        split: sorted((one for one in shards if one.split == split), key=lambda one: one.next_position)
        for split in about["splits"]
    }
    rejected = [entry for records in by_split.values() for one in records for entry in one.rejected]
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in rejected)
    write_atomically(out / REJECTED_NAME, text, sync=True)
    for split, records in by_split.items():
        by_split[split] = [one for one in records if one.num_samples]
        if not by_split[split]:
            raise ValueError(_nothing_in(split, [entry for one in records for entry in one.rejected], out))
    indexes = {
        split: build_index(out, split, [out / one.name for one in records], on_shard=write_dali_index)
        for split, records in by_split.items()
    }
    return _describe(job, about, indexes, by_split, shards)


def _nothing_in(split: str, rejected: Sequence[Rejected], out: Path) -> str:
    return (
        f"split '{split}' has no usable image: all {len(rejected)} were rejected, the first because "
        f"{rejected[0]['reason']}; see {out / REJECTED_NAME}"
    )


def _describe(
    job: dict[str, Any],
    about: dict[str, Any],
    indexes: dict[str, ShardIndex],
    by_split: dict[str, list[ShardRecord]],
    shards: Sequence[ShardRecord],
) -> dict[str, Any]:
    classes = about["classes"] or [str(label) for label in range(1 + max(one.max_label for one in indexes.values()))]
    reencoded = Counter[str]()
    for shard in shards:
        reencoded.update(shard.reencoded or {})
    return {
        "format_version": FORMAT_VERSION,
        "source": about["source"],
        "classes": classes,
        "splits": {split: describe_split(index, by_split[split], len(classes)) for split, index in indexes.items()},
        "rejected": sum(len(one.rejected) for one in shards),
        "passed_over": about["passed_over"],
        "reencoded": dict(sorted(reencoded.items())),
        "job": job,
    }
