"""A CSV file that lists image files, seen from the file's folder, with their labels."""

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.shards.classes import most_classes
from pipeline.shards.splits import SPLIT_WORDS, SPLITS
from tools.shards.sources.source import FileReader, Source, SourceKind, SourceOptions, SourceSplit
from tools.shards.sources.split_map import SplitMap

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NO_LABEL = (
    "nan",
    "<na>",
    "-1",
)  # as pandas writes what is missing, and what stands for "unlabelled" nearly everywhere


@dataclass(frozen=True)
class _Row:
    """where: the file and the line, for errors."""

    where: str
    path: str
    label: str
    split: str


def _open(place: str, root: Path, options: SourceOptions) -> Source:
    file = Path(place)
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    try:
        rows = _read_rows(file, options)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: not a CSV file in UTF-8 ({error}); save it as one") from None
    classes, labels = read_labels([(row.where, row.label) for row in rows])
    splits = {}
    for split in SPLITS:
        chosen = [(row.path, label) for row, label in zip(rows, labels, strict=True) if row.split == split]
        if chosen or (split == "train" and not rows):
            paths = [path for path, _ in chosen]
            splits[split] = SourceSplit(paths, FileReader(file.parent, paths, [label for _, label in chosen]))
    return Source(classes, splits, hashlib.sha256(json.dumps(labels).encode()).hexdigest())


def _read_rows(file: Path, options: SourceOptions) -> list[_Row]:
    """Every line of the file. Without a column ``split`` all of them are train."""
    image, label = options.image_column or "path", options.label_column or "label"
    rows = []
    with open(file, newline="", encoding="utf-8-sig") as lines:
        table = csv.DictReader(lines)
        columns = table.fieldnames or ()
        if not {image, label} <= set(columns):
            raise ValueError(
                f"{file}: needs the columns {image} and {label}, but its first line is {table.fieldnames}; other "
                "columns are named with --image-column and --label-column"
            )
        for row in table:
            where = f"{file}, line {table.line_num}"
            if not row[image] or not (row[label] or "").strip():
                raise ValueError(f"{where}: {image} or {label} is empty; fill it in or remove the line")
            split = _split_of(row["split"], where, options.split_map) if "split" in columns else "train"
            rows.append(_Row(where, row[image], row[label].strip(), split))
    return rows


def _split_of(text: str | None, where: str, split_map: SplitMap) -> str:
    word = (text or "").strip()
    split = split_map.split_of(word) or SPLIT_WORDS.get(word.lower())
    if split is None:
        raise ValueError(
            f"{where}: its split is {word!r}; fill in another, or say which it is with --split-map 'NAME=SPLIT', SPLIT "
            f"being one of {', '.join(SPLITS)}"
        )
    return split


def read_labels(texts: list[tuple[str, str]]) -> tuple[list[str], list[int]]:
    """(where, label as written) of each row -> the class names, and each row's label.

    Where all labels are whole numbers (``3``, or ``3.0`` as pandas writes it) they are the labels, and the names their
    digits; else they are names, in text order. Raises ValueError on a missing label, on a negative one, on numbers that
    are not whole and on one far beyond the number of rows.
    """
    for where, text in texts:
        if text.lower() in _NO_LABEL:
            raise ValueError(f"{where}: its label is {text!r}, which is none; fill it in or remove the line")
    if not all(_NUMBER.fullmatch(text) for _, text in texts):
        classes = sorted({text for _, text in texts})
        numbers = {name: number for number, name in enumerate(classes)}
        return classes, [numbers[text] for _, text in texts]
    labels = [_number(where, text, len(texts)) for where, text in texts]
    return [str(label) for label in range(max(labels, default=-1) + 1)], labels


def _number(where: str, text: str, num_rows: int) -> int:
    value = float(text)
    if value >= most_classes(num_rows):
        raise ValueError(
            f"{where}: its label is {text}, but numbers of classes count from 0, up to {most_classes(num_rows) - 1} in "
            "a file of this length; where it is no number but a name, write it as one, such as id" + text
        )
    if value < 0 or not value.is_integer():
        raise ValueError(
            f"{where}: its label is {text}; numbers of classes are whole and count from 0. Where labels are names, "
            f"write them as names, such as class {text}"
        )
    return int(value)


SOURCE = SourceKind(
    "csv",
    "FILE",
    _open,
    order=30,
    about="columns path,label",
    takes=("--split-map", "--image-column", "--label-column"),
)
