"""Counts, classes and sizes of a folder of shards, from its indexes alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.shards.index import ShardIndex
from tools.shards.dataset import read_dataset
from tools.shards.images import DEFAULT_QUALITY
from tools.shards.verify import read_indexes


def collect_stats(folder: Path) -> dict[str, Any]:
    """{"classes": names or None, "encoding": or None, "splits": {split: counts and sizes}}, as JSON can hold it.

    encoding: format, quality and resize_shorter of the conversion, None where another program wrote the shards.
    """
    dataset = read_dataset(folder)
    classes = dataset["classes"] if dataset else None
    job = dataset.get("job") if dataset else None
    return {
        "classes": classes,
        "encoding": None if job is None else {name: job.get(name) for name in ("format", "quality", "resize_shorter")},
        "splits": {index.split: _of_split(index, len(classes or [])) for index in read_indexes(folder)},
    }


def _of_split(index: ShardIndex, num_classes: int) -> dict[str, Any]:
    class_counts = np.bincount(index.label, minlength=num_classes)
    return {
        "num_samples": index.num_samples,
        "num_shards": len(index.shards),
        "num_bytes": sum(shard.size_bytes for shard in index.shards),
        "image_bytes": _spread(index.length),
        "width": _spread(index.width),
        "height": _spread(index.height),
        "samples_per_class": _spread(class_counts),
        "class_counts": class_counts.tolist(),
    }


def _spread(values: npt.NDArray[Any]) -> dict[str, int]:
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def describe_stats(stats: dict[str, Any]) -> str:
    """The same as a text of a few lines."""
    lines = [] if stats["encoding"] is None else [_describe_encoding(**stats["encoding"])]
    for name, split in stats["splits"].items():
        counts = np.array(split["class_counts"])
        rare, common = int(counts.argmin()), int(counts.argmax())
        names = stats["classes"] or [f"label {label}" for label in range(len(counts))]
        lines += [
            f"{name}: {split['num_samples']:,} images in {split['num_shards']} shards, "
            f"{split['num_bytes'] / 1e6:,.1f} MB",
            f"  classes            {len(counts)}, fewest {counts[rare]:,} ({names[rare]}), "
            f"most {counts[common]:,} ({names[common]})",
        ]
        for title, unit in (("width", " px"), ("height", " px"), ("image_bytes", "")):
            spread = split[title]
            values = f"min {spread['min']:,}, median {spread['median']:,}, max {spread['max']:,}{unit}"
            lines.append(f"  {title.replace('_', ' '):<18} {values}")
    return "\n".join(lines)


def _describe_encoding(format: str, quality: int | None, resize_shorter: int | None) -> str:
    stored = "as they were" if format == "keep" else f"as {format}"
    if resize_shorter is not None:
        stored += f", shrunk to at most {resize_shorter} px on the shorter side"
    if resize_shorter is not None or format != "keep":
        stored += f"; quality {quality or DEFAULT_QUALITY} where JPEG or WebP was encoded anew"
    return f"images are stored {stored}"
