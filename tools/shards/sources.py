"""Where images come from: folders, CSV files, Parquet files, torchvision data sets, Fashion-MNIST.

A source is a list of named images per split and a function that reads one of them. Readers are plain objects that
travel to worker processes, and reading is the workers' part.
"""

import csv
import hashlib
import inspect
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tools.shards.fashion_mnist import CLASSES, FILES, find_fashion_mnist, read_fashion_mnist

KINDS = "fashion-mnist, fashion-mnist:DIR, imagefolder:DIR, csv:FILE, parquet:DIR, torchvision:NAME"
_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

RawImage = bytes | Image.Image
ReadSample = Callable[[int], tuple[RawImage, int]]


@dataclass(frozen=True)
class SourceSplit:
    """names: one per image, for messages and for the keyed order. read: position -> (image, label).

    blocks: positions that are cheap to read together share a number (the row groups of Parquet files).
    """

    names: list[str]
    read: ReadSample
    blocks: list[int] | None = None


@dataclass(frozen=True)
class Source:
    """classes: names in label order; empty where the source does not know them before all labels are read."""

    classes: list[str]
    splits: dict[str, SourceSplit]
    labels_digest: str = ""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over classes, names and stated labels, to tell whether a source is still the same."""
        sha = hashlib.sha256(json.dumps([self.classes, self.labels_digest]).encode())
        for split, content in self.splits.items():
            sha.update(json.dumps([split, content.names]).encode())
        return sha.hexdigest()


def open_source(spec: str, root: Path) -> Source:
    """The source that a command line names, for example `imagefolder:photos`. root: where downloads are kept.

    Raises ValueError or FileNotFoundError where it is unknown, missing or holds no images.
    """
    kind, _, place = spec.partition(":")
    if kind == "fashion-mnist":
        source = _open_fashion_mnist(Path(place) if place else None, root)
    elif kind not in ("imagefolder", "csv", "parquet", "torchvision"):
        raise ValueError(f"unknown source '{spec}'; allowed are {KINDS}")
    elif not place:
        raise ValueError(f"source '{kind}' needs a place after a colon; allowed are {KINDS}")
    elif kind == "imagefolder":
        source = _open_image_folder(Path(place))
    elif kind == "csv":
        source = _open_csv(Path(place))
    elif kind == "parquet":
        source = _open_parquet(Path(place))
    else:
        source = _open_torchvision(place, root)
    splits = source.splits
    if "val" not in splits and "test" in splits and "train" in splits:
        # Many data sets publish only train and test; runs look for `val`.
        splits = {("val" if name == "test" else name): split for name, split in splits.items()}
    for name, split in splits.items():
        if not split.names:
            raise ValueError(f"{spec}: no images in split '{name}'")
    return Source(source.classes, splits, source.labels_digest)


@dataclass(frozen=True)
class _ArrayReader:
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def __call__(self, position: int) -> tuple[RawImage, int]:
        return Image.fromarray(self.images[position]), int(self.labels[position])


def _open_fashion_mnist(folder: Path | None, root: Path) -> Source:
    folder = find_fashion_mnist(folder, root)
    splits = {}
    for split in FILES:
        images, labels = read_fashion_mnist(folder, split)
        names = [f"fashion-mnist/{split}/{number}" for number in range(len(images))]
        splits[split] = SourceSplit(names, _ArrayReader(images, labels))
    return Source(list(CLASSES), splits)


@dataclass(frozen=True)
class _FileReader:
    folder: Path
    paths: list[str]
    labels: list[int]

    def __call__(self, position: int) -> tuple[RawImage, int]:
        return (self.folder / self.paths[position]).read_bytes(), self.labels[position]


def _open_image_folder(folder: Path) -> Source:
    """Classes are folders; where the folders are splits (train, val, ...), the classes are a level further down."""
    below = _folders_in(folder)
    split_folders = [name for name in below if name in _SPLIT_NAMES]
    if "train" in split_folders and len(split_folders) < len(below) and len(split_folders) > 1:
        others = ", ".join(name for name in below if name not in _SPLIT_NAMES)
        raise ValueError(f"{folder}: holds the splits {', '.join(split_folders)}, but also {others}; move it away")
    tops = dict.fromkeys(["."], "train")
    if "train" in split_folders and len(split_folders) == len(below):
        tops = {name: _SPLIT_NAMES[name] for name in sorted(below, key=lambda name: name != "train")}
        if len(set(tops.values())) < len(tops):
            raise ValueError(f"{folder}: {', '.join(tops)}: two of these name the same split")

    classes = _folders_in(folder / next(iter(tops)))
    splits = {}
    for top, split in tops.items():
        here = _folders_in(folder / top)
        if unknown := sorted(set(here) - set(classes)):
            raise ValueError(f"{folder / top}: class folders that train does not have: {', '.join(unknown[:10])}")
        if stray := [path.name for path in (folder / top).iterdir() if path.suffix.lower() in _STRAY_SUFFIXES]:
            raise ValueError(
                f"{folder / top}: {len(stray)} image(s) lie outside of the class folders, such as {min(stray)}"
            )
        paths, labels = [], []
        for name in here:
            files = _files_below(folder, Path(top) / name)
            paths += files
            labels += [classes.index(name)] * len(files)
        splits[split] = SourceSplit(paths, _FileReader(folder, paths, labels))
    return Source(classes, splits)


_STRAY_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _folders_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise ValueError(f"{folder}: holds no class folders; an image folder is FOLDER/CLASS/IMAGE")
    return names


def _files_below(root: Path, folder: Path) -> list[str]:
    """Paths relative to root of every file that is not hidden: what is no image will be rejected by name."""
    found = []
    for top, _, names in os.walk(root / folder, followlinks=True):
        found += [os.path.relpath(os.path.join(top, name), root) for name in names if not name.startswith(".")]
    return sorted(found)


def _open_csv(file: Path) -> Source:
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
    split = SourceSplit(paths, _FileReader(file.parent, paths, labels))
    return Source(classes, {"train": split}, hashlib.sha256(json.dumps(labels).encode()).hexdigest())


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


def _open_parquet(folder: Path) -> Source:
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    by_split: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        by_split.setdefault(_SPLIT_NAMES.get(path.name.split("-")[0].split(".")[0], "train"), []).append(path)
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
            classes = _read_parquet_classes(path, parquet.schema_arrow) or classes
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


def _read_parquet_classes(path: Path, schema: pa.Schema) -> list[str]:
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


@dataclass(frozen=True)
class _TorchvisionReader:
    dataset: Any

    def __call__(self, position: int) -> tuple[RawImage, int]:
        samples = getattr(self.dataset, "samples", None)
        if samples is not None and isinstance(samples[position][0], str | os.PathLike):
            return Path(samples[position][0]).read_bytes(), samples[position][1]  # the file as it is, undecoded
        image, label = self.dataset[position]
        if not isinstance(image, Image.Image):
            raise ValueError(f"gives {type(image).__name__} for an image")
        try:
            return image, int(label)
        except (TypeError, ValueError):
            raise ValueError(f"gives {label!r} for a label, not an integer") from None


def _open_torchvision(name: str, root: Path) -> Source:
    from torchvision import datasets  # takes seconds to import, and only this source needs it

    found = getattr(datasets, name, None)
    if not inspect.isclass(found):
        raise ValueError(f"torchvision.datasets has no '{name}'; see its documentation for the names")
    maker: Callable[..., Any] = found
    parameters = inspect.signature(maker).parameters
    settings: dict[str, Any] = {}
    if "root" in parameters:
        settings["root"] = str(root)
    if "download" in parameters:
        settings["download"] = True
    made: dict[str, Any] = {}
    try:
        if "train" in parameters:
            made = {"train": maker(train=True, **settings), "val": maker(train=False, **settings)}
        elif "split" in parameters:
            made["train"] = maker(split="train", **settings)
            for split in ("val", "test"):
                try:
                    made[split] = maker(split=split, **settings)
                except ValueError:
                    continue  # this data set has no split of that name
        else:
            made["train"] = maker(**settings)
    except (RuntimeError, TypeError, OSError, ImportError) as error:
        raise ValueError(f"torchvision:{name} cannot be opened under {root}: {error}") from error
    splits = {}
    for split, dataset in made.items():
        names = [f"{name}/{split}/{number}" for number in range(len(dataset))]
        splits[split] = SourceSplit(names, _TorchvisionReader(dataset))
    classes = getattr(made["train"], "classes", None) or []
    # ImageNet's classes are tuples of synonyms.
    return Source([entry if isinstance(entry, str) else ", ".join(entry) for entry in classes], splits)
