"""The fingerprints of shards, beside the slow and obvious way to them."""

import hashlib
import json

from pipeline.shards.level import Level
from pipeline.shards.shard import Shard, fingerprint_of, fingerprints_on_the_way, with_levels, without_samples


def digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def test_a_fingerprint_is_of_all_shards_and_on_the_way_of_the_first_ones() -> None:
    shards = [Shard(f"träin-{number}.tar", 1000 + number, 77, number, f"digest {number}") for number in range(4)]
    facts = [[shard.name, shard.size_bytes, shard.num_samples, shard.digest] for shard in shards]
    assert fingerprint_of(shards) == digest(facts)
    assert fingerprints_on_the_way(shards) == [digest(facts[: number + 1]) for number in range(4)]


def test_samples_that_are_left_out_and_levels_change_it() -> None:
    assert without_samples("abc", []) == with_levels("abc", []) == "abc"
    assert without_samples("abc", [3, 7]) == digest(["abc", [3, 7]])
    levels = [(Level(64, "made"), "of 64"), (Level(32, "made"), "of 32")]
    assert with_levels("abc", levels) == digest(["abc", [[64, "made"], "of 64"], [[32, "made"], "of 32"]])
