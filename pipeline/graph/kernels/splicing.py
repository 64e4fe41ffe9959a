"""The files of a batch: of addressable JPEGs no more than the units that something is made from."""

import numpy as np
from numba import carray
from nvidia.dali.plugin.numba import address_as_void_pointer  # type: ignore[attr-defined]

from pipeline.compiling import compiled
from pipeline.graph.kernels.copying import copy_bytes
from pipeline.graph.kernels.needs import mark_needs
from pipeline.jpeg.kernels.frame import (
    DATA_AT,
    FINE,
    FRAME_SIZE,
    HEIGHT,
    MAX_HOLE_BYTES,
    NUM_COLUMNS,
    NUM_ROWS,
    UNIT_HEIGHT,
    UNIT_WIDTH,
    WIDTH,
    read_frame,
)
from pipeline.jpeg.kernels.splice import (
    COUNTED_BYTES,
    COUNTED_PAGES,
    PAGE_BYTES,
    fetch,
    read_at,
    splice,
    units_around,
)
from pipeline.jpeg.kernels.units import measure_units
from pipeline.shards.kernels.headers import is_surely

# What is found of a row, int64: how it came, its bytes, the pixel of the image that it begins at, and what was read.
HOW, NUM_BYTES, ORIGIN_Y, ORIGIN_X, BYTES_READ, PAGES_READ, _LAST_PAGE = range(7)
FOUND_SIZE = 7
# Ways in which a row comes: the whole file, which is or is not beyond doubt what the index says, or units of it.
UNSURE, SOUND, SPLICED = range(3)
SPARE_BYTES = 256  # behind an image's own length: room for holes that are longer than the units they stand for


@compiled
def _array(address, count, of):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(np.uint64(address)), count, of)


@compiled
def _units_needed(row, planned, partner, size, margin, everything, frame, corner, region):  # type: ignore[no-untyped-def]
    """Which units of the region something is made from, for the row itself and for the one it is mixed with."""
    needed = np.zeros((region[2] - region[0], region[3] - region[1]), np.bool_)
    if everything:
        needed[:] = True
        return needed
    mark_needs(planned[row], False, size, margin, frame, corner, region, needed)
    if partner[row] != row:
        mark_needs(planned[partner[row]], True, size, margin, frame, corner, region, needed)
    return needed


@compiled
def _region(row, how, frame, corners):  # type: ignore[no-untyped-def]
    """The units around the row's window, int64 [4], and which of them are needed, bool [rows, columns]."""
    planned, partner, size, margin, everything = how
    region = np.empty(4, np.int64)
    top, left, bottom, right = corners[row, 0], corners[row, 1], corners[row, 2], corners[row, 3]
    units_around(frame, top - margin, left - margin, bottom + margin, right + margin, region)
    needed = _units_needed(row, planned, partner, size, margin, everything, frame, (top, left), region)
    return region, needed


@compiled
def _note(row, frame, region, num_bytes, found):  # type: ignore[no-untyped-def]
    """What came of a row that was put together; whether anything did."""
    if num_bytes < 0:
        return False
    found[row, HOW], found[row, NUM_BYTES] = SPLICED, num_bytes
    found[row, ORIGIN_Y], found[row, ORIGIN_X] = region[0] * frame[UNIT_HEIGHT], region[1] * frame[UNIT_WIDTH]
    return True


@compiled
def _fits(header, frame, hole, sizes):  # type: ignore[no-untyped-def]
    """Whether a header is that of an addressable JPEG of this size."""
    return read_frame(header, frame, hole) == FINE and frame[HEIGHT] == sizes[0] and frame[WIDTH] == sizes[1]


@compiled
def _add_up_to(num_bytes, lengths):  # type: ignore[no-untyped-def]
    """Whether units of these lengths fill so many bytes, and each of them has data and a marker."""
    total, shortest = np.int64(0), np.int64(3)
    for unit in range(len(lengths)):
        total += np.int64(lengths[unit])
        shortest = min(shortest, np.int64(lengths[unit]))
    return total == num_bytes and shortest == 3


