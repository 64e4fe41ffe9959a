"""What a command says of a part that is done."""

import json
from collections.abc import Sequence
from pathlib import Path

from tools.shards.journal import ShardRecord
from tools.shards.parts.part import Part


def print_part(part: Part, shards: Sequence[ShardRecord] | None, out: Path, as_json: bool) -> int:
    """For people or for programs; returns the exit code, 0: whether too many images were rejected is told by merge.

    shards: of the part; None where the parts are merged already.
    """
    records = shards or ()
    num_shards, num_samples = sum(one.num_samples > 0 for one in records), sum(one.num_samples for one in records)
    num_bytes, rejected = sum(one.size_bytes for one in records), sum(len(one.rejected) for one in records)
    if as_json:
        numbers = {"num_shards": num_shards, "num_samples": num_samples, "num_bytes": num_bytes, "rejected": rejected}
        print(json.dumps({"part": str(part), "was_merged": shards is None, **numbers}, indent=2))
    elif shards is None:
        print(f"{out} holds this very conversion already, with its parts merged; nothing to do")
    else:
        print(
            f"part {part}: {num_samples:,} images in {num_shards} shards, {num_bytes / 1e6:,.1f} MB, "
            f"{rejected} rejected; when all parts are done: python -m tools.shards merge {out}"
        )
    return 0
