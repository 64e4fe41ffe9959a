"""Operations on the pixels of a box: uint8 [h * w * 3], interleaved, as Pillow rounds them.

Buffers of pixels have ``SPARE`` bytes more behind their last pixel: several pixels are worked on at once, and what of
them does not belong to the box is read and written, too.
"""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.copying import copy_bytes
from pipeline.graph.kernels.pixel_lanes import (
    LOOKED_UP,
    PIXELS,
    SMOOTHED,
    blend_with_grey_lanes,
    bounds_lanes,
    look_up_lanes,
    multiply_lanes,
    smooth_lanes,
    sum_of_grey_lanes,
)


@compiled
def _clipped(value):  # type: ignore[no-untyped-def]
    """A float32 cut to 0 to 255 and truncated, as Pillow does it."""
    return np.uint8(0) if value <= 0 else np.uint8(255) if value >= 255 else np.uint8(value)


@compiled
def blended(degenerate, value, factor):  # type: ignore[no-untyped-def]
    """What ``ImageEnhance`` makes of two integers: the first at factor 0, the second at 1; float32 factor."""
    return _clipped(np.float32(degenerate) + factor * np.float32(value - degenerate))


@compiled
def grey_of(red, green, blue):  # type: ignore[no-untyped-def]
    """Pillow's mode L."""
    return (np.int64(red) * 19595 + np.int64(green) * 38470 + np.int64(blue) * 7471 + 0x8000) >> 16


@compiled
def look_up(pixels, num, tables, step):  # type: ignore[no-untyped-def]
    """In place: each value by the table of its channel, uint8 [3 * step + 256]; the same one where step is 0."""
    address = pixels.ctypes.data
    for i in range(0, num, LOOKED_UP):
        look_up_lanes(address + i, tables.ctypes.data, step)


@compiled
def blend_with_grey(pixels, num, factor):  # type: ignore[no-untyped-def]
    """In place: away from or towards the image in grey."""
    address = pixels.ctypes.data
    for i in range(0, num, 3 * PIXELS):
        blend_with_grey_lanes(address + i, factor)


@compiled
def multiply(pixels, num, matrix):  # type: ignore[no-untyped-def]
    """In place: a colour matrix, float32 [12], three rows of three factors and what is added; rounded."""
    address = pixels.ctypes.data
    for i in range(0, num, 3 * PIXELS):
        multiply_lanes(address + i, matrix.ctypes.data)


@compiled
def blend_with_smoothed(source, box, out, wanted, side, factor):  # type: ignore[no-untyped-def]
    """A blend with Pillow's SMOOTH filter, which leaves the outermost pixels of the image as they are.

    Args:
        source: pixels of the box (top, left, height, width), one pixel wider than ``wanted`` inside the image.
        out: pixels of the box ``wanted``.
    """
    step, num, source_address, out_address = 3 * box[3], 3 * wanted[3], source.ctypes.data, out.ctypes.data
    at_left, at_right = wanted[1] == 0, wanted[1] + wanted[3] == side
    for y in range(wanted[0], wanted[0] + wanted[2]):
        place = out_address + (y - wanted[0]) * num
        at = source_address + (y - box[0]) * step + 3 * (wanted[1] - box[1])
        if y == 0 or y == side - 1:
            copy_bytes(at, place, num)
            continue
        # What is written behind the row is the next row's, and written over.
        for i in range(3 if at_left else 0, num - 3 if at_right else num, SMOOTHED):
            smooth_lanes(at + i, step, place + i, factor)
        if at_left:
            copy_bytes(at, place, 3)
        if at_right:
            copy_bytes(at + num - 3, place + num - 3, 3)


@compiled
def contrast_table(pixels, num, factor, table):  # type: ignore[no-untyped-def]
    """The table of a blend with the whole image's mean grey: uint8 [256]."""
    total, address, in_lanes = 0, pixels.ctypes.data, num - num % (3 * PIXELS)
    for i in range(0, in_lanes, 3 * PIXELS):
        total += sum_of_grey_lanes(address + i)
    for i in range(in_lanes, num, 3):
        total += grey_of(pixels[i], pixels[i + 1], pixels[i + 2])
    mean = int(total / (num // 3) + 0.5)
    for value in range(256):
        table[value] = blended(mean, value, factor)


@compiled
def _bounds(pixels, num):  # type: ignore[no-untyped-def]
    """The least and the greatest value of each channel: uint8 [48] each, of which number i is one of channel i % 3."""
    lows, highs = np.full(3 * PIXELS, 255, np.uint8), np.zeros(3 * PIXELS, np.uint8)
    in_lanes, address = num - num % (3 * PIXELS), pixels.ctypes.data
    for i in range(0, in_lanes, 3 * PIXELS):
        bounds_lanes(address + i, lows.ctypes.data, highs.ctypes.data)
    for i in range(in_lanes, num):
        lows[i % 3], highs[i % 3] = min(lows[i % 3], pixels[i]), max(highs[i % 3], pixels[i])
    return lows, highs


@compiled
def stretch_tables(pixels, num, tables):  # type: ignore[no-untyped-def]
    """Tables by which each channel of the whole image reaches from 0 to 255, as ``ImageOps.autocontrast``."""
    lows, highs = _bounds(pixels, num)
    for c in range(3):
        low, high = 255, 0
        for i in range(c, len(lows), 3):
            low, high = min(low, np.int64(lows[i])), max(high, np.int64(highs[i]))
        for value in range(256):
            if high <= low:
                tables[256 * c + value] = value
            else:
                scale = 255.0 / (high - low)
                tables[256 * c + value] = min(max(int(value * scale - low * scale), 0), 255)


@compiled
def _histograms(pixels, num):  # type: ignore[no-untyped-def]
    """int64 [768]; neighbours are counted apart, so that none waits for the other where they are equal."""
    counts = np.zeros((2, 768), np.int64)
    for i in range(0, num - 5, 6):
        for k in range(2):
            for c in range(3):
                counts[k, 256 * c + pixels[i + 3 * k + c]] += 1
    if num % 6:
        for c in range(3):
            counts[0, 256 * c + pixels[num - 3 + c]] += 1
    for i in range(768):
        counts[0, i] += counts[1, i]
    return counts[0]


@compiled
def equalize_tables(pixels, num, tables):  # type: ignore[no-untyped-def]
    """Tables that make each channel's values of the whole image about equally frequent, as ``ImageOps.equalize``."""
    counts = _histograms(pixels, num)
    for c in range(3):
        last, kinds = 0, 0
        for value in range(256):
            if counts[256 * c + value] > 0:
                last = counts[256 * c + value]
                kinds += 1
        step = (num // 3 - last) // 255
        sum_before = step // 2
        for value in range(256):
            if kinds <= 1 or step == 0:
                tables[256 * c + value] = value
            else:
                tables[256 * c + value] = min(sum_before // step, 255)
                sum_before += counts[256 * c + value]
