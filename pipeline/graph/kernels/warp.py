"""Affine warps of a box: bilinear, in fixed point, so that a pixel is the same whichever box it is in."""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.warp_lanes import SHIFTED, WARPED, shift_lanes, warp_lanes

_BITS = 16
_ONE = 1 << _BITS


@compiled
def in_pixels(matrix, side, out):  # type: ignore[no-untyped-def]
    """A matrix in units of the side around the centre, in pixels and fixed point: int64 [6] into ``out``.

    The centre of pixel (x, y) comes from ``out[0] * x + out[1] * y + out[2]`` and so on, in 1 / 65536 of a pixel, where
    0 is the centre of the first pixel.
    """
    half = side / 2.0
    for row in range(2):
        a, b, c = matrix[3 * row], matrix[3 * row + 1], matrix[3 * row + 2]
        start = a * (0.5 - half) + b * (0.5 - half) + c * side + half - 0.5
        out[3 * row] = int(np.rint(a * _ONE))
        out[3 * row + 1] = int(np.rint(b * _ONE))
        out[3 * row + 2] = int(np.rint(start * _ONE))


@compiled
def _span(a, b, c, low, high, low_other, high_other, side):  # type: ignore[no-untyped-def]
    """First place and number of places of the source, along one axis, that pixels from ``low`` to ``high`` look at."""
    least = min(a * low, a * high) + min(b * low_other, b * high_other) + c
    most = max(a * low, a * high) + max(b * low_other, b * high_other) + c
    first, last = max(least >> _BITS, 0), min((most >> _BITS) + 1, side - 1)
    return first, max(last - first + 1, 0)


@compiled
def source_box(fixed, wanted, side, box):  # type: ignore[no-untyped-def]
    """What a box of the new image looks at of the old one: (top, left, height, width), int64 [4], into ``box``."""
    top, left, bottom, right = wanted[0], wanted[1], wanted[0] + wanted[2] - 1, wanted[1] + wanted[3] - 1
    box[1], box[3] = _span(fixed[0], fixed[1], fixed[2], left, right, top, bottom, side)
    box[0], box[2] = _span(fixed[4], fixed[3], fixed[5], top, bottom, left, right, side)
    if box[2] == 0 or box[3] == 0:
        box[0] = box[1] = box[2] = box[3] = 0


@compiled
def _run(start, step, low, high, num):  # type: ignore[no-untyped-def]
    """First of the places 0 to ``num`` - 1 at which ``low <= start + place * step < high``, and the one behind."""
    end = start + (num - 1) * step
    if min(start, end) >= low and max(start, end) < high:
        return 0, num
    if max(start, end) < low or min(start, end) >= high:
        return 0, 0
    if step < 0:
        start, step, low, high = -start, -step, 1 - high, 1 - low
    return max(-((start - low) // step), 0), min(-((start - high) // step), num)


@compiled
def _run_of_both(x, y, fixed, low, high, num):  # type: ignore[no-untyped-def]
    """As ``_run``, at which both coordinates lie there; an empty run starts at 0."""
    first, stop = _run(x, fixed[0], low, high, num)
    first_y, stop_y = _run(y, fixed[3], low, high, num)
    first, stop = max(first, first_y), min(stop, stop_y)
    return (first, stop) if first < stop else (0, 0)


@compiled
def _edge(source, box, side, x, y, out, place):  # type: ignore[no-untyped-def]
    """A pixel of which not all that it looks at need lie in the image."""
    column, row, width = x >> _BITS, y >> _BITS, 3 * box[3]
    right_share, lower_share = (x >> 8) & 255, (y >> 8) & 255
    left, right = 3 * (max(column, 0) - box[1]), 3 * (min(column + 1, side - 1) - box[1])
    upper, lower = (max(row, 0) - box[0]) * width, (min(row + 1, side - 1) - box[0]) * width
    for c in range(3):
        above = (256 - right_share) * source[upper + left + c] + right_share * source[upper + right + c]
        below = (256 - right_share) * source[lower + left + c] + right_share * source[lower + right + c]
        out[place + c] = ((256 - lower_share) * above + lower_share * below + 0x8000) >> 16


@compiled
def _inner(image, step, x, y, fixed, first, stop, out):  # type: ignore[no-untyped-def]
    """Pixels ``first`` to ``stop`` - 1 of a row, for which nothing is missing; up to 31 bytes behind are written, too.

    Args:
        image: address of pixel (0, 0) of the image; step: bytes from row to row.
        x, y: where pixel 0 comes from. out: address of pixel 0.
    """
    if fixed[0] == _ONE and fixed[3] == 0:
        start = image + (y >> _BITS) * step + 3 * (x >> _BITS)
        for i in range(3 * first, 3 * stop, SHIFTED):
            shift_lanes(start + i, step, (x >> 8) & 255, (y >> 8) & 255, out + i)
        return
    for k in range(first, stop, WARPED):
        place = min(k, stop - WARPED)
        at_x, at_y = x + place * fixed[0], y + place * fixed[3]
        warp_lanes(image, step, at_x, at_y, fixed[0], fixed[3], out + 3 * place)


@compiled
def warp(source, box, out, wanted, fixed, side, fill):  # type: ignore[no-untyped-def]
    """Pixels of the box ``wanted`` from those of the box that ``source_box`` gives; ``SPARE`` bytes lie behind both.

    A pixel whose centre comes from outside of the image has the colour ``fill``, uint8 [3]. Within half a pixel of the
    border the image goes on as its outermost pixels, as in Pillow.
    """
    half, limit, step, num = _ONE >> 1, side << _BITS, 3 * box[3], wanted[3]
    image = source.ctypes.data - box[0] * step - 3 * box[1]
    for row in range(wanted[2]):
        x = fixed[0] * wanted[1] + fixed[1] * (wanted[0] + row) + fixed[2]
        y = fixed[3] * wanted[1] + fixed[4] * (wanted[0] + row) + fixed[5]
        place = 3 * row * num
        inside, behind = _run_of_both(x, y, fixed, -half, limit - half, num)
        first, stop = _run_of_both(x, y, fixed, 0, limit - _ONE, num)
        if stop - first < WARPED:
            first = stop = inside
        _inner(image, step, x, y, fixed, first, stop, out.ctypes.data + place)
        for start, end in ((inside, first), (stop, behind)):
            for k in range(start, end):
                _edge(source, box, side, x + k * fixed[0], y + k * fixed[3], out, place + 3 * k)
        for start, end in ((0, inside), (behind, num)):
            for k in range(start, end):
                for c in range(3):
                    out[place + 3 * k + c] = fill[c]
