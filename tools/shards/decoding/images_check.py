"""Holds every image of a shard against what the loader's decoder and Pillow make of it."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.shards.tars import Fault, Row
from tools.shards.decoding.glimpse import Glimpse
from tools.shards.decoding.loader_decoder import batches_of, loader_decoder
from tools.shards.images import LOADABLE_FORMATS, decode, glimpse_of

_REMEDY = "a conversion would encode it anew"


def check_images(path: Path, rows: Sequence[Row]) -> list[Fault]:
    """Each image that Pillow or the loader cannot use, or of which they show different pictures.

    Raises:
        OSError: the shard cannot be read, or the loader's decoder cannot work.
    """
    loader_decoder().start()
    faults = []
    with open(path, "rb") as file:
        for batch in batches_of([row.length for row in rows]):
            images = {number: os.pread(file.fileno(), rows[number].length, rows[number].offset) for number in batch}
            reasons = _reasons(images, {number: (rows[number].height, rows[number].width) for number in batch})
            faults += [Fault(path.name, rows[number].key, reason) for number, reason in sorted(reasons.items())]
    return faults


def _reasons(images: dict[int, bytes], sizes: dict[int, tuple[int, int]]) -> dict[int, str]:
    """What is wrong with which of the images; sizes: (height, width) that the shard's scan has found."""
    reasons: dict[int, str] = {}
    glimpses: dict[int, Glimpse] = {}
    for number, encoded in images.items():
        try:
            image = decode(encoded)
            if image.format not in LOADABLE_FORMATS:
                raise ValueError(f"the loader does not decode {image.format} images; {_REMEDY}")
            glimpses[number] = glimpse_of(image)
        except ValueError as error:
            reasons[number] = str(error)
    verdicts = loader_decoder().look_at([images[number] for number in glimpses])
    for (number, glimpse), verdict in zip(glimpses.items(), verdicts, strict=True):
        if reason := verdict.reason_against(glimpse):
            reasons[number] = f"{reason}; {_REMEDY}"
        elif verdict.size != sizes[number]:
            (height, width), (rows, columns) = verdict.size, sizes[number]
            reasons[number] = f"is {width}x{height} pixels to the loader's decoder, but {columns}x{rows} to Pillow"
    return reasons
