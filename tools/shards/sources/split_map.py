"""Whose split an image is: what ``--split-map`` says, else what the names of files and folders say."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pipeline.shards.splits import SPLITS, is_doubtful, splits_in

_NUMBERING = re.compile(r"([-_.]?\d+([-_.]of[-_.]\d+)?)+$")


@dataclass(frozen=True)
class SplitMap:
    """(name or glob, split) in the order in which they are tried. ``used``: those that something matched."""

    rules: tuple[tuple[str, str], ...] = ()
    used: set[str] = field(default_factory=set, compare=False)

    @classmethod
    def parse(cls, text: str) -> "SplitMap":
        """From the form of the command line, such as ``holdout=val,part-*=train``. Raises ValueError on others."""
        rules = []
        for part in text.split(","):
            pattern, equals, split = (piece.strip() for piece in part.rpartition("="))
            if not equals or not pattern or split not in SPLITS:
                raise ValueError(
                    f"--split-map {part!r}: takes NAME=SPLIT, parted by commas, such as 'holdout=val,part-*=train'; "
                    f"NAME is a name or a pattern with * and ?, and SPLIT one of {', '.join(SPLITS)}"
                )
            rules.append((pattern, split))
        return cls(tuple(rules))

    def split_of(self, *names: str) -> str | None:
        """The split of the first rule that fits one of the names; None where none does."""
        for pattern, split in self.rules:
            if any(fnmatchcase(name, pattern) for name in names):
                self.used.add(pattern)
                return split
        return None

    def split_of_whole(self) -> str | None:
        """The split of the place itself, which is called ``.``; no pattern stands for it."""
        whole = next((split for pattern, split in self.rules if pattern == "."), None)
        if whole is not None:
            self.used.add(".")
        return whole

    def names_split(self, split: str) -> bool:
        return any(split == named for _, named in self.rules)

    def check_used(self, place: str) -> None:
        """Raises ValueError where a rule fitted nothing."""
        if unused := [pattern for pattern, _ in self.rules if pattern not in self.used]:
            raise ValueError(f"--split-map: nothing in {place} is called {', '.join(unused)}")


def divide_files(place: str, files: Sequence[PurePosixPath], split_map: SplitMap) -> dict[str, list[PurePosixPath]]:
    """Split -> its files, by the names of the files and of the folders above them. files: relative to the place.

    Where no name speaks of a split, all belong to train. Raises ValueError where the names leave a doubt.
    """
    by_split: dict[str, list[PurePosixPath]] = {}
    configurations: dict[str, PurePosixPath] = {}
    silent = []
    for path in files:
        split = split_map.split_of(str(path), path.name, path.stem, _NUMBERING.sub("", path.stem), *path.parts[:-1])
        if split is None:
            names = [*path.parts[:-1], path.stem]
            found = set[str]().union(*map(splits_in, names))
            if len(found) > 1 or any(map(is_doubtful, names)):
                raise ValueError(_doubt(place, f"it is not clear to which split {path} belongs"))
            configurations.setdefault("/".join(name for name in path.parts[:-1] if not splits_in(name)), path)
            if not found:
                silent.append(path)
                continue
            (split,) = found
        by_split.setdefault(split, []).append(path)
    if len(configurations) > 1:
        names = [name or "." for name in configurations]
        raise ValueError(
            f"{place}: holds several configurations ({', '.join(names[:10])}); name the folder of one of them, or say "
            "which files are which split, such as --split-map 'NAME=train,OTHER=val' (one split: --split-map '*=train')"
        )
    if silent and by_split:
        others = ", ".join(sorted(by_split))
        raise ValueError(_doubt(place, f"some files belong to a split ({others}), but {silent[0]} names none"))
    return by_split or {"train": silent}


def _doubt(place: str, what: str) -> str:
    return (
        f"{place}: {what}; say it with --split-map 'NAME=SPLIT', where NAME is the name of a file or folder or a "
        f"pattern and SPLIT one of {', '.join(SPLITS)} (all in one: --split-map '*=train')"
    )
