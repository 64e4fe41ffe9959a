"""The contrast of patches of an image that operations change, from a small sketch of it.

A sketch has up to 8 x 8 samples of each patch. The operations run on it as on any image, for their warps are in units
of its side; smoothing and blurring, which are in pixels, are passed over.
"""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.chain import BLUR, NOTHING, SMOOTHED, boxes_of, run_levels
from pipeline.graph.kernels.erasing import erase
from pipeline.graph.kernels.pixel_lanes import SPARE
from pipeline.graph.kernels.sampling import (
    BOX,
    ERASE_BOX,
    GRID_SIZE,
    NUM_LEVELS,
    OWN_REGION,
    OWN_WINDOW,
    PARTNER_REGION,
    PARTNER_WINDOW,
    WEIGHT,
    color_of,
    levels_at,
    tables_at,
    window_at,
)
from pipeline.graph.kernels.thumbnail import MAX_SAMPLES, sample_points, thumbnail_contrast
from pipeline.selection.kernels.contrast import patch_contrast


@compiled
def _sketch(image, planned, partner, size, samples):  # type: ignore[no-untyped-def]
    """The crop of the image, or of its partner, after its operations: uint8 [G * samples, G * samples, 3]."""
    grid = int(planned[GRID_SIZE])
    side = grid * samples
    place, window = (PARTNER_REGION, PARTNER_WINDOW) if partner else (OWN_REGION, OWN_WINDOW)
    region, (top, left, bottom, right) = planned[place : place + 5], window_at(planned, window)
    _, y = sample_points(region[0], region[2], top, bottom, grid, size, False, samples)
    _, x = sample_points(region[1], region[3], left, right, grid, size, region[4] > 0, samples)
    first, second = np.empty(3 * side * side + SPARE, np.uint8), np.empty(3 * side * side + SPARE, np.uint8)
    place = 0
    for i in range(side):
        row = image[y[i // samples, i % samples]]
        for j in range(side):
            column = x[j // samples, j % samples]
            beside = min(column + 1, right - 1)
            for c in range(3):
                first[place + c] = (np.int64(row[column, c]) + row[beside, c] + 1) >> 1
            place += 3
    levels = levels_at(planned, partner).copy()
    num = len(levels)
    for level in range(num):
        if int(levels[level, 0]) == SMOOTHED or int(levels[level, 0]) == BLUR:
            levels[level, 0] = NOTHING
    fixed, boxes = np.empty((num, 6), np.int64), np.empty((num + 1, 4), np.int64)
    boxes_of(levels, fixed, side, 0, 0, side, boxes)
    # A warp may need less than all, and takes its source for just that.
    for level in range(num + 1):
        boxes[level, 0] = boxes[level, 1] = 0
        boxes[level, 2] = boxes[level, 3] = side
    swapped = run_levels(levels, tables_at(planned, partner), fixed, boxes, side, color_of(planned), first, second)
    return (second if swapped else first)[: 3 * side * side].reshape(side, side, 3)


@compiled
def planned_contrast(image, partner, planned, size):  # type: ignore[no-untyped-def]
    """Each patch's contrast as the model would see it: float64 [N]."""
    erases = planned[ERASE_BOX + 2] > planned[ERASE_BOX]
    if planned[NUM_LEVELS] == 0 and not erases:
        return thumbnail_contrast(image, partner, planned, size)
    samples = min(size, MAX_SAMPLES)
    sketch = _sketch(image, planned, False, size, samples)
    side, scale = sketch.shape[0], size / samples
    weight, box = planned[WEIGHT], planned[BOX : BOX + 4]
    if weight < 1 or box[2] > box[0]:
        other = _sketch(partner, planned, True, size, samples)
        for i in range(side):
            for j in range(side):
                y, x = int((i + 0.5) * scale), int((j + 0.5) * scale)
                cut = box[0] <= y < box[2] and box[1] <= x < box[3]
                for c in range(3):
                    own, theirs = np.float32(sketch[i, j, c]), np.float32(other[i, j, c])
                    sketch[i, j, c] = theirs if cut else np.uint8(own + (1 - weight) * (theirs - own) + 0.5)
    if erases:
        pixel = np.empty(3, np.uint8)
        for i in range(side):
            y = int((i + 0.5) * scale)
            if not planned[ERASE_BOX] <= y < planned[ERASE_BOX + 2]:
                continue
            for j in range(side):
                x = int((j + 0.5) * scale)
                if planned[ERASE_BOX + 1] <= x < planned[ERASE_BOX + 3]:
                    erase(planned, y, x, 1, 1, pixel)
                    for c in range(3):
                        sketch[i, j, c] = pixel[c]
    return patch_contrast(sketch, samples)
