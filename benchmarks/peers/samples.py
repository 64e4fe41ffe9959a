"""What loaders share that bring no reading, shuffling and cropping of their own."""

import math
import os
import random
from collections.abc import Iterator
from types import TracebackType

import numpy as np

from benchmarks.loader_peers import FLIP, RATIO, SCALE
from pipeline.shards.index import ShardIndex

_CROP_TRIES = 10
Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


class SampleFiles:
    """The image files of an index, read out of its tars from any number of threads."""

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._tars = [os.open(index.folder / shard.name, os.O_RDONLY) for shard in index.shards]

    def read(self, sample: int) -> bytes:
        index = self._index
        return os.pread(self._tars[index.shard[sample]], int(index.length[sample]), int(index.offset[sample]))

    def __enter__(self) -> "SampleFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tar in self._tars:
            os.close(tar)


def shuffled_batches(num_samples: int, batch_size: int, seed: int = 0) -> Iterator[list[int]]:
    """Numbers of samples without end, every epoch in another order. What fills no batch waits for the next epoch."""
    rng = np.random.default_rng(seed)
    left: list[int] = []
    while True:
        left += rng.permutation(num_samples).tolist()
        while len(left) >= batch_size:
            yield left[:batch_size]
            del left[:batch_size]


def random_window(width: int, height: int, rng: random.Random) -> Box:
    """A random resized crop with torchvision's distribution."""
    log_ratio = math.log(RATIO[0]), math.log(RATIO[1])
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(*log_ratio))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            return rng.randint(0, width - crop_width), rng.randint(0, height - crop_height), crop_width, crop_height
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def is_mirrored(rng: random.Random) -> bool:
    return rng.random() < FLIP