@compiled
def _read_units(row, how, descriptor, files, tables, sizes, corners, found, scratch, out):  # type: ignore[no-untyped-def]
    """Read no more than what is needed, by the file of units beside the shard; False where that fails."""
    local = files[row, 2]
    header_bytes = np.int64(_array(tables[row, 0], local + 1, np.uint32)[local])
    if header_bytes == 0 or header_bytes > files[row, 1]:
        return False
    starts = _array(tables[row, 1], local + 2, np.int64)
    start, num_units = starts[local], starts[local + 1] - starts[local]
    # They were looked at when the file was opened, but it is mapped: whoever writes to it changes them.
    if start < 0 or num_units < 1 or start + num_units > tables[row, 3]:
        return False
    frame, hole, counted = np.empty(FRAME_SIZE, np.int64), np.empty(MAX_HOLE_BYTES, np.uint8), found[row, BYTES_READ:]
    if not read_at(descriptor, files[row, 0], scratch.ctypes.data, header_bytes, counted):
        return False
    if not _fits(scratch[:header_bytes], frame, hole, sizes[row]):
        return False
    if frame[DATA_AT] != header_bytes or frame[NUM_ROWS] * frame[NUM_COLUMNS] != num_units:
        return False
    first_byte, num_bytes = tables[row, 2] + 2 * start, 2 * num_units
    lengths = _array(first_byte, num_units, np.uint16)
    counted[COUNTED_BYTES] += num_bytes
    counted[COUNTED_PAGES] += (first_byte + num_bytes - 1) // PAGE_BYTES - first_byte // PAGE_BYTES + 1
    if not _add_up_to(files[row, 1] - header_bytes, lengths):
        return False
    region, needed = _region(row, how, frame, corners)
    file = scratch[: files[row, 1]]
    if not fetch(descriptor, files[row, 0], frame, lengths, region, needed, file, counted):
        return False
    return _note(row, frame, region, splice(file, frame, hole, lengths, region, needed, out), found)


@compiled
def _read_whole(row, how, descriptor, files, sizes, corners, found, scratch, out):  # type: ignore[no-untyped-def]
    """Read the whole file, and leave out what is not needed, if its units can be found. False: it could not be read."""
    length, counted = files[row, 1], found[row, BYTES_READ:]
    counted[0], counted[1], counted[2] = 0, 0, -1
    if not read_at(descriptor, files[row, 0], out.ctypes.data, length, counted):
        return False
    file = out[:length]
    frame, hole = np.empty(FRAME_SIZE, np.int64), np.empty(MAX_HOLE_BYTES, np.uint8)
    if _fits(file, frame, hole, sizes[row]):
        lengths = np.empty(frame[NUM_ROWS] * frame[NUM_COLUMNS], np.uint16)
        if measure_units(file, frame, lengths) == FINE:
            copy_bytes(out.ctypes.data, scratch.ctypes.data, length)
            region, needed = _region(row, how, frame, corners)
            num_bytes = splice(scratch[:length], frame, hole, lengths, region, needed, out)
            if _note(row, frame, region, num_bytes, found):
                return True
            copy_bytes(scratch.ctypes.data, out.ctypes.data, length)
    found[row, HOW] = SOUND if is_surely(file, sizes[row, 0], sizes[row, 1]) else UNSURE
    found[row, NUM_BYTES] = length
    found[row, ORIGIN_Y] = found[row, ORIGIN_X] = 0
    return True


@compiled
def read_spliced(first, stop, how, descriptors, files, tables, sizes, corners, places, buffer, found):  # type: ignore[no-untyped-def]
    """Read some rows of a batch. False if one of them came back short or not at all.

    Args:
        first, stop: the rows; all arrays but ``descriptors`` are of the whole batch.
        how: (planned float32 [B, R] of ``rows.kernel_rows``, place of each row's partner int64 [B], side of a patch,
            margin as for ``mark_needs``, True where all units of the window are needed).
        descriptors: int32 [stop - first], the open shard of each row.
        files: int64 [B, 3], where an image begins in its shard, its bytes, and its place among the shard's samples.
        tables: int64 [B, 4], addresses of the shard's ``header_bytes``, ``starts`` and ``lengths`` (see
            ``shards.units``) and the number of the latter, or 0 where there are none.
        sizes: int32 [B, 2], (height, width) that the index states.
        corners: int64 [B, 4], (top, left, bottom, right) of the window that is wanted, in pixels of the image.
        places: int64 [B + 1], of the rows in the buffer, each as long as its file and ``SPARE_BYTES`` more.
        buffer: uint8, written. found: int64 [B, FOUND_SIZE], written.
    """
    longest = 0
    for row in range(first, stop):
        longest = max(longest, files[row, 1])
    scratch = np.empty(longest + 1, np.uint8)
    for row in range(first, stop):
        descriptor, out = descriptors[row - first], buffer[places[row] : places[row + 1]]
        found[row, :] = 0
        found[row, _LAST_PAGE] = -1
        known = tables[row, 0] != 0
        if known and _read_units(row, how, descriptor, files, tables, sizes, corners, found, scratch, out):
            continue
        if not _read_whole(row, how, descriptor, files, sizes, corners, found, scratch, out):
            return False
    return True
