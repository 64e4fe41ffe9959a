"""How many bytes each unit takes, from one look through the data for markers."""

import numpy as np

from pipeline.compiling import compiled
from pipeline.jpeg.kernels.frame import DATA_AT, FINE, NUM_COLUMNS, NUM_ROWS, UNITS
from pipeline.jpeg.kernels.markers import LANES, markers_at


@compiled
def measure_units(encoded, frame, lengths):  # type: ignore[no-untyped-def]
    """Bytes of every unit with the marker behind it. ``FINE``, or ``UNITS`` where they are not those of the frame.

    Args:
        encoded: uint8 [bytes], a whole JPEG. frame: of ``read_frame``.
        lengths: uint16 [units], written.
    """
    num_units = frame[NUM_ROWS] * frame[NUM_COLUMNS]
    start, unit, last = frame[DATA_AT], 0, len(encoded) - 1
    at, address = start, encoded.ctypes.data
    while at < last:
        if at + LANES < last and markers_at(address + at) == 0:
            at += LANES
            continue
        if encoded[at] != 0xFF or encoded[at + 1] == 0:
            at += 1
            continue
        marker = np.int64(encoded[at + 1])
        is_end = unit == num_units - 1
        if marker != (0xD9 if is_end else 0xD0 + unit % 8) or at + 2 - start > 65535:
            return UNITS
        lengths[unit] = at + 2 - start
        if is_end:
            return FINE
        unit += 1
        at += 2
        start = at
    return UNITS
