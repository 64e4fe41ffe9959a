"""The row of numbers that an image is planned by, and the filter that resizes along an axis."""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.lanes import WEIGHT_BITS

# Everything planned of an image, a row of float32.
OWN_REGION = 0  # (top, left, bottom, right) in pixels of the window, then 1 for the mirror image
PARTNER_REGION = 5  # the same of the image that it is mixed with
WEIGHT = 10  # the image's own share under mixup, else 1
BOX = 11  # (top, left, bottom, right) of what cutmix takes from the partner, in pixels of the square image
GRID_SIZE = 15
TEMPERATURE = 16
SCORED = 17  # 1: the patches are chosen here by contrast; 0: they are given
OWN_WINDOW = 18  # (top, left, bottom, right), whole pixels of the given image: what lies outside is as if not there
PARTNER_WINDOW = 22
SQUARE = 26  # 1: the given images are cropped, resized and mirrored already
ERASE_BOX = 27  # (top, left, bottom, right), all 0 where nothing is erased
ERASE_KEY = 31  # of the noise in it, in pieces of 16 bits, the lowest first
NOISE_TABLES = 35  # where ``erasing.noise_tables`` lie in memory, in such pieces; 0: the box gets the colour below
COLOR = 39  # data.mean: what warps bring in from beyond the border
NUM_LEVELS = 42  # operations in a row
NUM_NOISE = 43
# Behind these: the operations of the image and those of its partner; their tables, 256 bytes each in the place of 64
# numbers; the noise of the selection; the ids that are kept, where they are planned.
LEVELS = 44

# An operation is a row of numbers, float32: its kind, then what the kind works with.
NUM_NUMBERS = 12
LEVEL_SIZE = 1 + NUM_NUMBERS
TABLE_SIZE = 64


@compiled
def pixels_under(start, end, window_start, window_end, size_out, i):  # type: ignore[no-untyped-def]
    """The input's pixels under the filter of the output's pixel i, as ``axis_weights`` weighs them: first, count."""
    size_in = window_end - window_start
    scale = (np.float64(end) - np.float64(start)) / size_out
    reach = max(scale, 1.0)
    centre = start + (i + 0.5) * scale
    low = min(max(int(np.floor(centre - reach + 0.5)), 0), size_in - 1)
    high = max(min(int(np.floor(centre + reach + 0.5)), size_in), low + 1)
    return window_start + low, high - low


@compiled
def axis_weights(start, end, window_start, window_end, size_out):  # type: ignore[no-untyped-def]
    """The triangle filter of a resize along one axis, as wide as a pixel of the larger of the two grids.

    Where the filter reaches beyond the window, it is cut off and what is left of it counts for the whole, as in Pillow.

    Args:
        start, end: of the region that becomes ``size_out`` pixels, in pixels of the window, not whole in general.
        window_start, window_end: the window's first pixel in the input and the one behind its last.

    Returns:
        first int64 [size_out], ascending, and count int64 [size_out], the input's pixels under the filter of each of
        the output's; weights int16 [size_out, T], theirs in units of 1 / 2**14, zeros behind them. T is even. Weights
        add up to one exactly.
    """
    one = 2.0**WEIGHT_BITS
    scale = (np.float64(end) - np.float64(start)) / size_out
    reach = max(scale, 1.0)
    first, count = np.empty(size_out, np.int64), np.empty(size_out, np.int64)
    longest = 1
    for i in range(size_out):
        first[i], count[i] = pixels_under(start, end, window_start, window_end, size_out, i)
        longest = max(longest, count[i])
    weights = np.zeros((size_out, longest + longest % 2), np.int16)
    sums = np.empty(longest, np.float64)
    for i in range(size_out):
        beside = window_start + start + (i + 0.5) * scale - (first[i] + 0.5)
        total = 0.0
        for k in range(count[i]):
            total += max(1.0 - abs(k - beside) / reach, 0.0)
            sums[k] = total
        # Sums are rounded and not weights, so that no remainder is left.
        before = 0
        for k in range(count[i]):
            until = int(sums[k] / total * one + 0.5)
            weights[i, k] = until - before
            before = until
    return first, count, weights


@compiled
def window_at(sampling, place):  # type: ignore[no-untyped-def]
    """(top, left, bottom, right) in whole pixels."""
    return int(sampling[place]), int(sampling[place + 1]), int(sampling[place + 2]), int(sampling[place + 3])


@compiled
def levels_at(planned, partner):  # type: ignore[no-untyped-def]
    """The operations on the image, or on its partner: float32 [L, 13]."""
    num = int(planned[NUM_LEVELS])
    start = LEVELS + (num * LEVEL_SIZE if partner else 0)
    return planned[start : start + num * LEVEL_SIZE].reshape(num, LEVEL_SIZE)


@compiled
def tables_at(planned, partner):  # type: ignore[no-untyped-def]
    """The tables of the operations on the image, or on its partner: uint8 [L, 256]."""
    num = int(planned[NUM_LEVELS])
    start = LEVELS + 2 * num * LEVEL_SIZE + (num * TABLE_SIZE if partner else 0)
    return planned[start : start + num * TABLE_SIZE].view(np.uint8).reshape(num, 256)


@compiled
def noise_at(planned):  # type: ignore[no-untyped-def]
    """The noise of the selection, float32 [C] in [0, 1); behind it lie the planned ids."""
    start = LEVELS + 2 * int(planned[NUM_LEVELS]) * (LEVEL_SIZE + TABLE_SIZE)
    return planned[start : start + int(planned[NUM_NOISE])]


@compiled
def ids_at(planned):  # type: ignore[no-untyped-def]
    """The planned ids, float32 [K]; of no length where there are none."""
    start = LEVELS + 2 * int(planned[NUM_LEVELS]) * (LEVEL_SIZE + TABLE_SIZE) + int(planned[NUM_NOISE])
    return planned[start:]


@compiled
def color_of(planned):  # type: ignore[no-untyped-def]
    """The colour beyond the border: uint8 [3]."""
    color = np.empty(3, np.uint8)
    for c in range(3):
        color[c] = np.uint8(planned[COLOR + c])
    return color
