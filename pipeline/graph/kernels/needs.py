"""Which units of a JPEG the kept patches of an image are made from."""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.chain import CONTRAST, EQUALIZE, STRETCH, boxes_of
from pipeline.graph.kernels.patches import takes
from pipeline.graph.kernels.sampling import (
    GRID_SIZE,
    OWN_REGION,
    OWN_WINDOW,
    PARTNER_REGION,
    PARTNER_WINDOW,
    SCORED,
    ids_at,
    levels_at,
    pixels_under,
    window_at,
)
from pipeline.jpeg.kernels.frame import HEIGHT, REACH_X, REACH_Y, UNIT_HEIGHT, UNIT_WIDTH, WIDTH


@compiled
def looks_at_all(levels):  # type: ignore[no-untyped-def]
    """Whether an operation looks at the whole image."""
    found = False
    for level in range(len(levels)):
        found |= int(levels[level, 0]) in (CONTRAST, STRETCH, EQUALIZE)
    return found


@compiled
def _mark(frame, region, top, left, bottom, right, needed):  # type: ignore[no-untyped-def]
    """Mark the units under pixels of the image, those included that colour is smoothed with.

    Args:
        region: int64 [4], of the units that there are places for, as from ``units_around``.
        needed: bool [rows, columns], written.
    """
    first_row = max(top - frame[REACH_Y], 0) // frame[UNIT_HEIGHT] - region[0]
    first_column = max(left - frame[REACH_X], 0) // frame[UNIT_WIDTH] - region[1]
    last_row = (min(bottom + frame[REACH_Y], frame[HEIGHT]) - 1) // frame[UNIT_HEIGHT] - region[0]
    last_column = (min(right + frame[REACH_X], frame[WIDTH]) - 1) // frame[UNIT_WIDTH] - region[1]
    for row in range(max(first_row, 0), min(last_row + 1, needed.shape[0])):
        for column in range(max(first_column, 0), min(last_column + 1, needed.shape[1])):
            needed[row, column] = True


@compiled
def _span(start, end, window_start, window_end, side, at, count):  # type: ignore[no-untyped-def]
    """The pixels under the filters of neighbouring pixels of the output: the first, and the one behind the last."""
    low, _ = pixels_under(start, end, window_start, window_end, side, at)
    last, more = pixels_under(start, end, window_start, window_end, side, at + count - 1)
    return low, last + more


@compiled
def mark_needs(planned, partner, size, margin, frame, corner, region, needed):  # type: ignore[no-untyped-def]
    """Mark the units that the kept patches of an image are made from.

    Args:
        planned: float32, of ``rows.kernel_rows``. partner: the patches are those of the row ``planned`` for which the
            image is the one that it is mixed with.
        size: side of a patch in pixels.
        margin: pixels of the window around what the kernels look at, for filters of others.
        frame: of ``read_frame``.
        corner: (row, column) of the window in the image.
        region: int64 [4], of ``units_around``. needed: bool [rows, columns of the region], written.
    """
    levels, grid = levels_at(planned, partner), int(planned[GRID_SIZE])
    ids = ids_at(planned)
    if planned[SCORED] != 0 or len(ids) in (0, grid * grid) or looks_at_all(levels):
        needed[:] = True
        return
    place, window_place = (PARTNER_REGION, PARTNER_WINDOW) if partner else (OWN_REGION, OWN_WINDOW)
    start, end, mirrored = planned[place : place + 2], planned[place + 2 : place + 4], planned[place + 4] > 0
    window, side, num = window_at(planned, window_place), grid * size, len(levels)
    spans = np.empty((2, grid, 2), np.int64)  # under each row and column of patches, where no operation moves them
    for k in range(grid if num == 0 else 0):
        at = side - (k + 1) * size if mirrored else k * size
        spans[0, k, 0], spans[0, k, 1] = _span(start[0], end[0], window[0], window[2], side, k * size, size)
        spans[1, k, 0], spans[1, k, 1] = _span(start[1], end[1], window[1], window[3], side, at, size)
    fixed, boxes = np.empty((num, 6), np.int64), np.empty((num + 1, 4), np.int64)
    for i in range(len(ids)):
        row, column = int(ids[i]) // grid, int(ids[i]) % grid
        from_own, from_partner = takes(planned, row * size, column * size, size)
        if not (from_partner if partner else from_own):
            continue
        if num == 0:
            low_y, high_y, low_x, high_x = spans[0, row, 0], spans[0, row, 1], spans[1, column, 0], spans[1, column, 1]
        else:
            boxes_of(levels, fixed, side, row * size, column * size, size, boxes)
            height, width = boxes[0, 2], boxes[0, 3]
            if height <= 0 or width <= 0:
                continue
            at = side - boxes[0, 1] - width if mirrored else boxes[0, 1]
            low_y, high_y = _span(start[0], end[0], window[0], window[2], side, boxes[0, 0], height)
            low_x, high_x = _span(start[1], end[1], window[1], window[3], side, at, width)
        _mark(
            frame,
            region,
            corner[0] + low_y - margin,
            corner[1] + low_x - margin,
            corner[0] + high_y + margin,
            corner[1] + high_x + margin,
            needed,
        )
