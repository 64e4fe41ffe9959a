"""Scores of patches out of score maps: the mean over what a patch shows of the stored image.

Shares of cells are whole numbers that add up to one exactly, and so are the sums over them: a mean is exact, does not
depend on the batch, and patches that see the same cells score alike. Where a partner is mixed in, that is done in
double precision; the result is rounded once. A constant map gives a constant score.
"""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.chain import AFFINE, BLUR, SMOOTHED, boxes_of

_BITS = 15  # of a share along an axis
_NOTHING = 1e-6  # of a patch's side: less of the image than this is rounding, as where a patch begins at its border
NOWHERE = -1  # the mean of a patch that shows nothing of the image


@compiled
def _shares(start, end, grid, first, count, weights, place):  # type: ignore[no-untyped-def]
    """The shares of cells in what lies between two points on an axis, in units of 1 / 2**15.

    Args:
        start, end: in cells; what lies beyond the grid does not count.
        first, count: int64 [n], written at ``place``: the first cell, and how many; none if nothing lies on the grid.
        weights: int64 [n, G], their shares, written there.
    """
    low, high = min(max(start, 0.0), float(grid)), min(max(end, 0.0), float(grid))
    first[place], count[place] = 0, 0
    if not high - low > _NOTHING * (end - start):
        return
    cell, before = min(int(low), grid - 1), 0
    first[place] = cell
    while cell < grid and cell < high:
        # Sums are rounded and not shares, so that no remainder is left.
        until = int((min(cell + 1.0, high) - low) / (high - low) * (1 << _BITS) + 0.5)
        weights[place, count[place]] = until - before
        before = until
        count[place] += 1
        cell += 1


@compiled
def _means_of_grid(cells, region, side, size, mirrored, out):  # type: ignore[no-untyped-def]
    """Each patch's mean where every patch shows its own place of the crop: int64 [N], written."""
    grid, num = cells.shape[0], side // size
    scale_y, scale_x = (region[2] - region[0]) / side, (region[3] - region[1]) / side
    first, count = np.empty((2, num), np.int64), np.empty((2, num), np.int64)
    weights, line = np.empty((2, num, grid), np.int64), np.empty(grid, np.int64)
    for k in range(num):
        at, at_x = k * size, side - (k + 1) * size if mirrored else k * size
        _shares(region[0] + at * scale_y, region[0] + (at + size) * scale_y, grid, first[0], count[0], weights[0], k)
        _shares(
            region[1] + at_x * scale_x, region[1] + (at_x + size) * scale_x, grid, first[1], count[1], weights[1], k
        )
    for r in range(num):
        for x in range(grid):
            line[x] = 0
        for i in range(count[0, r]):
            share, row = weights[0, r, i], first[0, r] + i
            for x in range(grid):
                line[x] += share * np.int64(cells[row, x])
        for c in range(num):
            total = 0
            for i in range(count[1, c]):
                total += weights[1, c, i] * line[first[1, c] + i]
            out[r * num + c] = total if count[0, r] > 0 and count[1, c] > 0 else NOWHERE


@compiled
def _means_of_boxes(cells, region, side, size, mirrored, levels, out):  # type: ignore[no-untyped-def]
    """The same where operations make a patch out of another place of the crop: of the box that it pulls."""
    grid, num = cells.shape[0], side // size
    scale_y, scale_x = (region[2] - region[0]) / side, (region[3] - region[1]) / side
    fixed, boxes = np.empty((len(levels), 6), np.int64), np.empty((len(levels) + 1, 4), np.int64)
    first, count, weights = np.empty(2, np.int64), np.empty(2, np.int64), np.empty((2, grid), np.int64)
    for patch in range(num * num):
        boxes_of(levels, fixed, side, (patch // num) * size, (patch % num) * size, size, boxes)
        top, left, height, width = boxes[0, 0], boxes[0, 1], boxes[0, 2], boxes[0, 3]
        if mirrored:
            left = side - left - width
        _shares(region[0] + top * scale_y, region[0] + (top + height) * scale_y, grid, first, count, weights, 0)
        _shares(region[1] + left * scale_x, region[1] + (left + width) * scale_x, grid, first, count, weights, 1)
        total = 0
        for i in range(count[0]):
            along = 0
            for k in range(count[1]):
                along += weights[1, k] * np.int64(cells[first[0] + i, first[1] + k])
            total += weights[0, i] * along
        out[patch] = total if count[0] > 0 and count[1] > 0 else NOWHERE


@compiled
def _moves_pixels(levels):  # type: ignore[no-untyped-def]
    for level in range(len(levels)):
        kind = int(levels[level, 0])
        if kind in (AFFINE, SMOOTHED, BLUR):
            return True
    return False


@compiled
def score_patches(grids, regions, mirrored, levels, partner, weights, boxes, size, scores):  # type: ignore[no-untyped-def]
    """The scores of all patches of a batch.

    Args:
        grids: uint8 [B, G, G].
        regions: float64 [B, 4], (top, left, bottom, right) of the crops, in cells.
        mirrored: bool [B].
        levels: float32 [B, L, 13], the operations on each crop, as ``boxes_of`` takes them.
        partner: int64 [B], place of the image that each is mixed with.
        weights: float32 [B], an image's own share under mixup, else 1.
        boxes: int32 [B, 4], (top, left, bottom, right) of what cutmix takes from the partner, in pixels.
        size: side of a patch in pixels.
        scores: float32 [B, N], written: 0 to 1, and 0 where a patch shows nothing of the image.
    """
    num_rows, num_patches = scores.shape
    num = int(np.rint(np.sqrt(num_patches)))
    side = num * size
    means = np.empty((num_rows, num_patches), np.int64)
    for row in range(num_rows):
        if _moves_pixels(levels[row]):
            _means_of_boxes(grids[row], regions[row], side, size, mirrored[row], levels[row], means[row])
        else:
            _means_of_grid(grids[row], regions[row], side, size, mirrored[row], means[row])
    whole = 255.0 * (1 << 2 * _BITS)
    for row in range(num_rows):
        box, own, other = boxes[row], means[row], means[partner[row]]
        from_partner = 1.0 - np.float64(weights[row])
        is_cut = box[2] > box[0]
        for patch in range(num_patches):
            share = from_partner
            if is_cut:
                top, left = (patch // num) * size, (patch % num) * size
                height = min(box[2] - top, size) - max(box[0] - top, 0)
                width = min(box[3] - left, size) - max(box[1] - left, 0)
                share = max(height, 0) * max(width, 0) / (size * size)
            mine, theirs = float(max(own[patch], 0)), float(max(other[patch], 0))
            scores[row, patch] = np.float32((mine + share * (theirs - mine)) / whole)
