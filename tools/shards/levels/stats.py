"""Counts and sizes of the levels beside shards, from their indexes alone."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.shards.index import ShardIndex
from pipeline.shards.levels import level_folder, open_level
from tools.shards.dataset import read_dataset
from tools.shards.levels.check import indexed_levels


def level_stats(folder: Path, index: ShardIndex) -> dict[str, dict[str, Any]]:
    """The levels of a split by their pixels, as JSON can hold it, the largest first; {} where it has none.

    Of each: num_samples, num_bytes, image_bytes_median, and num_shrunk, num_copied and unread (see ``LevelTally``),
    which are None where its dataset.json is gone. Of one that training would refuse only ``refused``, which says why.
    """
    return {str(pixels): _of_level(folder, index, pixels) for pixels in indexed_levels(folder, index)}


def _of_level(folder: Path, index: ShardIndex, pixels: int) -> dict[str, Any]:
    try:
        level = open_level(index, pixels)
        dataset = read_dataset(level_folder(folder, pixels))
    except (ValueError, OSError) as error:
        return {"refused": str(error)}
    tally = (dataset or {}).get("splits", {}).get(index.split, {}).get("level", {})
    return {
        "num_samples": level.num_samples,
        "num_bytes": sum(shard.size_bytes for shard in level.shards),
        "image_bytes_median": int(np.median(level.length)),
        **{name: tally.get(name) for name in ("num_shrunk", "num_copied", "unread")},
        "refused": None,
    }


def describe_levels(levels: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Titles and texts of the lines about a split's levels."""
    return [(f"level {pixels}", _describe(level)) for pixels, level in levels.items()]


def _describe(level: dict[str, Any]) -> str:
    if level["refused"] is not None:
        return f"training would refuse it: {level['refused']}"
    text = (
        f"{level['num_samples']:,} images, {level['num_bytes'] / 1e6:,.1f} MB, "
        f"image bytes median {level['image_bytes_median']:,}"
    )
    if level["num_shrunk"] is None:
        return text
    unread = sum(level["unread"].values())
    text += f"; {level['num_shrunk']:,} shrunk, {level['num_copied']:,} small enough"
    return text + (f", {unread:,} that cannot be decoded" if unread else "")
