"""The contrast of the patches of a finished image."""

import numpy as np

from pipeline.compiling import compiled


@compiled
def patch_contrast(image, size):  # type: ignore[no-untyped-def]
    """Standard deviation of each patch's pixels around its mean colour, over 255.

    The root mean square over the channels of each channel's own deviation: a flat patch scores 0 whatever its colour.
    Sums are whole numbers, so patches of one colour score 0 exactly, and patches with the same pixels in another order
    score alike.

    Args:
        image: uint8 [S, S, 3].
        size: side of a patch in pixels.

    Returns:
        float64 [N] that hold float32 numbers.
    """
    grid, num, pixels = image.shape[0] // size, size * size, image.reshape(image.shape[0], -1)
    scores = np.empty(grid * grid, np.float64)
    # Twice as many numbers at a time as with 64 bits, and wide enough for patches of 33,000 rows.
    total, squares = np.empty(3 * size, np.int32), np.empty(3 * size, np.int32)
    for patch in range(grid * grid):
        top, left = (patch // grid) * size, (patch % grid) * size
        for i in range(3 * size):
            total[i] = squares[i] = 0
        for r in range(size):
            row = pixels[top + r, 3 * left : 3 * (left + size)]
            for i in range(3 * size):
                value = np.int32(row[i])
                total[i] += value
                squares[i] += value * value
        spread = 0
        for channel in range(3):
            sum_all = 0
            for c in range(size):
                sum_all += np.int64(total[3 * c + channel])
                spread += num * np.int64(squares[3 * c + channel])
            spread -= sum_all * sum_all
        scores[patch] = np.float32(np.sqrt(spread / 3) / (num * 255))
    return scores
