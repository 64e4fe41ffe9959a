"""Shards of real photographs: windows of the photographs among Debian's wallpapers.

    python -m benchmarks.real_photographs --out data/real-photographs --num 1200
    python -m benchmarks.real_photographs --form crops --out data/photograph-crops --num 11000 --shard-samples 1000

JPEGs of 500 x 375 pixels or, one in four, upright, quality 85 to 95, 4:2:0 chroma, 48 KB on average. Each is a window
of one to four times that size, cut out of a large photograph and shrunk. Classes are the photographs: training windows
are from the left 70 % of each, validation windows, a tenth of --num and at least 20, from the rest. Flat windows are
left out. Each window is a function of (photograph, seed, number of the try), so all machines with the same packages and
the same Pillow write the same shards. The packages are fetched at first use.

``--form crops`` is for training a small model on a CPU: addressable JPEGs (``pipeline.jpeg.addressable``) of 160 x 160
pixels, made in the same way.
"""

import argparse
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.shared.wallpapers import Picture, find_photographs
from pipeline.shards.index import open_index
from tools.shards.convert import Settings, convert
from tools.shards.sources.source import Source, SourceSplit

_SCALES = (1, 1.5, 2, 3, 4)
_UPRIGHT, _TRAIN_SHARE = 0.25, 0.7
_QUALITY = (85, 95)
_TRIES = 3  # for every window that is wanted
_MIN_VAL = 20


@dataclass(frozen=True)
class Form:
    """What the images are like.

    Attributes:
        source: name of the conversion's source.
        long, short: sides of an image, in pixels.
        min_bytes: of a window's JPEG; below it is sky, blur or darkness.
        encoder: further arguments of Pillow's JPEG encoder.
    """

    source: str
    long: int
    short: int
    min_bytes: int
    encoder: dict[str, Any]


FORMS = {
    "imagenet": Form("real-photographs", long=500, short=375, min_bytes=28_000, encoder={}),
    "crops": Form(
        "photograph-crops",
        long=160,
        short=160,
        min_bytes=2_000,
        encoder={"restart_marker_blocks": 1, "optimize": True},
    ),
}
_IMAGENET = FORMS["imagenet"]


@dataclass(frozen=True)
class Window:
    """box: left, top, right, bottom in the picture's pixels. size: width and height once shrunk."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    quality: int


@dataclass(frozen=True)
class Cut:
    """What came of one picture. files: split -> JPEGs by the number of their try. flat: windows that were left out.

    unusable: why nothing of the picture is used, or None.
    """

    files: dict[str, dict[int, bytes]]
    flat: int
    unusable: str | None = None


def region(split: str, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of a picture that a split's windows are from: left, top, right, bottom."""
    border = int(_TRAIN_SHARE * width)
    return {"train": (0, 0, border, height), "val": (border, 0, width, height)}[split]


