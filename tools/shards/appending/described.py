"""``dataset.json`` of a set to which shards were appended."""

from collections.abc import Sequence
from typing import Any

from pipeline.shards.classes import count_labels
from pipeline.shards.index import ShardIndex
from tools.shards.levels.resize import sum_levels
from tools.shards.tally import sum_tallies

_SUMS = {"addressable": sum_tallies, "level": sum_levels}


def with_appended(
    dataset: dict[str, Any], index: ShardIndex, sha256: dict[str, str], others: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    """What it says of one split afterwards; what it says of the making of the rest stays.

    Args:
        index: of the split as it is now.
        sha256: of each shard that is new, by its name.
        others: what the dataset.json of each place that they are of says of their split; None where there is none. What
            is not counted of all images is then left out.
    """
    old = dataset["splits"][index.split]
    counts = count_labels(index, len(dataset["classes"] or []))
    split = old | {
        "num_samples": index.num_samples,
        "num_shards": len(old["sha256"]) + len(sha256),
        "num_bytes": sum(shard.size_bytes for shard in index.shards),
        "class_counts": None if counts is None else counts.tolist(),
        "fingerprint": index.fingerprint,
        "sha256": {**old["sha256"], **sha256},
    }
    for name in _SUMS.keys() & old.keys():
        tallies = [one[name] for one in [old, *others] if one is not None and name in one]
        if len(tallies) == 1 + len(others):
            split[name] = _SUMS[name](tallies)
        else:
            del split[name]
    job = dataset["job"]
    if "level" in job:
        job = {**job, "level": {**job["level"], "made_from": _made_from(index)}}
    return {**dataset, "splits": {**dataset["splits"], index.split: split}, "job": job}


def _made_from(level: ShardIndex) -> str:
    assert level.level is not None
    return level.level.made_from
