"""What the ranks of a run have had from the stores that its shards lie in, between two lines of metrics."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from engine.ranks.world import World
from pipeline.shards.index import ShardIndex
from pipeline.storage.shard_files import Traffic


class StoreTraffic:
    """Counts from the moment that it is made."""

    def __init__(self, indexes: Sequence[ShardIndex], world: World) -> None:
        self._traffics: list[Traffic] = [index.remote.traffic for index in indexes if index.remote is not None]
        self._world = world
        self._told = self._now()

    def line(self, step: int) -> dict[str, Any] | None:
        """The line of a step, about what came since the one before; None where no shards lie in a store. Collective."""
        if not self._traffics:
            return None
        now = self._now()
        # float64 counts bytes exactly, up to 9 PB; a device that has none of it is no device of this program's.
        since = torch.tensor([new - old for new, old in zip(now, self._told, strict=True)], dtype=torch.float64)
        since = since.to(self._world.device)
        dist.all_reduce(since)
        self._told = now
        num_bytes, num_files, wait_s = since.tolist()
        return {
            "event": "store",
            "step": step,
            "fetched_bytes": int(num_bytes),
            "fetched_files": int(num_files),
            "store_wait_s": wait_s,
        }

    def _now(self) -> tuple[float, float, float]:
        each = [(one.num_bytes, one.num_files, one.wait_s) for one in self._traffics]
        return sum(one[0] for one in each), sum(one[1] for one in each), sum(one[2] for one in each)
