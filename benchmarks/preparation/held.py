"""What a folder of shards holds, in digests that leave out when its files were written."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.shards.index import list_splits, read_index

_COLUMNS = ("shard", "offset", "length", "label", "width", "height")


def digests(folder: Path) -> dict[str, Any]:
    """SHA-256 over all tars, over all index rows, and over the other files; the fingerprints; and how many there are.

    tars, others: over names and contents. rows: of every index, with keys, extensions and what it says of shards.
    """
    indexes = [read_index(folder / f"{split}.index") for split in list_splits(folder)]
    rows = hashlib.sha256()
    for index in indexes:
        for name in _COLUMNS:
            rows.update(getattr(index, name).tobytes())
        ids = range(len(index.shard))
        rows.update(json.dumps([[index.key(i), index.extension(i)] for i in ids]).encode())
        shards = [[one.name, one.size_bytes, one.num_samples, one.digest] for one in index.shards]
        rows.update(json.dumps(shards).encode())
    files = sorted(path for path in folder.iterdir() if path.is_file())
    tars = [path for path in files if path.suffix == ".tar"]
    others = [path for path in files if path.suffix not in (".tar", ".index")]
    return {
        "num_samples": sum(index.num_samples for index in indexes),
        "num_tars": len(tars),
        "tars": _over(tars),
        "rows": rows.hexdigest(),
        "fingerprints": {index.split: index.fingerprint for index in indexes},
        "num_others": len(others),
        "others": _over(others),
    }


def _over(files: Iterable[Path]) -> str:
    sha = hashlib.sha256()
    for path in files:
        sha.update(json.dumps([path.name, hashlib.sha256(path.read_bytes()).hexdigest()]).encode())
    return sha.hexdigest()
