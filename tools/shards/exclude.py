"""Writes the lists of samples that the loader leaves out, from what a verification or a run has found."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.shards.exclusion import ExcludedSample, Exclusion, add_samples, exclusion_path, known_samples
from pipeline.shards.index import ShardIndex
from pipeline.shards.tars import Fault


def exclude_faulty(indexes: Sequence[ShardIndex], faults: Sequence[Fault]) -> dict[Path, Exclusion]:
    """Adds every sample that a fault names to the list of its split; returns the lists by their paths.

    Faults of whole shards name no sample and change nothing. A list made for other shards is begun anew.
    """
    written = {}
    for index in indexes:
        reasons: dict[tuple[str, str], str] = {}
        for fault in faults:
            if fault.key:
                reasons.setdefault(sample_of(fault), fault.reason)
        path = exclusion_path(index.folder, index.split)
        samples = [sample for name, reason in reasons.items() for sample in _entries(index, *name, reason)]
        if samples or known_samples(path, index.fingerprint):
            written[path] = add_samples(path, index.fingerprint, samples)
    return written


def sample_of(fault: Fault) -> tuple[str, str]:
    """Shard and key of the sample that a fault names; one at a level is the sample itself."""
    return fault.shard.rpartition("/")[2], fault.key


def read_bad_samples(path: Path) -> list[Fault]:
    """The samples in a run's bad_samples.jsonl. Raises ValueError where the file is something else."""
    faults = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            faults.append(Fault(str(entry["shard"]), str(entry["key"]), str(entry["cause"])))
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: not a line of a run's bad_samples.jsonl") from None
    return faults


def _entries(index: ShardIndex, shard: str, key: str, reason: str) -> list[ExcludedSample]:
    """A sample of this index as often as its key occurs in the shard (nearly always once); [] if it is of another."""
    numbers = [number for number, one in enumerate(index.shards) if one.name == shard]
    if not numbers:
        return []
    start, stop = np.searchsorted(index.shard, [numbers[0], numbers[0] + 1]).tolist()
    ids: list[int | None] = [i for i in range(start, stop) if index.key(i) == key]
    return [ExcludedSample(shard, key, reason, i) for i in ids or [None]]
