"""What other programs leave in folders of images: neither an image nor a class, so it is passed over, and counted."""

from collections import Counter
from pathlib import PurePosixPath

HIDDEN = "hidden"
EMPTY_CLASS = "empty class folder"

_JUNK = {
    name.lower(): name
    for name in ("__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN", "lost+found")
}

PassedOver = Counter[str]
"""What it is -> how many files or folders."""


def junk_kind(name: str) -> str | None:
    """What a file or folder of this name is, if it is junk: ``hidden``, or its usual name."""
    return HIDDEN if name.startswith(".") else _JUNK.get(name.lower())


def without_junk(paths: list[PurePosixPath], passed_over: PassedOver) -> list[PurePosixPath]:
    """Those that are no junk and lie in none. Each file that is left out is counted by what it is or lies in."""
    kept = []
    for path in paths:
        kind = next(filter(None, map(junk_kind, path.parts)), None)
        if kind is None:
            kept.append(path)
        else:
            passed_over[kind] += 1
    return kept
