"""Shards of synthetic photographs at ImageNet's sizes, for measurements where no real ones are at hand.

    python -m benchmarks.photographs --out data/photographs --num 2000

JPEGs of quality 87 with 4:2:0 chroma, 500 x 375 pixels or, one in four, upright; 60 KB on average, more the stronger an
image's texture is drawn. Decoding one costs what decoding a photograph of ImageNet costs. The ten classes differ by a
cast of colour, so that a model can learn them. Each image is a function of its split and number. The shards are written
by the conversion behind ``tools.shards convert``, with a validation split of a tenth of --num, at least 20 images.
"""

import argparse
import colorsys
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.shared.photographs import photograph
from tools.shards.convert import Settings, convert
from tools.shards.images import Encoding
from tools.shards.sources.source import Source, SourceSplit

NUM_CLASSES = 10
QUALITY = 87
SHARD_SAMPLES = 500
_LONG, _SHORT = 500, 375  # pixels
_MIN_VAL = 20
_FIRST_VAL_SEED = 2**31
_CAST = 0.3  # the share of the class's colour in every pixel


def photograph_jpeg(seed: int, label: int) -> bytes:
    """An encoded photograph of a class, size and texture drawn by the seed."""
    rng = np.random.default_rng([seed, 1])
    width, height = (_SHORT, _LONG) if rng.random() < 0.25 else (_LONG, _SHORT)
    picture = photograph(seed, width, height, texture_strength=float(rng.uniform(0.5, 3.8)))
    color = 255 * np.array(colorsys.hsv_to_rgb(label / NUM_CLASSES, 0.8, 0.9))
    cast = np.rint((1 - _CAST) * picture + _CAST * color).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(cast).save(sink, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return sink.getvalue()


@dataclass(frozen=True)
class _Drawer:
    """Draws image i of a split; travels to worker processes."""

    first_seed: int

    def __call__(self, position: int) -> tuple[bytes, int]:
        label = position % NUM_CLASSES
        return photograph_jpeg(self.first_seed + position, label), label


def photographs(num_train: int, num_val: int) -> Source:
    """So many labelled photographs in the splits ``train`` and ``val``, as a source of a conversion."""
    splits = {
        split: SourceSplit([f"photographs/{split}/{number}" for number in range(count)], _Drawer(first_seed))
        for split, count, first_seed in (("train", num_train, 0), ("val", num_val, _FIRST_VAL_SEED))
    }
    return Source([f"hue_{360 * label // NUM_CLASSES:03d}" for label in range(NUM_CLASSES)], splits)


def write_photographs(
    out: Path, num_train: int, *, workers: int = 1, encoding: Encoding | None = None
) -> dict[str, int]:
    """Shards with their indexes in ``out``; what is there already is not made again.

    Args:
        encoding: how images are stored; by default as they were drawn.

    Returns:
        The number of images in each split.

    Raises:
        ValueError: ``out`` holds something else.
    """
    source = photographs(num_train, max(_MIN_VAL, num_train // 10))
    settings = Settings(shard_samples=SHARD_SAMPLES, encoding=encoding or Encoding())
    dataset = convert(source, f"photographs:{num_train}", out, settings, workers=workers).dataset
    return {name: split["num_samples"] for name, split in dataset["splits"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("data/photographs"), help="folder (default: %(default)s)")
    parser.add_argument("--num", type=int, default=2000, help="training images (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    arguments = parser.parse_args()
    if arguments.num < 1:
        parser.error(f"--num is at least 1, got {arguments.num}")
    counts = write_photographs(arguments.out, arguments.num, workers=arguments.workers)
    print(", ".join(f"{name}: {count} photographs" for name, count in counts.items()), f"in {arguments.out}")


if __name__ == "__main__":
    main()
