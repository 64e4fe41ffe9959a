"""How an image is sampled: the row of numbers that plans it, and the filter that resizes along an axis."""

import numpy as np

from pipeline.compiling import compiled

# What the sampling of an image is planned by, a row of float32.
OWN_REGION = 0  # (top, left, bottom, right) in pixels of the window, then 1 for the mirror image
PARTNER_REGION = 5  # the same of the image that it is mixed with
WEIGHT = 10  # the image's own share under mixup, else 1
BOX = 11  # (top, left, bottom, right) of what cutmix takes from the partner, in pixels of the square image
GRID_SIZE = 15
TEMPERATURE = 16
SCORED = 17  # 1: the patches are chosen here by contrast; 0: they are given
OWN_WINDOW = 18  # (top, left, bottom, right), whole pixels of the given image: what lies outside is as if not there
PARTNER_WINDOW = 22
NUM_SAMPLING = 26


@compiled
def axis_weights(start, end, window_start, window_end, size_out):  # type: ignore[no-untyped-def]
    """The triangle filter of a resize along one axis, as wide as a pixel of the larger of the two grids.

    Where the filter reaches beyond the window, it is cut off and what is left of it counts for the whole, as in Pillow.

    Args:
        start, end: of the region that becomes ``size_out`` pixels, in pixels of the window, not whole in general.
        window_start, window_end: the window's first pixel in the input and the one behind its last.

    Returns:
        first int64 [size_out] and count int64 [size_out], the input's pixels under the filter of each of the output's;
        weights float32 [size_out, T], theirs.
    """
    size_in = window_end - window_start
    scale = (end - start) / size_out
    reach = max(scale, 1.0)
    first = np.empty(size_out, np.int64)
    count = np.empty(size_out, np.int64)
    weights = np.zeros((size_out, int(2 * reach) + 3), np.float32)
    for i in range(size_out):
        centre = start + (i + 0.5) * scale
        low = min(max(int(np.floor(centre - reach + 0.5)), 0), size_in - 1)
        high = max(min(int(np.floor(centre + reach + 0.5)), size_in), low + 1)
        total = 0.0
        for k in range(low, high):
            total += max(1.0 - abs(k + 0.5 - centre) / reach, 0.0)
        for k in range(low, high):
            weights[i, k - low] = max(1.0 - abs(k + 0.5 - centre) / reach, 0.0) / total
        first[i], count[i] = window_start + low, high - low
    return first, count, weights


@compiled
def window_at(sampling, place):  # type: ignore[no-untyped-def]
    """(top, left, bottom, right) in whole pixels."""
    return int(sampling[place]), int(sampling[place + 1]), int(sampling[place + 2]), int(sampling[place + 3])
