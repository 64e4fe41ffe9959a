"""The contrast of patches that are not resampled yet, from a few samples of the decoded image."""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.sampling import (
    BOX,
    GRID_SIZE,
    OWN_REGION,
    OWN_WINDOW,
    PARTNER_REGION,
    PARTNER_WINDOW,
    WEIGHT,
    window_at,
)

# Samples along one side of a patch that its contrast is estimated from. Every other row is shifted by half a step.
MAX_SAMPLES = 8


@compiled
def sample_points(start, end, window_start, window_end, grid, size, mirrored, num):  # type: ignore[no-untyped-def]
    """Pixels of the output at which the contrast looks, along one axis, and those of the input below them.

    Returns:
        int64 [G, num] each, evenly spread over every patch.
    """
    places, sources = np.empty((grid, num), np.int64), np.empty((grid, num), np.int64)
    scale = (end - start) / (grid * size)
    for patch in range(grid):
        for j in range(num):
            place = patch * size + (j + 0.5) * size / num
            places[patch, j] = int(place)
            source = int(np.floor(start + (grid * size - place if mirrored else place) * scale))
            sources[patch, j] = window_start + min(max(source, 0), window_end - window_start - 1)
    return places, sources


@compiled
def _mixed(own, other, weight, from_partner):  # type: ignore[no-untyped-def]
    """A sample of the image (the sum of two values) with that of its partner mixed in."""
    if from_partner:
        return other
    return own + np.int64(np.rint((1 - weight) * (other - own)))


@compiled
def thumbnail_contrast(image, partner, sampling, size):  # type: ignore[no-untyped-def]
    """Each patch's contrast, from a few samples of the decoded images: float64 [N].

    Standard deviation around the mean colour of up to 8 x 8 samples a patch, over 255. A sample is two neighbours in a
    row, which takes off some of the detail that resampling would. Sums are of whole numbers, so that a patch of one
    colour scores 0 exactly.
    """
    grid, side = int(sampling[GRID_SIZE]), min(size, MAX_SAMPLES)
    region, others = sampling[OWN_REGION:], sampling[PARTNER_REGION:]
    window, partner_window = window_at(sampling, OWN_WINDOW), window_at(sampling, PARTNER_WINDOW)
    y, own_y = sample_points(region[0], region[2], window[0], window[2], grid, size, False, side)
    x, own_x = sample_points(region[1], region[3], window[1], window[3], grid, size, region[4] > 0, 2 * side)
    _, partner_y = sample_points(others[0], others[2], partner_window[0], partner_window[2], grid, size, False, side)
    _, partner_x = sample_points(
        others[1], others[3], partner_window[1], partner_window[3], grid, size, others[4] > 0, 2 * side
    )
    weight, box = sampling[WEIGHT], sampling[BOX : BOX + 4]
    pure = weight == 1 and box[2] <= box[0]
    num, last, partner_last = side * side, window[3] - 1, partner_window[3] - 1
    pixels, partner_pixels = image.reshape(image.shape[0], -1), partner.reshape(partner.shape[0], -1)
    scores = np.empty(grid * grid, np.float64)
    for patch in range(grid * grid):
        r, c = patch // grid, patch % grid
        red_sum, green_sum, blue_sum, squares = 0, 0, 0, 0
        for i in range(side):
            row = pixels[own_y[r, i]]
            for j in range(i & 1, 2 * side, 2):
                column = own_x[c, j]
                at, beside = 3 * column, 3 * min(column + 1, last)
                red = np.int64(row[at]) + row[beside]
                green = np.int64(row[at + 1]) + row[beside + 1]
                blue = np.int64(row[at + 2]) + row[beside + 2]
                if not pure:
                    other_row, column = partner_pixels[partner_y[r, i]], partner_x[c, j]
                    at, beside = 3 * column, 3 * min(column + 1, partner_last)
                    cut = box[0] <= y[r, i] < box[2] and box[1] <= x[c, j] < box[3]
                    red = _mixed(red, np.int64(other_row[at]) + other_row[beside], weight, cut)
                    green = _mixed(green, np.int64(other_row[at + 1]) + other_row[beside + 1], weight, cut)
                    blue = _mixed(blue, np.int64(other_row[at + 2]) + other_row[beside + 2], weight, cut)
                red_sum += red
                green_sum += green
                blue_sum += blue
                squares += red * red + green * green + blue * blue
        spread = num * squares - (red_sum * red_sum + green_sum * green_sum + blue_sum * blue_sum)
        scores[patch] = np.sqrt(spread / 3) / (num * 510)
    return scores
