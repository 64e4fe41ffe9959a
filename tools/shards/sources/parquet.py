"""A folder of Parquet files in the layout of Hugging Face."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.shards.classes import most_classes
from pipeline.shards.splits import SPLITS
from tools.shards.sources.junk import PassedOver, without_junk
from tools.shards.sources.source import (
    RawImage,
    Source,
    SourceKind,
    SourceOptions,
    SourceSplit,
)
from tools.shards.sources.split_map import divide_files

Columns = tuple[str, str]
"""Names of the columns of images and of labels."""


class _ParquetReader:
    """Reads a row group at a time and keeps the last one, so positions of one block should come together.

    labels: of each file, what its labels are called here; None where they are the same.
    """

    def __init__(
        self,
        files: list[Path],
        groups: list[tuple[int, int]],
        starts: npt.NDArray[np.int64],
        columns: Columns,
        labels: list[list[int] | None],
    ) -> None:
        self.files, self.groups, self.starts = files, groups, starts  # group -> (file, row group), first position
        self.columns, self.labels = columns, labels
        self._last: tuple[int, Any] = (-1, None)

    def __call__(self, position: int) -> tuple[RawImage, int]:
        group = int(np.searchsorted(self.starts, position, side="right")) - 1
        file, row_group = self.groups[group]
        if self._last[0] != group:
            table = pq.ParquetFile(self.files[file]).read_row_group(row_group, columns=list(self.columns))
            self._last = (group, table.combine_chunks())
        row = position - int(self.starts[group])
        image, label = (self._last[1][name][row].as_py() for name in self.columns)
        data = image["bytes"] if isinstance(image, dict) else image
        if data is None:
            raise ValueError("the row holds no image bytes")
        if label is None:
            raise ValueError("the row holds no label")
        renamed = self.labels[file]
        if renamed is not None and label >= len(renamed):
            raise ValueError(f"its label is {label}; its file names classes 0 to {len(renamed) - 1}")
        return data, label if renamed is None else renamed[label]


def _open(place: str, root: Path, options: SourceOptions) -> Source:
    folder = Path(place)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    columns = (options.image_column or "image", options.label_column or "label")
    passed_over = PassedOver()
    found = sorted(PurePosixPath(path.relative_to(folder)) for path in folder.rglob("*.parquet"))
    if not (found := without_junk(found, passed_over)):
        raise FileNotFoundError(f"{folder}: no .parquet file in it or below")
    by_split = divide_files(place, found, options.split_map)
    order = [split for split in SPLITS if split in by_split]
    names = {path: _read_names(folder / path, columns) for split in order for path in by_split[split]}
    by_file = {str(path): ones for path, ones in names.items()}
    classes, renamed = join_names(place, by_file)
    if not options.join_classes:
        _check_numbers(place, by_file, classes, renamed)
    sha = hashlib.sha256()
    if columns != ("image", "label"):
        sha.update(json.dumps(columns).encode())
    splits, highest, num_rows = {}, -1, 0
    for split in order:
        splits[split], labels = _open_split(folder, by_split[split], columns, renamed)
        for one in labels:
            sha.update(json.dumps(one).encode())
            highest = max(highest, max((label for label in one if label is not None), default=-1))
            num_rows += len(one)
    if not classes and highest >= most_classes(num_rows):
        raise ValueError(
            f"{place}: holds label {highest} in {num_rows} rows, which names no classes; labels may go up to "
            f"{most_classes(num_rows) - 1}. Number the classes from 0, or name another column with --label-column"
        )
    return Source(classes, splits, sha.hexdigest(), passed_over)


def _open_split(
    folder: Path, files: Sequence[PurePosixPath], columns: Columns, renamed: dict[str, list[int] | None]
) -> tuple[SourceSplit, list[list[int | None]]]:
    """The split's images, and the labels of each of its files."""
    groups: list[tuple[int, int]] = []
    starts: list[int] = []
    names: list[str] = []
    blocks: list[int] = []
    labels: list[list[int | None]] = []
    for number, path in enumerate(files):
        parquet = pq.ParquetFile(folder / path)
        column = parquet.read(columns=[columns[1]])[columns[1]].combine_chunks()
        if len(column) and (lowest := column.to_numpy(zero_copy_only=False).min()) < 0:
            raise ValueError(
                f"{folder / path}: holds label {lowest}; move this file away if it belongs to an unlabelled test set"
            )
        labels.append(_translated(column.to_pylist(), renamed[str(path)]))
        names += [f"{path}:{row}" for row in range(len(column))]
        for group in range(parquet.num_row_groups):
            starts.append(len(blocks))
            blocks += [len(groups)] * parquet.metadata.row_group(group).num_rows
            groups.append((number, group))
    reader = _ParquetReader(
        [folder / path for path in files],
        groups,
        np.array(starts, dtype=np.int64),
        columns,
        [renamed[str(path)] for path in files],
    )
    return SourceSplit(names, reader, blocks), labels


