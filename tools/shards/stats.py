"""Counts, classes and sizes of a folder of shards, from its indexes alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.shards.classes import count_labels, describe_gaps, readable
from pipeline.shards.index import ShardIndex
from pipeline.shards.units import open_units
from tools.shards.dataset import read_dataset
from tools.shards.images import DEFAULT_QUALITY
from tools.shards.levels.stats import describe_levels, level_stats
from tools.shards.tally import describe_tally
from tools.shards.verify import read_indexes

_ENCODING = ("format", "quality", "resize_shorter")


def collect_stats(folder: Path) -> dict[str, Any]:
    """{"classes": names or None, "encoding": or None, "splits": {split: counts and sizes}}, as JSON can hold it.

    encoding: format, quality and resize_shorter of the conversion, None where another program wrote the shards.
    class_counts, of a split: None where labels go so far beyond the number of samples that they number no classes; then
    samples_per_class is that of the labels that occur.
    addressable, of a split: the tally of the conversion (see ``Tally``); of shards of another program only its
    num_addressable, from the files of units, and None where there is none of these.
    levels, of a split: see ``level_stats``.
    """
    dataset = read_dataset(folder)
    classes = dataset["classes"] if dataset else None
    job = (dataset or {}).get("job", {})
    return {
        "classes": classes,
        "encoding": {name: job.get(name) for name in _ENCODING} if "format" in job else None,
        "splits": {
            index.split: _of_split(index, len(classes or []))
            | {
                "addressable": _addressable(index, (dataset or {}).get("splits", {}).get(index.split, {})),
                "levels": level_stats(folder, index),
            }
            for index in read_indexes(folder)
        },
    }


def _addressable(index: ShardIndex, stated: dict[str, Any]) -> dict[str, Any] | None:
    if "addressable" in stated:
        return stated["addressable"]
    opened = [units for shard in index.shards if (units := open_units(index.folder, shard)) is not None]
    return {"num_addressable": sum(units.num_addressable for units in opened)} if opened else None


def _of_split(index: ShardIndex, num_classes: int) -> dict[str, Any]:
    class_counts = count_labels(index, num_classes)
    counts = np.unique(index.label, return_counts=True)[1] if class_counts is None else class_counts
    return {
        "num_samples": index.num_samples,
        "num_shards": len(index.shards),
        "num_bytes": sum(shard.size_bytes for shard in index.shards),
        "image_bytes": _spread(index.length),
        "width": _spread(index.width),
        "height": _spread(index.height),
        "samples_per_class": _spread(counts),
        "class_counts": None if class_counts is None else class_counts.tolist(),
        "max_label": index.max_label,
    }


def _spread(values: npt.NDArray[Any]) -> dict[str, int]:
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def describe_stats(stats: dict[str, Any]) -> str:
    """The same as a text of a few lines."""
    lines = [] if stats["encoding"] is None else [_describe_encoding(**stats["encoding"])]
    for name, split in stats["splits"].items():
        lines += [
            f"{name}: {split['num_samples']:,} images in {split['num_shards']} shards, "
            f"{split['num_bytes'] / 1e6:,.1f} MB",
            f"  {'classes':<18} {_describe_classes(split, stats['classes'])}",
        ]
        for title, unit in (("width", " px"), ("height", " px"), ("image_bytes", "")):
            spread = split[title]
            values = f"min {spread['min']:,}, median {spread['median']:,}, max {spread['max']:,}{unit}"
            lines.append(f"  {title.replace('_', ' '):<18} {values}")
        more = [*_describe_addressable(split), *describe_levels(split["levels"])]
        lines += [f"  {title:<18} {text}" for title, text in more]
    return "\n".join([*lines, *gaps_between(stats["splits"], stats["classes"])])


def gaps_between(splits: dict[str, dict[str, Any]], classes: list[str] | None) -> list[str]:
    """A line for each way in which classes lack images; nothing where there is no train, or labels number no classes.

    splits: with ``class_counts``, as in ``dataset.json`` and in ``collect_stats``.
    """
    counts = {name: split["class_counts"] for name, split in splits.items() if split["class_counts"] is not None}
    trained = counts.pop("train", None) or counts.pop("all", None)
    return [] if trained is None else describe_gaps(trained, counts, classes or [])


def _describe_classes(split: dict[str, Any], classes: list[str] | None) -> str:
    if split["class_counts"] is None:
        return (
            f"labels go up to {split['max_label']:,} for {split['num_samples']:,} images, so they number no classes; "
            "classes are numbered from 0"
        )
    counts = np.array(split["class_counts"])
    rare, common = int(counts.argmin()), int(counts.argmax())
    names = [*map(readable, classes or []), *(f"label {label}" for label in range(len(classes or []), len(counts)))]
    return f"{len(counts)}, fewest {counts[rare]:,} ({names[rare]}), most {counts[common]:,} ({names[common]})"


def _describe_addressable(split: dict[str, Any]) -> list[tuple[str, str]]:
    tally = split["addressable"]
    if tally is None:
        return []
    if "not_addressable" in tally:
        return describe_tally(tally)
    return [("addressable", f"{tally['num_addressable']:,} of {split['num_samples']:,} images")]


def _describe_encoding(format: str, quality: int | None, resize_shorter: int | None) -> str:
    stored = "as they were" if format == "keep" else f"as {format}"
    if resize_shorter is not None:
        stored += f", shrunk to at most {resize_shorter} px on the shorter side"
    if resize_shorter is not None or format != "keep":
        stored += f"; quality {quality or DEFAULT_QUALITY} where JPEG or WebP was encoded anew"
    return f"images are stored {stored}"
