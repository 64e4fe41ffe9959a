"""A folder of images, with a folder for each class."""

import os
from pathlib import Path

from pipeline.shards.splits import SPLITS, is_doubtful, splits_in
from tools.shards.sources.junk import EMPTY_CLASS, PassedOver, junk_kind
from tools.shards.sources.source import FileReader, Source, SourceKind, SourceOptions, SourceSplit
from tools.shards.sources.split_map import SplitMap

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _open(place: str, root: Path, options: SourceOptions) -> Source:
    """Classes are folders; where the folders are splits (train, val, ...), the classes are a level further down."""
    folder = Path(place)
    passed_over = PassedOver()
    tops = _split_folders(folder, _folders_in(folder), options.split_map)
    if "." not in tops:
        _count_junk(folder, passed_over)  # else it is counted with what lies among the classes
    files: dict[str, dict[str, list[str]]] = {}  # top -> class -> paths
    for top in tops:
        here = _folders_in(folder / top)
        if stray := _images_in(folder / top):
            raise ValueError(
                f"{folder / top}: {len(stray)} image(s) lie outside of the class folders, such as {stray[0]}"
            )
        _count_junk(folder / top, passed_over)
        files[top] = {name: _files_below(folder, Path(top) / name, passed_over) for name in here}
    classes, empty = _classes_of(folder, tops, files)
    if empty:
        passed_over[EMPTY_CLASS] += len(empty)
    splits: dict[str, SourceSplit] = {}
    for split in dict.fromkeys(tops.values()):
        paths, labels = [], []
        for top in (top for top, its in tops.items() if its == split):
            for name, found in files[top].items():
                paths += found
                labels += [classes[name] for _ in found]
        splits[split] = SourceSplit(paths, FileReader(folder, paths, labels))
    return Source(list(classes), splits, passed_over=passed_over)


def _split_folders(folder: Path, below: list[str], split_map: SplitMap) -> dict[str, str]:
    """Folder -> its split, train first; {".": "train"} where the folders are classes. Raises ValueError on a doubt."""
    if (whole := split_map.split_of_whole()) is not None:
        return {".": whole}
    mapped = {name: split for name in below if (split := split_map.split_of(name)) is not None}
    # A folder of images is a class, whatever its name (CIFAR-100 has a class train), unless all are called like splits.
    speaking = [name for name in below if name not in mapped and (splits_in(name) or is_doubtful(name))]
    holders = [name for name in speaking if _holds_folders(folder / name)]
    found = {name: splits_in(name) for name in speaking}
    named = {split for splits in found.values() for split in splits}
    only_splits = all(len(splits) == 1 for splits in found.values()) and len(speaking) == len(below)
    if not (mapped or holders or only_splits or len(named) > 1):
        return {".": "train"}
    doubtful = [name for name in below if name not in mapped and (len(splits_in(name)) != 1 or is_doubtful(name))]
    if doubtful:
        splits = ", ".join([*mapped, *(name for name in speaking if name not in doubtful)]) or "none"
        raise ValueError(
            f"{folder}: holds folders called like splits ({splits}), but also {', '.join(doubtful[:10])}; {_remedy()}"
        )
    tops = {name: mapped.get(name) or next(iter(found[name])) for name in below}
    guessed = [tops[name] for name in below if name not in mapped]
    if len(set(guessed)) < len(guessed):
        raise ValueError(f"{folder}: {', '.join(tops)}: two of these name the same split; {_remedy()}")
    for name in tops:
        if not _holds_folders(folder / name):
            raise ValueError(
                f"{folder / name}: is called like a split, but holds no class folders; a split is SPLIT/CLASS/IMAGE. "
                "Move it away where its images have no labels; where it is a class, say --split-map '.=train'"
            )
    return dict(sorted(tops.items(), key=lambda item: (SPLITS.index(item[1]), item[0])))


def _remedy() -> str:
    return (
        "move these away, or say which folder is which split with --split-map 'NAME=SPLIT', SPLIT being one of "
        f"{', '.join(SPLITS)} (where all of them are classes: --split-map '.=train')"
    )


def _classes_of(
    folder: Path, tops: dict[str, str], files: dict[str, dict[str, list[str]]]
) -> tuple[dict[str, int], list[str]]:
    """Class -> label, in name order, and the class folders that hold nothing in any split, which are none."""
    names = sorted({name for found in files.values() for name in found})
    held = {name for found in files.values() for name, paths in found.items() if paths}
    if not held:
        raise ValueError(f"{folder}: no images in split '{next(iter(tops.values()))}': every class folder is empty")
    trained = {name for top, split in tops.items() if split == "train" for name in files[top]}
    for top in tops if trained else ():
        if unknown := sorted(name for name, paths in files[top].items() if paths and name not in trained):
            raise ValueError(f"{folder / top}: class folders that train does not have: {', '.join(unknown[:10])}")
    classes = [name for name in names if name in held]
    return {name: label for label, name in enumerate(classes)}, [name for name in names if name not in held]


def _folders_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not junk_kind(path.name))
    if not names:
        raise ValueError(f"{folder}: holds no class folders; an image folder is FOLDER/CLASS/IMAGE")
    return names


def _images_in(folder: Path) -> list[str]:
    """Names of the images that lie directly in a folder."""
    names = (path.name for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(name for name in names if not junk_kind(name))


def _holds_folders(folder: Path) -> bool:
    """Whether it holds folders and no image beside them, as a split does and a class hardly ever."""
    return not _images_in(folder) and any(path.is_dir() and not junk_kind(path.name) for path in folder.iterdir())


def _count_junk(folder: Path, passed_over: PassedOver) -> None:
    passed_over.update(kind for path in folder.iterdir() if (kind := junk_kind(path.name)))


def _files_below(root: Path, folder: Path, passed_over: PassedOver) -> list[str]:
    """Paths relative to root of every file that is no junk: what is no image will be rejected by name."""
    found = []
    for top, folders, names in os.walk(root / folder, followlinks=True):
        passed_over.update(kind for name in [*folders, *names] if (kind := junk_kind(name)))
        folders[:] = [name for name in folders if not junk_kind(name)]
        found += [os.path.relpath(os.path.join(top, name), root) for name in names if not junk_kind(name)]
    return sorted(found)


SOURCE = SourceKind(
    "imagefolder",
    "DIR",
    _open,
    order=20,
    about="DIR/CLASS/IMAGE, or with DIR/train and DIR/val above the classes",
    takes=("--split-map",),
)
