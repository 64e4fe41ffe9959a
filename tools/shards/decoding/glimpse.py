"""A few pixels of an image, by which two decoders' results are held against one another without sending either."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

Glimpse = bytes
"""Uint8 [8, 8, 3]: the nearest pixels on a grid over the image."""

_SIDE = 8
# Decoders that read the same picture differ by a level or two, and by up to 7 where 5 bits become 8.
_MOST_DIFFERENCE = 8


def glimpse_of_pixels(pixels: npt.NDArray[np.uint8]) -> Glimpse:
    """Of an image uint8 [H, W, 3]."""
    return pixels[_places(*pixels.shape[:2])].tobytes()


@lru_cache(maxsize=64)
def _places(height: int, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows int64 [8, 1] and columns int64 [8]."""
    rows, columns = (((np.arange(_SIDE) + 0.5) * length / _SIDE).astype(np.int64) for length in (height, width))
    return rows[:, None], columns


def pixels_of_glimpse(image: Image.Image) -> Image.Image:
    """The same pixels of a decoded image, in its own mode."""
    return image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)


def differ(one: Glimpse, other: Glimpse) -> bool:
    """Whether two glimpses show different pictures."""
    if one == other:
        return False
    levels, others = (np.frombuffer(glimpse, np.uint8).astype(np.int64) for glimpse in (one, other))
    return bool(np.abs(levels - others).mean() > _MOST_DIFFERENCE)
