"""Fashion-MNIST, from a folder or from wherever this machine can get it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.shards.fashion_mnist_files import CLASSES, FILES, find_fashion_mnist, read_fashion_mnist
from tools.shards.sources.source import RawImage, Source, SourceKind, SourceOptions, SourceSplit


@dataclass(frozen=True)
class _ArrayReader:
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def __call__(self, position: int) -> tuple[RawImage, int]:
        return Image.fromarray(self.images[position]), int(self.labels[position])


def _open(place: str, root: Path, options: SourceOptions) -> Source:
    folder = find_fashion_mnist(Path(place) if place else None, root)
    splits = {}
    for split in FILES:
        images, labels = read_fashion_mnist(folder, split)
        names = [f"fashion-mnist/{split}/{number}" for number in range(len(images))]
        splits[split] = SourceSplit(names, _ArrayReader(images, labels))
    return Source(list(CLASSES), splits)


SOURCE = SourceKind("fashion-mnist", "DIR", _open, order=10, needs_place=False)
