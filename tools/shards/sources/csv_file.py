"""A CSV file that lists image files, seen from the file's folder, with their labels."""

import csv
import hashlib
import json
from pathlib import Path

from tools.shards.sources.source import FileReader, Source, SourceKind, SourceSplit


def _open(place: str, root: Path) -> Source:
    file = Path(place)
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    paths, texts = [], []
    with open(file, newline="", encoding="utf-8-sig") as lines:
        table = csv.DictReader(lines)
        if not {"path", "label"} <= set(table.fieldnames or ()):
            raise ValueError(f"{file}: needs the columns path and label, but its first line is {table.fieldnames}")
        for row in table:
            if not row["path"] or not row["label"]:
                raise ValueError(f"{file}, line {table.line_num}: path or label is empty")
            paths.append(row["path"])
            texts.append(row["label"].strip())
    classes: list[str] = []
    if all(text.isascii() and text.isdigit() for text in texts):
        labels = [int(text) for text in texts]
        classes = [str(label) for label in range(max(labels, default=-1) + 1)]
    else:
        classes = sorted(set(texts))
        numbers = {name: number for number, name in enumerate(classes)}
        labels = [numbers[text] for text in texts]
    split = SourceSplit(paths, FileReader(file.parent, paths, labels))
    return Source(classes, {"train": split}, hashlib.sha256(json.dumps(labels).encode()).hexdigest())


SOURCE = SourceKind("csv", "FILE", _open, order=30, about="columns path,label")
