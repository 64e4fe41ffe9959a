"""A few pixels of an image, by which two decoders' results are held against one another without sending either."""

import numpy as np
import numpy.typing as npt
from PIL import Image

Glimpse = npt.NDArray[np.uint8]
_SIDE = 8
# Decoders that read the same picture differ by a level or two, and by up to 7 where 5 bits become 8.
_MOST_DIFFERENCE = 8


def glimpse_of_pixels(pixels: npt.NDArray[np.uint8]) -> Glimpse:
    """uint8 [8, 8, 3], the nearest pixels on a grid over an image uint8 [H, W, 3]."""
    rows, columns = (((np.arange(_SIDE) + 0.5) * length / _SIDE).astype(np.int64) for length in pixels.shape[:2])
    return pixels[rows[:, None], columns].copy()


def glimpse_of_image(image: Image.Image) -> Image.Image:
    """The same pixels of a decoded image, in its own mode."""
    return image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)


def differ(one: Glimpse, other: Glimpse) -> bool:
    """Whether two glimpses show different pictures."""
    return bool(np.abs(one.astype(np.int64) - other).mean() > _MOST_DIFFERENCE)
