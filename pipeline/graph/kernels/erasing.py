"""Random erasing on a box of an image."""

import numpy as np
from numba import carray
from nvidia.dali.plugin.numba import address_as_void_pointer  # type: ignore[attr-defined]

from pipeline.compiling import compiled
from pipeline.graph.kernels.philox import philox_block
from pipeline.graph.kernels.sampling import COLOR, ERASE_BOX, ERASE_KEY, NOISE_TABLES

_STREAM = 16  # keyed.Stream.ERASE_NOISE
_NUMBERS_PER_BLOCK = 16


@compiled
def _joined(planned, place):  # type: ignore[no-untyped-def]
    """A 64-bit number from four of 16 bits."""
    number = np.uint64(0)
    for i in range(3, -1, -1):
        number = (number << np.uint64(16)) | np.uint64(planned[place + i])
    return number


@compiled
def erase(planned, top, left, height, width, pixels):  # type: ignore[no-untyped-def]
    """What of the erased box lies in the box (top, left, height, width), filled in its ``pixels``, uint8 [h * w * 3].

    The noise is that of ``erasing.box_noise``: number i of the box's 16-bit numbers makes channel i of its pixels.
    """
    start_y, start_x = int(planned[ERASE_BOX]), int(planned[ERASE_BOX + 1])
    stop_y, stop_x = int(planned[ERASE_BOX + 2]), int(planned[ERASE_BOX + 3])
    low_y, high_y = max(start_y, top), min(stop_y, top + height)
    low_x, high_x = max(start_x, left), min(stop_x, left + width)
    if low_y >= high_y or low_x >= high_x:
        return
    address = _joined(planned, NOISE_TABLES)
    if address == 0:
        for y in range(low_y, high_y):
            for x in range(low_x, high_x):
                for c in range(3):
                    pixels[3 * ((y - top) * width + x - left) + c] = np.uint8(planned[COLOR + c])
        return
    tables = carray(address_as_void_pointer(address), 3 * 65536, dtype=np.uint8)
    key, words, block = _joined(planned, ERASE_KEY), np.empty(4, np.uint64), -1
    for y in range(low_y, high_y):
        number = 3 * ((y - start_y) * (stop_x - start_x) + low_x - start_x)
        place, end = 3 * ((y - top) * width + low_x - left) - number, number + 3 * (high_x - low_x)
        while number < end:
            if number // _NUMBERS_PER_BLOCK != block:
                block = number // _NUMBERS_PER_BLOCK
                philox_block(key, _STREAM, block, words)
            if number % _NUMBERS_PER_BLOCK > 0 or end - number < _NUMBERS_PER_BLOCK:
                at = number % _NUMBERS_PER_BLOCK
                drawn = (words[at // 4] >> np.uint64(16 * (at % 4))) & np.uint64(0xFFFF)
                pixels[place + number] = tables[65536 * (number % 3) + np.int64(drawn)]
                number += 1
                continue
            channel = 65536 * (number % 3)
            for word in words:  # a whole block, in which nothing needs to be asked or divided
                for _ in range(4):
                    pixels[place + number] = tables[channel + np.int64(word & np.uint64(0xFFFF))]
                    word >>= np.uint64(16)
                    channel = channel + 65536 if channel < 131072 else 0
                    number += 1
