"""``dataset.json``: what a folder of shards holds, how it was made, and thereby whether it is finished."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.shards.classes import count_labels
from pipeline.shards.index import INDEX_SUFFIX, ShardIndex, index_path, open_index, read_index
from pipeline.shards.units import UNITS_SUFFIX
from tools.shards.journal import JOURNAL_NAME, ShardRecord, describe_difference, part_journals
from tools.shards.tally import sum_tallies

FORMAT_VERSION = 1
DATASET_NAME = "dataset.json"
REJECTED_NAME = "rejected.jsonl"


def read_dataset(folder: Path) -> dict[str, Any] | None:
    """dataset.json, or None where another program wrote the shards. Raises ValueError where it is damaged."""
    path = folder / DATASET_NAME
    if not path.exists():
        return None
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
        for split in dataset["splits"].values():
            split["fingerprint"], split["sha256"], split["class_counts"], dataset["classes"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    return dataset


def read_finished(out: Path, job: dict[str, Any], *, in_parts: bool = False) -> dict[str, Any] | None:
    """dataset.json of a finished conversion of this very job, or None where ``out`` is free to be written.

    in_parts: parts of a conversion may be there already. Raises ValueError where it holds something else, or where the
    indexes no longer fit the shards.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; --out names a folder")
    if (out / JOURNAL_NAME).exists() or not out.exists():
        return None
    path = out / DATASET_NAME
    if not path.exists() and part_journals(out):
        if in_parts:
            return None
        raise ValueError(
            f"{out}: holds parts of a conversion; finish them with --part and join them with: "
            f"python -m tools.shards merge {out}; or choose another --out"
        )
    if not path.exists():
        suffixes = (".tar", ".idx", INDEX_SUFFIX, UNITS_SUFFIX)
        foreign = sorted(file.name for file in out.iterdir() if file.suffix in suffixes)
        if foreign:
            raise ValueError(
                f"{out}: holds {foreign[0]} and {len(foreign) - 1} more file(s) that no conversion here left behind; "
                "choose another --out"
            )
        return None
    try:
        dataset = json.loads(path.read_text())
        made = dataset["job"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: cannot be read; choose another --out or remove the folder") from None
    if made != job and not _gives_the_same(out, dataset, job):
        raise ValueError(
            f"{out}: holds the shards of another conversion ({describe_difference(made, job)}); "
            "choose another --out or remove the folder"
        )
    for split in dataset["splits"]:
        open_index(out, split)
    return dataset


def _gives_the_same(out: Path, dataset: dict[str, Any], job: dict[str, Any]) -> bool:
    """Whether a conversion from before keys were positions would give the same bytes as this job.

    It does where no image was rejected, and either with the same limits or with no shard that bytes have ended.
    """
    made = dataset["job"]
    if "keys" in made or "shard_samples" not in made or "keys" not in job or dataset["rejected"]:
        return False
    shards = [read_index(index_path(out, split)).shards for split in dataset["splits"]]
    if all(one.num_samples == made["shard_samples"] for ones in shards for one in ones[:-1]):
        made = {**made, "shard_bytes": job["shard_bytes"] and made["shard_bytes"]}
    return {**made, "keys": job["keys"]} == job


def describe_split(index: ShardIndex, shards: Sequence[ShardRecord], num_classes: int) -> dict[str, Any]:
    """What dataset.json holds of a split whose shards were recorded in the order of their names.

    class_counts: None where the labels are too far apart to be counted one by one (``count_labels``).
    """
    counts = count_labels(index, num_classes)
    described = {
        "num_samples": index.num_samples,
        "num_shards": len(shards),
        "num_bytes": sum(shard.size_bytes for shard in shards),
        "class_counts": None if counts is None else counts.tolist(),
        "fingerprint": index.fingerprint,
        "sha256": {shard.name: shard.sha256 for shard in shards},
    }
    tallies = [shard.addressable for shard in shards if shard.addressable is not None]
    return described | ({"addressable": sum_tallies(tallies)} if tallies else {})
