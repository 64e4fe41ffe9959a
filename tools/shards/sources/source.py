"""What a source of labelled images is, and how a kind of source is declared.

A source is a list of named images per split and a function that reads one of them. Readers are plain objects that
travel to worker processes, and reading is the workers' part.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tools.shards.sources.split_map import SplitMap

RawImage = bytes | Image.Image
"""The bytes of an image file, or an image that has no file of its own."""

ReadSample = Callable[[int], tuple[RawImage, int]]
"""Position in the split -> (image, label)."""


@dataclass(frozen=True)
class SourceSplit:
    """names: one per image, for messages and for the keyed order. read: position -> (image, label).

    blocks: positions that are cheap to read together share a number (the row groups of Parquet files).
    """

    names: list[str]
    read: ReadSample
    blocks: list[int] | None = None


@dataclass(frozen=True)
class Source:
    """classes: names in label order; empty where the source does not know them before all labels are read.

    labels_digest: of the labels, where they stand in files that may change while the names stay.
    passed_over: what is neither an image nor a class -> how many files or folders are that.
    """

    classes: list[str]
    splits: dict[str, SourceSplit]
    labels_digest: str = ""
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over classes, names and stated labels, to tell whether a source is still the same."""
        sha = hashlib.sha256(json.dumps([self.classes, self.labels_digest]).encode())
        for split, content in self.splits.items():
            sha.update(json.dumps([split, content.names]).encode())
        return sha.hexdigest()


@dataclass(frozen=True)
class SourceOptions:
    """What a command line may say of a source besides its place. Columns: None for the kind's own names.

    join_classes: where files number their classes differently, they are joined by name; without it they are refused.
    """

    split_map: SplitMap = field(default_factory=SplitMap)
    image_column: str | None = None
    label_column: str | None = None
    join_classes: bool = False

    def given(self) -> list[str]:
        """The options that were given, as the command line spells them."""
        values: dict[str, object] = {"--split-map": self.split_map.rules, "--image-column": self.image_column}
        values |= {"--label-column": self.label_column, "--join-classes": self.join_classes}
        return [name for name, value in values.items() if value]


@dataclass(frozen=True)
class SourceKind:
    """One kind of source: how a command line names it, and what opens it.

    Attributes:
        name: before the colon, as in ``imagefolder:DIR``.
        place: what stands after the colon, for help and errors, such as ``DIR``.
        open: (place, root, options) -> the source. ``root`` is where downloads are kept. Raises ValueError or
            FileNotFoundError where the place is missing or holds something else.
        order: where it stands among the others in help and errors, lowest first.
        about: for help, a few words on what the place holds.
        needs_place: False where the name alone will do, too; ``open`` then gets an empty place.
        takes: the options that it heeds, as the command line spells them.
    """

    name: str
    place: str
    open: Callable[[str, Path, SourceOptions], Source]
    order: int
    about: str = ""
    needs_place: bool = True
    takes: tuple[str, ...] = ()

    @property
    def forms(self) -> list[str]:
        """How a command line may name it, such as ``imagefolder:DIR``."""
        with_place = f"{self.name}:{self.place}"
        return [with_place] if self.needs_place else [self.name, with_place]

    @property
    def help(self) -> str:
        return ", ".join(self.forms) + (f" ({self.about})" if self.about else "")


@dataclass(frozen=True)
class FileReader:
    """Reads images that are files of their own, as they are."""

    folder: Path
    paths: list[str]
    labels: list[int]

    def __call__(self, position: int) -> tuple[RawImage, int]:
        return (self.folder / self.paths[position]).read_bytes(), self.labels[position]
