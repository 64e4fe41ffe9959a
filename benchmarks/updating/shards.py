"""Fashion-MNIST in two sets of shards, as if a part of it had arrived later.

    python -m benchmarks.updating.shards

Two classes, coats and sneakers, are rare at first: nine of ten of their training images are in the set ``new``, every
tenth is in ``old`` with all images of the other eight classes. So ``old`` has 49,200 training images and ``new``
10,800. Of the test images ``old`` holds out those of the eight classes (8,000) and ``new`` those of the two (2,000):
accuracy on the two sets tells what is forgotten and what is learnt. Nothing is drawn; what is written is always the
same. Started again, it goes on where it stopped.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.shards.convert import Settings, convert
from tools.shards.fashion_mnist_files import CLASSES, find_fashion_mnist, read_fashion_mnist
from tools.shards.sources.source import RawImage, Source, SourceSplit

DATA = Path("data/fashion-mnist-update")
LATE_CLASSES = ("Coat", "Sneaker")
EARLY_OF_THEM = 10  # every so many-th training image of theirs is there from the start
SETS = ("old", "new")

Labels = npt.NDArray[np.uint8]


def is_new(labels: Labels, split: str) -> npt.NDArray[np.bool_]:
    """Which images of a split, ``train`` or ``val``, arrive later, by their labels: bool of the same length."""
    late = np.isin(labels, [CLASSES.index(name) for name in LATE_CLASSES])
    if split == "train":
        late[np.flatnonzero(late)[::EARLY_OF_THEM]] = False
    return late


@dataclass(frozen=True)
class _Some:
    """Reads the images of one set. images: uint8 [N, 28, 28]; labels: uint8 [N]; numbers: of them, int64 [n]."""

    images: npt.NDArray[np.uint8]
    labels: Labels
    numbers: npt.NDArray[np.int64]

    def __call__(self, position: int) -> tuple[RawImage, int]:
        number = self.numbers[position]
        return Image.fromarray(self.images[number]), int(self.labels[number])


def source_of(name: str, files: Path) -> Source:
    """The set ``old`` or ``new`` of the four files in ``files``. Raises ValueError on damaged files."""
    splits = {}
    for split in ("train", "val"):
        images, labels = read_fashion_mnist(files, split)
        numbers = np.flatnonzero(is_new(labels, split) == (name == "new"))
        names = [f"fashion-mnist/{split}/{number}" for number in numbers]
        splits[split] = SourceSplit(names, _Some(images, labels, numbers))
    return Source(list(CLASSES), splits)


def write_sets(out: Path, files: Path, workers: int = 2) -> None:
    """``out/old`` and ``out/new``: shards of both splits, their indexes and ``dataset.json``."""
    for name in SETS:
        convert(source_of(name, files), f"fashion-mnist, {name}", out / name, Settings(), workers=workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=DATA, help="(default: %(default)s)")
    parser.add_argument("--root", type=Path, default=Path("data/downloads"), help="of the files (default: %(default)s)")
    options = parser.parse_args()
    write_sets(options.out, find_fashion_mnist(None, options.root))
    print(f"{options.out}: {', '.join(SETS)}", file=sys.stderr)


if __name__ == "__main__":
    main()
