"""A row of operations on one image, carried out on a box of it and on nothing else.

A box of the last image pulls the box that it needs of the one before, and so on to the crop, of which just that box is
resampled; then the operations run forwards on boxes. No pixel depends on the box that it is computed in, so patches on
demand are those of the whole image, bit for bit. An operation that looks at the whole image needs it whole.
"""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.blurring import blur, blur_radius
from pipeline.graph.kernels.pixels import (
    blend_with_grey,
    blend_with_smoothed,
    contrast_table,
    equalize_tables,
    look_up,
    multiply,
    stretch_tables,
)
from pipeline.graph.kernels.warp import in_pixels, source_box, warp

# The kinds of ``operations.OPERATIONS`` as the first number of an operation has them.
NOTHING, AFFINE, TABLE, GREY, SMOOTHED, BLUR, CONTRAST, STRETCH, EQUALIZE, MATRIX = range(10)


@compiled
def boxes_of(levels, fixed, side, top, left, size, boxes):  # type: ignore[no-untyped-def]
    """The boxes of every image in the row that a square of the last one needs; the crop's is first.

    Args:
        levels: float32 [L, 13]. fixed: int64 [L, 6], written: the warps in pixels.
        boxes: int64 [L + 1, 4], written: (top, left, height, width) each.
    """
    num = len(levels)
    boxes[num, 0], boxes[num, 1], boxes[num, 2], boxes[num, 3] = top, left, size, size
    for level in range(num - 1, -1, -1):
        kind, after, before = int(levels[level, 0]), boxes[level + 1], boxes[level]
        if kind == AFFINE:
            in_pixels(levels[level, 1:7], side, fixed[level])
            source_box(fixed[level], after, side, before)
            continue
        more = 1 if kind == SMOOTHED else blur_radius(levels[level, 1]) if kind == BLUR else 0
        before[0], before[1] = max(after[0] - more, 0), max(after[1] - more, 0)
        before[2] = min(after[0] + after[2] + more, side) - before[0]
        before[3] = min(after[1] + after[3] + more, side) - before[1]
        if after[2] == 0 or after[3] == 0:
            before[2] = before[3] = 0


@compiled
def run_level(level, table, fixed, source, before, out, after, side, fill):  # type: ignore[no-untyped-def]
    """One operation from a box to the next; True if the pixels are in ``out`` now, False if they changed in place.

    Args:
        level: float32 [13]. table: uint8 [256] under ``TABLE``.
        source: pixels of the box ``before``; out: room for those of ``after``.
    """
    kind, num = int(level[0]), 3 * before[2] * before[3]
    if kind == AFFINE:
        warp(source, before, out, after, fixed, side, fill)
        return True
    if kind == SMOOTHED:
        blend_with_smoothed(source, before, out, after, side, level[1])
        return True
    if kind == BLUR:
        blur(source, before, out, after, side, level[1])
        return True
    if kind == TABLE:
        look_up(source, num, table, 0)
    elif kind == GREY:
        blend_with_grey(source, num, level[1])
    elif kind == MATRIX:
        multiply(source, num, level[1:13])
    elif kind == CONTRAST:
        found = np.empty(256, np.uint8)
        contrast_table(source, num, level[1], found)
        look_up(source, num, found, 0)
    elif kind in (STRETCH, EQUALIZE):
        tables = np.empty(768, np.uint8)
        if kind == STRETCH:
            stretch_tables(source, num, tables)
        else:
            equalize_tables(source, num, tables)
        look_up(source, num, tables, 256)
    return False


@compiled
def run_levels(levels, tables, fixed, boxes, side, fill, first, second):  # type: ignore[no-untyped-def]
    """All operations in a row; True if the pixels are in ``second`` at the end, False if in ``first``.

    Args:
        levels, fixed, boxes: of ``boxes_of``. tables: uint8 [L, 256].
        first: pixels of ``boxes[0]``; both have room for the largest of the boxes.
    """
    swapped = False
    for level in range(len(levels)):
        if int(levels[level, 0]) == NOTHING:
            continue
        source, out = (second, first) if swapped else (first, second)
        moved = run_level(
            levels[level], tables[level], fixed[level], source, boxes[level], out, boxes[level + 1], side, fill
        )
        swapped = swapped != moved
    return swapped
