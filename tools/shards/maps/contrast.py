"""Maps of the kind ``contrast``: how much the pixels of each cell differ from its mean colour."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.selection.image_maps import contrast_map
from tools.shards.images import pixels_of
from tools.shards.maps.shard_images import ShardImages


def contrast_maps(images: ShardImages, rows: Sequence[int], grid_size: int) -> Iterator[np.ndarray]:
    """A map uint8 [G, G] for each row.

    Raises:
        ValueError: an image cannot be decoded.
    """
    for row in rows:
        yield contrast_map(decoded(images, row), grid_size)


def decoded(images: ShardImages, row: int) -> np.ndarray:
    """An image in colour: uint8 [H, W, 3].

    Raises:
        ValueError: it cannot be decoded; says which it is, and how to leave it out.
    """
    try:
        return pixels_of(images.read(row))
    except ValueError as error:
        raise ValueError(
            f"{images.describe(row)}: {error}; to leave such samples out: "
            f"python -m tools.shards verify {images.index.folder} --exclude"
        ) from None