def draw_window(
    picture: str, split: str, number: int, seed: int, size: tuple[int, int], form: Form = _IMAGENET
) -> Window | None:
    """A split's window in a picture of so many pixels, None where none fits. number: of the try."""
    key = hashlib.blake2b(f"{seed}\0{picture}\0{split}\0{number}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(key))
    left, top, right, bottom = region(split, *size)
    shapes = [(form.long, form.short), (form.short, form.long)]
    if rng.random() < _UPRIGHT:
        shapes.reverse()
    for width, height in shapes:  # the other one where this does not fit
        fitting = [scale for scale in _SCALES if width * scale <= right - left and height * scale <= bottom - top]
        if fitting:
            scale = fitting[rng.integers(len(fitting))]
            cut_width, cut_height = int(width * scale), int(height * scale)
            x = int(rng.integers(left, right - cut_width, endpoint=True))
            y = int(rng.integers(top, bottom - cut_height, endpoint=True))
            quality = int(rng.integers(*_QUALITY, endpoint=True))
            return Window((x, y, x + cut_width, y + cut_height), (width, height), quality)
    return None


def encode(picture: Image.Image, window: Window, form: Form = _IMAGENET) -> bytes:
    """The window's JPEG."""
    # Cut before it is shrunk: a filter would reach over the border between the splits.
    shrunk = picture.crop(window.box).resize(window.size, Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    shrunk.save(sink, "JPEG", quality=window.quality, subsampling="4:2:0", **form.encoder)
    return sink.getvalue()


def cut(picture: Picture, tries: dict[str, int], seed: int, form: Form = _IMAGENET) -> Cut:
    """The windows of so many tries for each split that are not flat."""
    try:
        with Image.open(picture.path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return Cut({}, 0, f"it cannot be read: {error}")
    files: dict[str, dict[int, bytes]] = {}
    flat = 0
    for split, count in tries.items():
        windows = [draw_window(picture.name, split, number, seed, image.size, form) for number in range(count)]
        encoded = {number: encode(image, window, form) for number, window in enumerate(windows) if window is not None}
        if not encoded:
            return Cut({}, flat, f"its {image.width} x {image.height} pixels are too few")
        files[split] = {number: file for number, file in encoded.items() if len(file) >= form.min_bytes}
        flat += len(encoded) - len(files[split])
        if not files[split]:
            return Cut({}, flat, f"all windows of its part for {split} are flat")
    return Cut(files, flat)


@dataclass(frozen=True)
class _Reader:
    files: list[tuple[bytes, int]]

    def __call__(self, position: int) -> tuple[bytes, int]:
        return self.files[position]


def source_of(cuts: dict[str, Cut], num_images: dict[str, int]) -> Source:
    """So many windows of each split as a source of a conversion, of each picture as equally many as can be.

    cuts: by the picture's name, which becomes a class. Raises ValueError where there are fewer.
    """
    splits = {}
    for split, count in num_images.items():
        # The first window of every picture, then the second of every picture, and so on.
        windows = sorted(
            (turn, label, f"{name}/{split}/{number}", file)
            for label, (name, one) in enumerate(cuts.items())
            for turn, (number, file) in enumerate(one.files[split].items())
        )
        if len(windows) < count:
            raise ValueError(f"{count} images asked for {split}, but only {len(windows)} windows are not flat")
        names = [name for _, _, name, _ in windows[:count]]
        splits[split] = SourceSplit(names, _Reader([(file, label) for _, label, _, file in windows[:count]]))
    return Source(list(cuts), splits)


def write_real_photographs(
    pictures: Sequence[Picture],
    out: Path,
    num_train: int,
    *,
    form: Form = _IMAGENET,
    seed: int = 0,
    shard_samples: int = 100,
    workers: int = 1,
) -> str:
    """Shards with their indexes in ``out``; what is there already is not written again. Returns a summary.

    Raises:
        ValueError: ``out`` holds something else, or the pictures have too few windows that are not flat.
    """
    num_images = {"train": num_train, "val": max(_MIN_VAL, num_train // 10)}
    tries = {split: _TRIES * -(-count // len(pictures)) for split, count in num_images.items()}
    with ThreadPoolExecutor(workers) as pool:  # Pillow lets go of the interpreter
        found = pool.map(partial(cut, tries=tries, seed=seed, form=form), pictures)
        cuts = dict(zip([one.name for one in pictures], found, strict=True))
    used = {name: one for name, one in cuts.items() if one.unusable is None}
    unusable = {name: one.unusable for name, one in cuts.items() if one.unusable is not None}
    settings = Settings(shard_samples=shard_samples, seed=seed)
    dataset = convert(source_of(used, num_images), f"{form.source}:{num_train}", out, settings).dataset
    flat = sum(one.flat for one in cuts.values())
    kept = sum(len(files) for one in used.values() for files in one.files.values())
    return "\n".join(
        [
            f"{len(cuts)} photographs, of which {len(used)} are classes; {flat + kept} windows tried, {flat} flat",
            *(f"left out: {name}, because {why}" for name, why in unusable.items()),
            *(
                f"{split}: {one['num_samples']} images, {open_index(out, split).length.mean():,.0f} bytes on average"
                for split, one in dataset["splits"].items()
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("data/real-photographs"), help="folder (default: %(default)s)")
    parser.add_argument("--form", choices=FORMS, default="imagenet", help="of the images (default: %(default)s)")
    parser.add_argument("--num", type=int, default=1200, help="training images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--shard-samples", type=int, default=100, help="images in a shard (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="threads")
    parser.add_argument(
        "--root", type=Path, default=Path("data/downloads"), help="where downloads are kept (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.num < 1:
        parser.error(f"--num is at least 1, got {options.num}")
    try:
        summary = write_real_photographs(
            find_photographs(options.root),
            options.out,
            options.num,
            form=FORMS[options.form],
            seed=options.seed,
            shard_samples=options.shard_samples,
            workers=options.workers,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{summary}\nin {options.out}")


if __name__ == "__main__":
    main()
