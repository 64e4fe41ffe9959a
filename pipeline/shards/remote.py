"""Shards that lie in a store: what the index and ``dataset.json`` say of each, for whoever fetches it."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.shards.shard import Shard
from pipeline.shards.tars import Members, scan_shard
from pipeline.shards.units import units_path
from pipeline.storage.cache import CachedFile
from pipeline.storage.fetching import StoredFile
from pipeline.storage.shard_files import RemoteShards
from pipeline.storage.small_files import BesideFiles

DATASET_NAME = "dataset.json"


def remote_shards(
    beside: BesideFiles, split: str, shards: Sequence[Shard], fingerprint: str, members: Members
) -> RemoteShards:
    """Where the shards of an index lie, and how each is known to be what was indexed.

    That is by its SHA-256 where ``dataset.json`` tells it of these very shards; else by its headers, labels and image
    sizes, as a shard on a disk is whose modification time is another.

    Args:
        fingerprint: of the index, without what is excluded.
    """
    sha256 = _told_by(beside.folder / DATASET_NAME, split, fingerprint)
    return RemoteShards(
        tuple(_stored(beside, shard, sha256.get(shard.name), members) for shard in shards),
        tuple((str(units_path(Path(shard.name))),) for shard in shards),
        (beside,) * len(shards),
        beside.settings,
    )


def _stored(beside: BesideFiles, shard: Shard, sha256: str | None, members: Members) -> StoredFile:
    facts = json.dumps([shard.size_bytes, shard.digest, sha256])
    content = CachedFile(hashlib.sha256(facts.encode()).hexdigest()[:32], shard.size_bytes)
    misfit = partial(_misfit, shard=shard, members=members) if sha256 is None else _no_misfit
    return StoredFile(beside.address.join(shard.name), content, sha256, misfit)


def _misfit(path: Path, shard: Shard, members: Members) -> str:
    is_same = scan_shard(path, *members).digest == shard.digest
    return "" if is_same else "its headers, labels or image sizes differ"


def _no_misfit(path: Path) -> str:
    return ""


def _told_by(path: Path, split: str, fingerprint: str) -> dict[str, str]:
    """SHA-256 by the shard's name; nothing where the file tells of other shards, or there is none."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["splits"][split]
        return dict(told["sha256"]) if told["fingerprint"] == fingerprint else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
