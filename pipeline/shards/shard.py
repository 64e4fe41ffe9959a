"""One shard as an index knows it, and what an index raises of shards that it does not fit."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

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
    facts = [[shard.name, shard.size_bytes, shard.num_samples, shard.digest] for shard in shards]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
