"""Which split the name of a file or folder speaks of, in the forms that are in use."""

import re
from collections.abc import Iterable
from pathlib import Path

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""What names call a split, in lower case -> what the shards call it."""

SPLITS = ("train", "val", "test")
ALL_SPLIT = "all"

_NO_LETTERS = re.compile(r"[\W\d_]+")
# Such as trainset, valset, testdata, trainval, holdout: to guess what is meant would put held-out images into training.
_LIKE_A_SPLIT = re.compile(
    r"(train|valid|valset|valdata|eval|test).*|.*(train|test|trainval|minival)|holdout|heldout|devset"
)


def splits_in(name: str) -> set[str]:
    """The splits of which a name speaks, its words parted by anything but letters: {"train"} for ``Train_2017.tar``."""
    return {SPLIT_WORDS[word] for word in _words(name) if word in SPLIT_WORDS}


def is_doubtful(name: str) -> bool:
    """Whether a name speaks of several splits, or has a word that looks like a split's and is none of the known."""
    unknown = [word for word in _words(name) if word not in SPLIT_WORDS]
    return len(splits_in(name)) > 1 or any(_LIKE_A_SPLIT.fullmatch(word) for word in unknown)


def list_tars(folder: str | Path) -> list[Path]:
    """The tars of a folder in name order, but for hidden ones, such as macOS lays beside each file on other disks."""
    return sorted(path for path in Path(folder).glob("*.tar") if not path.name.startswith("."))


def group_tars(folder: str | Path) -> dict[str, list[Path]]:
    """``group_paths`` of the tars of a folder."""
    return group_paths(list_tars(folder), folder)


def group_paths(tars: Iterable[Path], folder: object) -> dict[str, list[Path]]:
    """Tars of a folder by the split that their names speak of (train, val, test; see ``SPLIT_WORDS``).

    folder: for messages; neither it nor the tars need be there. Where no name speaks of one, all tars belong to the
    split ``all``. Raises ValueError where only some names do, or where one leaves a doubt.
    """
    groups: dict[str, list[Path]] = {}
    say = "say which are meant with --split NAME --pattern 'GLOB'"
    for path in tars:
        if is_doubtful(path.stem):
            raise ValueError(f"{folder}: it is not clear to which split {path.name} belongs; {say}")
        groups.setdefault(next(iter(splits_in(path.stem)), ALL_SPLIT), []).append(path)
    if ALL_SPLIT in groups and len(groups) > 1:
        others = sorted(split for split in groups if split != ALL_SPLIT)
        raise ValueError(
            f"{folder}: some tars are named after a split ({', '.join(others)}), but {groups[ALL_SPLIT][0].name} is "
            f"not; {say}"
        )
    return groups


def _words(name: str) -> list[str]:
    return _NO_LETTERS.split(name.lower())
