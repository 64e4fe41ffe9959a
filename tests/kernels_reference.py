"""What the kernels of operations compute, pixel by pixel, in plain Python: slow, and easy to follow.

Images are uint8 [S, S, 3] as a whole; a box of the result is cut out of what is computed of all of it.
"""

import math

import numpy as np


def clipped(value: np.float32) -> int:
    return 0 if value <= 0 else 255 if value >= 255 else int(value)


def blended(degenerate: int, value: int, factor: np.float32) -> int:
    """In float32, rounded after each step, and cut off behind the point."""
    return clipped(np.float32(degenerate) + factor * np.float32(value - degenerate))


def grey_of(pixel: np.ndarray) -> int:
    red, green, blue = (int(value) for value in pixel)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def pixelwise(image: np.ndarray) -> list[tuple[int, int]]:
    return list(np.ndindex(image.shape[:2]))


def blended_with_grey(image: np.ndarray, factor: np.float32) -> np.ndarray:
    out = np.empty_like(image)
    for place in pixelwise(image):
        grey = grey_of(image[place])
        out[place] = [blended(grey, int(value), factor) for value in image[place]]
    return out


def multiplied(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """By a colour matrix, float32 [12]."""
    out = np.empty_like(image)
    for place in pixelwise(image):
        red, green, blue = image[place].astype(np.float32)
        for channel in range(3):
            row = matrix[4 * channel : 4 * channel + 4]
            value = row[0] * red + row[1] * green + row[2] * blue + row[3]
            out[place][channel] = clipped(value + np.float32(0.5))
    return out


def blended_with_smoothed(image: np.ndarray, factor: np.float32) -> np.ndarray:
    """The outermost pixels stay as they are."""
    out = image.copy()
    for y, x in pixelwise(image):
        if 0 < y < len(image) - 1 and 0 < x < len(image) - 1:
            around = image[y - 1 : y + 2, x - 1 : x + 2].astype(int).sum(axis=(0, 1))
            for channel in range(3):
                value = int(image[y, x, channel])
                smoothed = (2 * (int(around[channel]) + 4 * value) + 13) // 26
                out[y, x, channel] = blended(smoothed, value, factor)
    return out


def warped(image: np.ndarray, fixed: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Places in 1 / 65536 of a pixel, from ``fixed``, int64 [6]; beyond half a pixel outside there is ``fill``."""
    out, side = np.empty_like(image), len(image)
    for y, x in pixelwise(image):
        from_x, from_y = (int(a) * x + int(b) * y + int(c) for a, b, c in (fixed[:3], [fixed[3], fixed[4], fixed[5]]))
        if not all(0 <= at + 0x8000 < side << 16 for at in (from_x, from_y)):
            out[y, x] = fill
            continue
        columns, rows = ([min(max((at >> 16) + i, 0), side - 1) for i in (0, 1)] for at in (from_x, from_y))
        right, down = (from_x >> 8) & 255, (from_y >> 8) & 255
        for channel in range(3):
            above, below = (
                (256 - right) * int(image[row, columns[0], channel]) + right * int(image[row, columns[1], channel])
                for row in rows
            )
            out[y, x, channel] = ((256 - down) * above + down * below + 0x8000) >> 16
    return out


def mean_grey(image: np.ndarray) -> int:
    return int(sum(grey_of(image[place]) for place in pixelwise(image)) / len(pixelwise(image)) + 0.5)


def blurred(image: np.ndarray, sigma: np.float32) -> np.ndarray:
    """Weights of a Gaussian in units of 1 / 4096, first along rows, then along columns, rounded once."""
    reach, side = int(np.ceil(3 * sigma)), len(image)
    exact = [math.exp(-0.5 * (k / float(sigma)) ** 2) for k in range(-reach, reach + 1)]
    weights = [round(weight / sum(exact) * 4096) for weight in exact]
    weights[reach] += 4096 - sum(weights)
    for axis in (1, 0):
        places = np.clip(np.add.outer(np.arange(side), np.arange(-reach, reach + 1)), 0, side - 1)
        image = np.sum([w * image.astype(int).take(places[:, k], axis) for k, w in enumerate(weights)], axis=0)
    return ((image + (1 << 23)) >> 24).astype(np.uint8)
