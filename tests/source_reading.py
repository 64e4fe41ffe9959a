"""Files for a source of images, and everything that a source reads."""

import pickle
from pathlib import Path
from typing import Any

from tools.shards.sources.table import open_source


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read_all(spec: str, root: Path, split: str = "train") -> list[tuple[str, Any, int]]:
    content = pickle.loads(pickle.dumps(open_source(spec, root).splits[split]))  # as a worker process gets it
    return [(name, *content.read(position)) for position, name in enumerate(content.names)]
