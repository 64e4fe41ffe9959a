"""A folder of Parquet files in the layout of Hugging Face."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tools.shards.sources.source import SPLIT_NAMES, RawImage, Source, SourceKind, SourceSplit


class _ParquetReader:
    """Reads a row group at a time and keeps the last one, so positions of one block should come together."""

    def __init__(self, files: list[Path], groups: list[tuple[int, int]], starts: npt.NDArray[np.int64]) -> None:
        self.files, self.groups, self.starts = files, groups, starts  # group -> (file, row group), first position
        self._last: tuple[int, Any] = (-1, None)

    def __call__(self, position: int) -> tuple[RawImage, int]:
        group = int(np.searchsorted(self.starts, position, side="right")) - 1
        if self._last[0] != group:
            file, row_group = self.groups[group]
            table = pq.ParquetFile(self.files[file]).read_row_group(row_group, columns=["image", "label"])
            self._last = (group, table.combine_chunks())
        row = position - int(self.starts[group])
        table = self._last[1]
        image, label = table["image"][row].as_py(), table["label"][row].as_py()
        data = image["bytes"] if isinstance(image, dict) else image
        if data is None:
            raise ValueError("the row holds no image bytes")
        if label is None:
            raise ValueError("the row holds no label")
        return data, label


def _open(place: str, root: Path) -> Source:
    folder = Path(place)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    by_split: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        by_split.setdefault(SPLIT_NAMES.get(path.name.split("-")[0].split(".")[0], "train"), []).append(path)
    if not by_split:
        raise FileNotFoundError(f"{folder}: no .parquet file in it or below")
    classes: list[str] = []
    splits = {}
    sha = hashlib.sha256()
    for split in sorted(by_split, key=["train", "val", "test"].index):
        files = by_split[split]
        groups: list[tuple[int, int]] = []
        starts: list[int] = []
        names: list[str] = []
        blocks: list[int] = []
        for number, path in enumerate(files):
            parquet = pq.ParquetFile(path)
            classes = _read_classes(path, parquet.schema_arrow) or classes
            labels = parquet.read(columns=["label"])["label"].combine_chunks()
            if len(labels) and (lowest := labels.to_numpy(zero_copy_only=False).min()) < 0:
                raise ValueError(
                    f"{path}: holds label {lowest}; move this file away if it belongs to an unlabelled test set"
                )
            sha.update(json.dumps(labels.to_pylist()).encode())
            names += [f"{path.relative_to(folder)}:{row}" for row in range(len(labels))]
            for group in range(parquet.num_row_groups):
                starts.append(len(blocks))
                blocks += [len(groups)] * parquet.metadata.row_group(group).num_rows
                groups.append((number, group))
        reader = _ParquetReader(files, groups, np.array(starts, dtype=np.int64))
        splits[split] = SourceSplit(names, reader, blocks)
    return Source(classes, splits, sha.hexdigest())


def _read_classes(path: Path, schema: pa.Schema) -> list[str]:
    """The class names that Hugging Face stores beside the columns, or none. Raises ValueError on other columns."""
    image = schema.field("image").type if "image" in schema.names else None
    if image is not None and pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if image is None or not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        held = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise ValueError(f"{path}: needs a column `image` (bytes, or a struct with bytes); it holds {held}")
    if "label" not in schema.names or not pa.types.is_integer(schema.field("label").type):
        held = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise ValueError(f"{path}: needs a column `label` of integers; it holds {held}")
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return list(features.get("label", {}).get("names") or [])


SOURCE = SourceKind("parquet", "DIR", _open, order=40, about="columns image,label")
