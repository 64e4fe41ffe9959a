"""Counts, classes and sizes of a folder of shards, from its indexes alone."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.shards import ShardIndex
from tools.verify import read_dataset, read_indexes


def collect_stats(folder: Path) -> dict[str, Any]:
    """{"classes": names or None, "splits": {split: counts and sizes}}, in numbers that JSON can hold."""
    dataset = read_dataset(folder)
    classes = dataset["classes"] if dataset else None
    return {
        "classes": classes,
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
    lines = []
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
