"""A folder of images, with a folder for each class."""

import os
from pathlib import Path

from tools.shards.sources.source import SPLIT_NAMES, FileReader, Source, SourceKind, SourceSplit

_STRAY_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _open(place: str, root: Path) -> Source:
    """Classes are folders; where the folders are splits (train, val, ...), the classes are a level further down."""
    folder = Path(place)
    below = _folders_in(folder)
    split_folders = [name for name in below if name in SPLIT_NAMES]
    if "train" in split_folders and len(split_folders) < len(below) and len(split_folders) > 1:
        others = ", ".join(name for name in below if name not in SPLIT_NAMES)
        raise ValueError(f"{folder}: holds the splits {', '.join(split_folders)}, but also {others}; move it away")
    tops = dict.fromkeys(["."], "train")
    if "train" in split_folders and len(split_folders) == len(below):
        tops = {name: SPLIT_NAMES[name] for name in sorted(below, key=lambda name: name != "train")}
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
        splits[split] = SourceSplit(paths, FileReader(folder, paths, labels))
    return Source(classes, splits)


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


SOURCE = SourceKind(
    "imagefolder",
    "DIR",
    _open,
    order=20,
    about="DIR/CLASS/IMAGE, or with DIR/train and DIR/val above the classes",
)