def _translated(labels: list[int | None], renamed: list[int] | None) -> list[int | None]:
    if renamed is None:
        return labels
    return [renamed[label] if label is not None and label < len(renamed) else label for label in labels]


def join_names(place: str, names: dict[str, list[str]]) -> tuple[list[str], dict[str, list[int] | None]]:
    """One list of class names for all files, and for each file the label that each of its own stands for.

    None in the place of a file's list: its names are all names, in their order. A file may name fewer classes than
    another, in any order. Raises ValueError where names cannot be joined: one of the files has none, or knows others.

    Args:
        names: of each file, in the order of its labels; empty where it has none.
    """
    longest = max(names, key=lambda path: len(names[path]))  # of several the first, which is one of train
    classes = names[longest]
    numbers = {name: number for number, name in enumerate(classes)}
    renamed: dict[str, list[int] | None] = {}
    for path, ones in names.items():
        if ones == classes:
            renamed[path] = None
            continue
        if not ones:
            raise ValueError(
                f"{place}: {longest} names its classes and {path} does not, so it is not known what its labels stand "
                "for; convert them apart, or write both with the same features"
            )
        if unknown := [name for name in ones if name not in numbers]:
            raise ValueError(
                f"{place}: {path} names classes that {longest} does not have: {', '.join(map(str, unknown[:10]))}; "
                "its labels cannot be joined with the others; convert them apart, or write both with the same names"
            )
        if len(numbers) < len(classes) or len(set(ones)) < len(ones):
            raise ValueError(f"{place}: {longest} and {path} differ in the order of their classes, and name one twice")
        renamed[path] = [numbers[name] for name in ones]
    return classes, renamed


def _check_numbers(
    place: str, names: dict[str, list[str]], classes: list[str], renamed: dict[str, list[int] | None]
) -> None:
    """Raises ValueError where a label stands for one class in a file and for another in the next."""
    for path, numbers in renamed.items():
        for label, number in enumerate(numbers or []):
            if label != number:
                raise ValueError(
                    f"{place}: label {label} is {names[path][label]!r} in {path}, {classes[label]!r} in other files; "
                    "--join-classes joins them by their names"
                )


def _read_names(path: Path, columns: Columns) -> list[str]:
    """The class names that Hugging Face stores beside the columns, or none. Raises ValueError on other columns."""
    schema = pq.read_schema(path)
    held = ", ".join(f"{field.name} ({field.type})" for field in schema)
    image, label = (schema.field(name).type if name in schema.names else None for name in columns)
    if image is not None and pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if image is None or not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise ValueError(
            f"{path}: needs a column `{columns[0]}` (bytes, or a struct with bytes); it holds {held}; name the column "
            "of the images with --image-column"
        )
    if label is None or not pa.types.is_integer(label):
        raise ValueError(
            f"{path}: needs a column `{columns[1]}` of integers; it holds {held}; name the column of the labels with "
            "--label-column"
        )
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return list(features.get(columns[1], {}).get("names") or [])


SOURCE = SourceKind(
    "parquet",
    "DIR",
    _open,
    order=40,
    about="columns image,label",
    takes=("--split-map", "--image-column", "--label-column", "--join-classes"),
)
