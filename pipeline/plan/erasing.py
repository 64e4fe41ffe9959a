"""Random erasing (arXiv 1708.04896) as arithmetic: which boxes, and the noise that fills them."""

import math
from functools import lru_cache

import numpy as np

from pipeline.plan import keyed
from pipeline.plan.keyed import Stream

_TRIES = 6  # all of them miss about once in 10**13 images; timm gives up after ten
NUM_ERASE_DRAWS = 1 + 2 * _TRIES + 2  # random numbers per image
_AREA = (0.02, 1 / 3)  # share of the image, as in timm
_LOG_ASPECT = (math.log(0.3), math.log(1 / 0.3))  # of height over width, as in timm


def plan_boxes(draws: np.ndarray, probability: float, image_size: int) -> np.ndarray:
    """The box to be erased from each image.

    Args:
        draws: float32 [B, 15] in [0, 1): whether, six pairs (area, aspect), then the place.

    Returns:
        int32 [B, 4]: (top, left, bottom, right), all 0 where nothing is erased.
    """
    boxes = np.zeros((len(draws), 4), dtype=np.int32)
    rows = np.flatnonzero(draws[:, 0] < probability)
    shape, found = _first_fit(draws[rows, 1:3], image_size)
    rest = np.flatnonzero(~found)  # few, so only these are worked out for the other tries
    shape[rest], found[rest] = _first_fit(draws[rows[rest], 3 : 1 + 2 * _TRIES], image_size)
    start = (draws[rows, -2:].astype(np.float64) * (image_size - shape + 1)).astype(np.int64)
    boxes[rows] = np.concatenate([start, start + shape], axis=1) * found[:, None]
    return boxes


def _first_fit(pairs: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(height, width) int64 [B, 2] of the first box that fits the image, and whether there is one, bool [B].

    Args:
        pairs: float32 [B, 2 T] in [0, 1): (area, aspect) of T tries.
    """
    pairs = pairs.astype(np.float64)
    area = image_size**2 * (_AREA[0] + (_AREA[1] - _AREA[0]) * pairs[:, 0::2])
    aspect = np.exp(_LOG_ASPECT[0] + (_LOG_ASPECT[1] - _LOG_ASPECT[0]) * pairs[:, 1::2])
    shapes = np.round(np.sqrt(np.stack([area * aspect, area / aspect], axis=2))).astype(np.int64)
    fits = (shapes.min(axis=2) > 0) & (shapes.max(axis=2) < image_size)
    rows, first = np.arange(len(fits)), np.argmax(fits, axis=1)
    return shapes[rows, first], fits[rows, first]


@lru_cache(maxsize=4)
def noise_tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """For each channel and each 16-bit number a pixel value, so that even numbers give normal pixels: uint8 [3, 65536].

    The pixels have the given mean and standard deviation (both over 255), rounded and clipped to 0 to 255.
    """
    tables = []
    for centre, spread in zip(mean, std, strict=True):
        # The number of table entries up to each pixel value, from the distribution function at the rounding's edges.
        edges = [(value + 0.5 - 255 * centre) / (255 * spread) for value in range(255)]
        up_to = [round(65536 * 0.5 * (1 + math.erf(edge / math.sqrt(2)))) for edge in edges]
        tables.append(np.repeat(np.arange(256, dtype=np.uint8), np.diff([0, *up_to, 65536])))
    return np.stack(tables)


def box_noise(key: int, height: int, width: int, tables: np.ndarray) -> np.ndarray:
    """The noise of one box, a function of its key alone: uint8 [height, width, 3]."""
    count = height * width * 3
    numbers = keyed.words(key, Stream.ERASE_NOISE, 0, -(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]
    pixels = numbers.reshape(height, width, 3)
    return np.stack([table[pixels[..., channel]] for channel, table in enumerate(tables)], axis=2)
