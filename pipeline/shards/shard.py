"""One shard as an index knows it, and what an index raises of shards that it does not fit."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.shards.level import Level
from pipeline.shards.tars import Fault


class StaleIndexError(ValueError):
    """The tars are no longer those from which the index was built."""


class BadShardsError(ValueError):
    """Some samples cannot be indexed; ``faults`` names each of them."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        first = "; ".join(str(fault) for fault in faults[:3])
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        super().__init__(f"{len(faults)} fault(s) in the shards, so no index was written: {first}{more}")


@dataclass(frozen=True)
class Shard:
    """One tar as it was when it was indexed. ``digest`` covers its headers, labels and image sizes."""

    name: str
    size_bytes: int
    mtime_ns: int
    num_samples: int
    digest: str


def fingerprint_of(shards: Sequence[Shard]) -> str:
    """The fingerprint of an index over these shards."""
    return fingerprints_on_the_way(shards)[-1]


def fingerprints_on_the_way(shards: Sequence[Shard]) -> list[str]:
    """Those of the first shard alone, of the first two, and so on to all of them: of what a set was as it grew."""
    found, sha = [], hashlib.sha256(b"[")
    for number, shard in enumerate(shards):
        facts = json.dumps([shard.name, shard.size_bytes, shard.num_samples, shard.digest])
        sha.update(f"{', ' if number else ''}{facts}".encode())
        whole = sha.copy()
        whole.update(b"]")
        found.append(whole.hexdigest())
    return found


def without_samples(fingerprint: str, excluded: Sequence[int]) -> str:
    """The fingerprint of an index of which samples are left out, by their ids in ascending order."""
    if not excluded:
        return fingerprint
    return hashlib.sha256(json.dumps([fingerprint, excluded]).encode()).hexdigest()


def with_levels(fingerprint: str, levels: Sequence[tuple[Level, str]]) -> str:
    """The fingerprint of an index that is read with its levels, each with that of its own index."""
    if not levels:
        return fingerprint
    return hashlib.sha256(json.dumps([fingerprint, *levels]).encode()).hexdigest()
