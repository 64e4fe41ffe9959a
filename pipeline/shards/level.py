"""What an index of smaller images says of itself, and how such images are made anew."""

from pathlib import Path
from typing import NamedTuple

LEVEL_PREFIX = "level-"  # of a level's folder, before its pixels


class Level(NamedTuple):
    """What an index of smaller images is: their shorter side, and the fingerprint of the shards they were made from."""

    pixels: int
    made_from: str


def make_level_again(folder: Path, pixels: int) -> str:
    """The commands that make a level anew, for messages; ``folder``: its own."""
    return f"rm -r {folder} && python -m tools.shards resize-levels {folder.parent} --levels {pixels}"
