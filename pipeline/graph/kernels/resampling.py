"""Patches resampled straight from a decoded image.

One image at a time, in DALI's own threads, without Python. Numbers are added in a fixed order.
"""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.sampling import (
    BOX,
    GRID_SIZE,
    OWN_REGION,
    OWN_WINDOW,
    PARTNER_REGION,
    PARTNER_WINDOW,
    SCORED,
    TEMPERATURE,
    WEIGHT,
    axis_weights,
    window_at,
)
from pipeline.graph.kernels.thumbnail import thumbnail_contrast
from pipeline.selection.kernels.ranking import keep_best


@compiled
def _down(pixels, first, count, weights, low, high, line):  # type: ignore[no-untyped-def]
    """One row of the output, not yet resized along it: float32 [high - low] of interleaved channels into ``line``."""
    width = high - low
    above, weight = pixels[first, low:high], weights[0]
    if count == 1:
        for i in range(width):
            line[i] = weight * np.float32(above[i])
        return
    below, weight_below = pixels[first + 1, low:high], weights[1]
    for i in range(width):
        line[i] = weight * np.float32(above[i]) + weight_below * np.float32(below[i])
    k = 2
    while k + 1 < count:  # two at a time, which reads and writes the line half as often
        above, weight = pixels[first + k, low:high], weights[k]
        below, weight_below = pixels[first + k + 1, low:high], weights[k + 1]
        for i in range(width):
            line[i] += weight * np.float32(above[i]) + weight_below * np.float32(below[i])
        k += 2
    if k < count:
        above, weight = pixels[first + k, low:high], weights[k]
        for i in range(width):
            line[i] += weight * np.float32(above[i])


@compiled
def _along(line, begin, first, count, weights, left, size, mirrored, out):  # type: ignore[no-untyped-def]
    """A line resized along itself: ``size`` pixels from column ``left`` on, float32 [size * 3] into ``out``."""
    for c in range(size):
        at, num = 3 * (first[left + c] - begin), count[left + c]
        source, weight = line[at : at + 3 * num], weights[left + c]
        red, green, blue = weight[0] * source[0], weight[0] * source[1], weight[0] * source[2]
        for k in range(1, num):
            red += weight[k] * source[3 * k]
            green += weight[k] * source[3 * k + 1]
            blue += weight[k] * source[3 * k + 2]
        place = 3 * (size - 1 - c) if mirrored else 3 * c
        out[place], out[place + 1], out[place + 2] = red, green, blue


@compiled
def _resample_patch(pixels, rows, columns, patch, grid, size, mirrored, line, tile):  # type: ignore[no-untyped-def]
    """Patch ``patch`` of the resized (and mirrored) image: float32 [P*P*3] into ``tile``, not rounded."""
    top, left = (patch // grid) * size, (patch % grid) * size
    if mirrored:
        left = grid * size - left - size
    begin = columns[0][left]
    end = columns[0][left + size - 1] + columns[1][left + size - 1]
    for r in range(size):
        _down(pixels, rows[0][top + r], rows[1][top + r], rows[2][top + r], 3 * begin, 3 * end, line)
        out = tile[3 * r * size : 3 * (r + 1) * size]
        _along(line, begin, columns[0], columns[1], columns[2], left, size, mirrored, out)


@compiled
def select_then_resample(ids, image, partner, sampling, noise, kept, patches):  # type: ignore[no-untyped-def]
    """Choose patches of an image that is not resized yet, and resample just those.

    Args:
        ids: int32 [K], what is kept if that is planned; else only its length counts.
        image, partner: uint8 [H, W, 3], decoded, the image and the one that it is mixed with.
        sampling: float32 [26], see ``sampling``.
        noise: float32 [N] in [0, 1) under a temperature, else of any length.
        kept: int32 [K], written.
        patches: uint8 [K, P, P, 3], written.
    """
    grid, size = int(sampling[GRID_SIZE]), patches.shape[1]
    if sampling[SCORED] > 0 and len(ids) < grid * grid:
        keep_best(thumbnail_contrast(image, partner, sampling, size), noise, sampling[TEMPERATURE], kept)
    else:
        for place in range(len(ids)):
            kept[place] = place if len(ids) == grid * grid else ids[place]
    weight, box = sampling[WEIGHT], sampling[BOX : BOX + 4]
    own, other = np.empty(size * size * 3, np.float32), np.empty(size * size * 3, np.float32)
    line = np.empty(3 * max(image.shape[1], partner.shape[1]), np.float32)
    side = grid * size
    region, others = sampling[OWN_REGION:], sampling[PARTNER_REGION:]
    top, left, bottom, right = window_at(sampling, OWN_WINDOW)
    rows = axis_weights(region[0], region[2], top, bottom, side)
    columns = axis_weights(region[1], region[3], left, right, side)
    mixes = weight < 1 or box[2] > box[0]
    top, left, bottom, right = window_at(sampling, PARTNER_WINDOW)
    partner_rows = axis_weights(others[0], others[2], top, bottom, side) if mixes else rows
    partner_columns = axis_weights(others[1], others[3], left, right, side) if mixes else columns
    pixels = image.reshape(image.shape[0], -1)
    partner_pixels = partner.reshape(partner.shape[0], -1)
    half = np.float32(0.5)
    for place in range(len(kept)):
        patch, out = kept[place], patches[place].reshape(-1)
        top, left = (patch // grid) * size, (patch % grid) * size
        # What cutmix takes from the partner, as rows and columns of this patch.
        low_y, high_y = max(int(box[0]) - top, 0), min(int(box[2]) - top, size)
        low_x, high_x = max(int(box[1]) - left, 0), min(int(box[3]) - left, size)
        cut = (high_y - low_y) * (high_x - low_x) if high_y > low_y and high_x > low_x else 0
        if cut < size * size:
            _resample_patch(pixels, rows, columns, patch, grid, size, region[4] > 0, line, own)
        if cut > 0 or weight < 1:
            _resample_patch(
                partner_pixels, partner_rows, partner_columns, patch, grid, size, others[4] > 0, line, other
            )
        if weight < 1:
            share = np.float32(1) - weight
            for i in range(len(own)):
                own[i] += share * (other[i] - own[i])
        elif cut > 0:
            for r in range(low_y, high_y):
                for i in range(3 * (r * size + low_x), 3 * (r * size + high_x)):
                    own[i] = other[i]
        for i in range(len(own)):
            out[i] = np.uint8(np.int32(own[i] + half))
