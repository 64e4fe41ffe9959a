"""Boxes of a resized image, resampled straight from the image.

All arithmetic is on whole numbers, and a pixel does not depend on the box that it is in: the bits are the same in every
box, on every machine.
"""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.lanes import GROUP, LANES, LOAD_BYTES, weigh_columns, weigh_rows

_SPARE = GROUP * GROUP * 3  # bytes for a group of pixels that does not lie in the box as a whole
_NARROWEST = (LANES + 2) // 3  # pixels: narrower images are widened first


@compiled
def _down(source, width, count, weights, begin, end, line):  # type: ignore[no-untyped-def]
    """A row of the output, not yet resized along it.

    Args:
        source: address of the first row of the image under the filter.
        width: numbers in a row of the image, of interleaved channels.
        count, weights: rows under the filter, and address of their weights.
        begin, end: the numbers of a row that are wanted.
        line: address of int16 [end - begin], written. Up to 15 numbers on either side of it are written too.
    """
    for start in range(begin, end, LANES):
        place = min(start, width - LANES)  # nothing is read behind the image's last row
        weigh_rows(source + place, width, count, weights, line + 2 * (place - begin))


@compiled
def _along(lines, lines_step, columns, left, mirrored, top, out, spare):  # type: ignore[no-untyped-def]
    """Up to 4 lines resized along themselves.

    Args:
        lines: address of the first; pixel 0 of a line is the first that column ``left`` looks at.
        columns: as from ``axis_weights``.
        mirrored: the lowest column is written last.
        top: row of ``out`` that the first line becomes.
        out: uint8 [n, h, w, 3], n * w columns, written.
        spare: uint8 [48 or more], scratch.
    """
    first, _, weights = columns
    table, table_step, pairs = weights.ctypes.data, weights.strides[0], weights.shape[1] // 2
    num_tiles, height, width, _ = out.shape
    last, begin, num_rows = num_tiles * width - 1, first[left], min(GROUP, height - top)
    base, sign = (left + last, -1) if mirrored else (left, 1)
    for tile in range(num_tiles):
        target = out.ctypes.data + tile * out.strides[0] + top * out.strides[1]
        for start in range(0, width, GROUP):
            place = tile * width + start
            a, b = base + sign * place, base + sign * min(place + 1, last)
            c, d = base + sign * min(place + 2, last), base + sign * min(place + 3, last)
            whole = num_rows == GROUP and start + GROUP <= width
            weigh_columns(
                lines,
                lines_step,
                (6 * (first[a] - begin), 6 * (first[b] - begin), 6 * (first[c] - begin), 6 * (first[d] - begin)),
                (table + a * table_step, table + b * table_step, table + c * table_step, table + d * table_step),
                pairs,
                target + 3 * start if whole else spare.ctypes.data,
                out.strides[1] if whole else 3 * GROUP,
            )
            if not whole:
                for r in range(num_rows):
                    for i in range(min(GROUP, width - start)):
                        for channel in range(3):
                            out[tile, top + r, start + i, channel] = spare[3 * (GROUP * r + i) + channel]


@compiled
def _line_bytes(image, columns):  # type: ignore[no-untyped-def]
    """Room for a line, what is written on either side of it, and what is read behind it."""
    numbers = 3 * max(image.shape[1], _NARROWEST) + 2 * LANES
    return 2 * numbers + 6 * columns[2].shape[1] + LOAD_BYTES


@compiled
def box_scratch(image, columns):  # type: ignore[no-untyped-def]
    """What ``resample_box`` needs beside, for any box of this image: uint8 [n].

    Room for a group of pixels, for four lines, and a narrow image with its rows prolonged.
    """
    before, step = _SPARE + GROUP * _line_bytes(image, columns), 3 * _NARROWEST
    height, width, _ = image.shape
    scratch = np.zeros(before + (height * step if width < _NARROWEST else 0), np.uint8)
    if width < _NARROWEST:
        for y in range(height):
            for x in range(width):
                for channel in range(3):
                    scratch[before + y * step + 3 * x + channel] = image[y, x, channel]
    return scratch


@compiled
def resample_box(image, rows, columns, top, left, mirrored, out, scratch):  # type: ignore[no-untyped-def]
    """A box of the resized image, of any size from one pixel on.

    Args:
        image: uint8 [H, W, 3], contiguous.
        rows, columns: the resize's filters along the two axes, as from ``axis_weights``.
        top, left: the box's first row and column, in pixels of the resized image, not mirrored.
        mirrored: write the box from right to left.
        out: uint8 [n, h, w, 3], written: h rows and n * w columns, cut into n tiles side by side. The last two axes
            are contiguous.
        scratch: as from ``box_scratch``.
    """
    first, count, weights = rows
    height, last = out.shape[1], left + out.shape[0] * out.shape[2] - 1
    begin, end = 3 * columns[0][left], 3 * (columns[0][last] + columns[1][last])
    pixels, width, step = image.ctypes.data, 3 * image.shape[1], _line_bytes(image, columns)
    if image.shape[1] < _NARROWEST:
        pixels, width = scratch.ctypes.data + _SPARE + GROUP * step, 3 * _NARROWEST
    table, lines = weights.ctypes.data, scratch.ctypes.data + _SPARE + 2 * LANES
    for r in range(0, height, GROUP):
        for i in range(min(GROUP, height - r)):
            row = top + r + i
            source, of_row = pixels + first[row] * width, table + row * weights.strides[0]
            _down(source, width, count[row], of_row, begin, end, lines + i * step)
        _along(lines, step, columns, left, mirrored, r, out, scratch)
