"""The contrast of the patches of a finished image, and of the cells of a stored one."""

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


@compiled
def _add_row(row, grid, mean, sums):  # type: ignore[no-untyped-def]
    """Add a row of pixels to the cells that it lies in.

    Args:
        row: uint8 [W, 3]. mean: float64 [G, 3]: of each cell.
        sums: float64 [G, 4], added to: of each channel, and of the squared distance from the mean.
    """
    width = len(row)
    for x in range(width):
        cell = x * grid // width
        while cell < grid and cell * width < (x + 1) * grid:
            share = min((x + 1) * grid, (cell + 1) * width) - max(x * grid, cell * width)
            distance = 0.0
            for c in range(3):
                value = np.float64(row[x, c])
                sums[cell, c] += share * value
                distance += (value - mean[cell, c]) * (value - mean[cell, c])
            sums[cell, 3] += share * distance
            cell += 1


@compiled
def cell_contrast(image, grid):  # type: ignore[no-untyped-def]
    """Standard deviation around the mean colour of each cell of a grid over an image: float64 [G, G], 0 to 255.

    A pixel on the border of cells counts in each of them with the share that lies there. In what is one colour the sums
    are exact, and it scores 0.

    Args:
        image: uint8 [H, W, 3].
    """
    height, width, _ = image.shape
    mean, sums, line = np.zeros((grid, grid, 3)), np.zeros((grid, grid, 4)), np.zeros((grid, 4))
    for look in range(2):
        for y in range(height):
            cell = y * grid // height
            while cell < grid and cell * height < (y + 1) * grid:
                share = min((y + 1) * grid, (cell + 1) * height) - max(y * grid, cell * height)
                for j in range(grid):
                    for k in range(4):
                        line[j, k] = 0
                _add_row(image[y], grid, mean[cell], line)
                for j in range(grid):
                    for k in range(4):
                        sums[cell, j, k] += share * line[j, k]
                cell += 1
        if look == 0:
            for i in range(grid):
                for j in range(grid):
                    for c in range(3):
                        mean[i, j, c] = sums[i, j, c] / (height * width)
                    sums[i, j, 3] = 0
    found = np.empty((grid, grid))
    for i in range(grid):
        for j in range(grid):
            found[i, j] = np.sqrt(sums[i, j, 3] / (3.0 * height * width))
    return found
