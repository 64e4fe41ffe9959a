"""The loader that one writes in an hour: threads, libjpeg-turbo by way of simplejpeg, and OpenCV.

Each thread makes whole batches: it reads the files out of the tars at the index's offsets, decodes whole images with
exact arithmetic, and lets OpenCV resize the crop into the batch's memory. simplejpeg and OpenCV let go of Python's lock
meanwhile. OpenCV's INTER_LINEAR looks at four pixels however far it shrinks; that is the fastest, and aliases.
INTER_AREA averages over all of them, as the antialiasing of the other contenders does; where a crop is enlarged it has
nothing to average, and the other is used.
"""

import random
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from benchmarks.loader_peers import Batches, Setting, num_bytes
from benchmarks.peers.samples import Box, SampleFiles, is_mirrored, random_window, shuffled_batches
from pipeline.shards.index import open_index

_BATCHES_AHEAD = 2  # of those that the threads are at work on


def missing() -> str | None:
    """Why it cannot run here, and what to do; None where it can."""
    if find_spec("simplejpeg") is None or find_spec("cv2") is None:
        return "needs simplejpeg and opencv-python-headless: pip install -c constraints.txt -e '.[bench]'"
    return None


@dataclass(frozen=True)
class HandWritten:
    """antialias: with INTER_AREA, otherwise with INTER_LINEAR."""

    antialias: bool

    @contextmanager
    def open(self, setting: Setting) -> Iterator[Batches]:
        import cv2

        cv2.setNumThreads(1)  # per caller: the threads are this loader's
        index = open_index(setting.shards, "train")
        with SampleFiles(index) as files, ThreadPoolExecutor(setting.workers) as pool:

            def load(samples: list[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
                rng, size = random.Random(seed), setting.image_size
                images = np.empty((len(samples), size, size, 3), dtype=np.uint8)
                for image, sample in zip(images, samples, strict=True):
                    pixels = decode(files.read(sample))
                    box = random_window(pixels.shape[1], pixels.shape[0], rng)
                    resize_into(image, pixels, box, self.antialias, is_mirrored(rng))
                return torch.from_numpy(images), torch.from_numpy(index.label[samples].astype(np.int64))

            pending: deque[Future[Any]] = deque()

            def batches() -> Batches:
                for number, samples in enumerate(shuffled_batches(index.num_samples, setting.batch_size)):
                    pending.append(pool.submit(load, samples, number))
                    if len(pending) >= setting.workers + _BATCHES_AHEAD:
                        images, labels = pending.popleft().result()
                        yield len(labels), num_bytes((images, labels))

            try:
                yield batches()
            finally:
                for future in pending:
                    future.cancel()


def decode(encoded: bytes) -> np.ndarray:
    """uint8 [height, width, 3] in RGB."""
    import cv2
    import simplejpeg

    if simplejpeg.is_jpeg(encoded):
        return simplejpeg.decode_jpeg(encoded, "RGB")
    pixels: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    return pixels


def resize_into(image: np.ndarray, pixels: np.ndarray, box: Box, antialias: bool, mirrored: bool) -> None:
    """Fill ``image``, uint8 [size, size, 3], with the box of ``pixels``."""
    import cv2

    left, top, width, height = box
    size = image.shape[0]
    shrinks = width > size or height > size
    how = cv2.INTER_AREA if antialias and shrinks else cv2.INTER_LINEAR
    crop = pixels[top : top + height, left : left + width]
    if mirrored:
        cv2.flip(cv2.resize(crop, (size, size), interpolation=how), 1, dst=image)
    else:
        cv2.resize(crop, (size, size), dst=image, interpolation=how)
