"""A JPEG of some of the units of another one: a rectangle of them, in which those that nobody needs are holes.

A hole is the shortest unit that the image's own tables allow. Every unit that is taken over keeps its data; the markers
behind the units are numbered anew.
"""

import numpy as np
from numba import types
from numba.core.types import ExternalFunction

from pipeline.compiling import compiled
from pipeline.jpeg.kernels.frame import (
    DATA_AT,
    HEIGHT,
    HOLE_BYTES,
    NUM_COLUMNS,
    REACH_X,
    REACH_Y,
    UNIT_HEIGHT,
    UNIT_WIDTH,
    WIDTH,
    write_header,
)
from pipeline.jpeg.kernels.markers import num_markers

# libc's; unlike a ctypes function, whose address holds for one process, it can be cached.
_pread = ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uintp, types.int64))
_memcpy = ExternalFunction("memcpy", types.uintp(types.uintp, types.uintp, types.uintp))

PAGE_BYTES = 4096
_MARKER_BYTES = 2
GAP_BYTES = 512  # between units of a row: they are read along, as another call takes longer than reading them
# Decoders do not smooth colour in images of up to two stored columns of it, as there are at four pixels.
_NARROW_PIXELS = 4
# Places in what is counted of the reading, int64: bytes, pages of the disk that they lie on, and the last of these.
COUNTED_BYTES, COUNTED_PAGES, LAST_PAGE = range(3)


@compiled
def units_around(frame, top, left, bottom, right, region):  # type: ignore[no-untyped-def]
    """The rectangle of units that the pixels of a window are decoded from, colour's neighbours included.

    Args:
        top, left, bottom, right: of the window, in pixels of the image.
        region: int64 [4], written: (top, left, bottom, right) in units.
    """
    region[0] = max(top - frame[REACH_Y], 0) // frame[UNIT_HEIGHT]
    region[1] = max(left - frame[REACH_X], 0) // frame[UNIT_WIDTH]
    region[2] = -(-min(bottom + frame[REACH_Y], frame[HEIGHT]) // frame[UNIT_HEIGHT])
    region[3] = -(-min(right + frame[REACH_X], frame[WIDTH]) // frame[UNIT_WIDTH])
    if region[1] > 0 and min(region[3] * frame[UNIT_WIDTH], frame[WIDTH]) - region[1] * frame[UNIT_WIDTH] <= (
        _NARROW_PIXELS
    ):
        region[1] -= 1


@compiled
def read_at(descriptor, offset, address, count, counted):  # type: ignore[no-untyped-def]
    """Bytes of an open file to memory; False where there are not so many.

    Args:
        counted: int64 [3], what is read is added: of each page once, as long as one reads from front to back.
    """
    if count == 0:
        return True
    done = 0
    while done < count:
        found = _pread(descriptor, np.uintp(address + done), np.uintp(count - done), offset + done)
        if found <= 0:
            return False
        done += found
    counted[COUNTED_BYTES] += count
    last = (offset + count - 1) // PAGE_BYTES
    counted[COUNTED_PAGES] += last - max(offset // PAGE_BYTES, counted[LAST_PAGE] + 1) + 1
    counted[LAST_PAGE] = last
    return True


@compiled
def fetch(descriptor, offset, frame, lengths, region, needed, mirror, counted):  # type: ignore[no-untyped-def]
    """Read the needed units of a region to where they lie in the file. False where the file does not have them.

    Args:
        descriptor, offset: of the image in an open file.
        frame, lengths, region, needed: as for ``splice``.
        mirror: uint8, at least as long as the file; written where something is needed, the marker before included, and
            in short gaps between.
        counted: as for ``read_at``.
    """
    num_columns, left, right = frame[NUM_COLUMNS], region[1], region[3]
    place, target, room = frame[DATA_AT], np.int64(mirror.ctypes.data), len(mirror)
    for unit in range(region[0] * num_columns):
        place += np.int64(lengths[unit])
    begin = end = -1  # of what is to be read next
    for row in range(region[0], region[2]):
        for column in range(num_columns):
            after = place + np.int64(lengths[row * num_columns + column])
            if left <= column < right and needed[row - region[0], column - left]:
                if begin >= 0 and place - end > GAP_BYTES:
                    if end > room or not read_at(descriptor, offset + begin, target + begin, end - begin, counted):
                        return False
                    begin = -1
                if begin < 0:  # with the marker before: it shows that the unit begins here
                    begin = place - _MARKER_BYTES if row + column > 0 else place
                end = after
            place = after
    if begin < 0:
        return True
    return end <= room and read_at(descriptor, offset + begin, target + begin, end - begin, counted)


@compiled
def splice(file, frame, hole, lengths, region, needed, out):  # type: ignore[no-untyped-def]
    """Write the JPEG of a rectangle of units. Bytes of it; -1 where the data is not what the lengths say.

    Args:
        file: uint8, the image's, as far as it is looked at: its header, and the needed units with the markers around.
        frame, hole: of ``read_frame``.
        lengths: uint16 [units of the image].
        region: int64 [4], (top, left, bottom, right) in units.
        needed: bool [rows, columns of the region].
        out: uint8, written; it may be too short, and then nothing comes of it.
    """
    top, left, bottom, right = region[0], region[1], region[2], region[3]
    num_columns, num_units, hole_bytes = frame[NUM_COLUMNS], len(lengths), frame[HOLE_BYTES]
    height = min(bottom * frame[UNIT_HEIGHT], frame[HEIGHT]) - top * frame[UNIT_HEIGHT]
    width = min(right * frame[UNIT_WIDTH], frame[WIDTH]) - left * frame[UNIT_WIDTH]
    if frame[DATA_AT] > len(out):
        return -1
    begin = at = write_header(file, frame, height, width, out, 0)
    place, number = frame[DATA_AT], 0  # where the next unit lies in the file; its number in the new image
    data, target = np.int64(file.ctypes.data), np.int64(out.ctypes.data)
    for unit in range(top * num_columns + left):
        place += np.int64(lengths[unit])
    for row in range(top, bottom):
        unit, stop = row * num_columns + left, row * num_columns + right
        column = 0
        while unit < stop:
            if not needed[row - top, column]:
                if at + hole_bytes + 2 > len(out):
                    return -1
                for i in range(hole_bytes):
                    out[at + i] = hole[i]
                out[at + hole_bytes], out[at + hole_bytes + 1] = 0xFF, np.uint8(0xD0 | (number & 7))
                at, place = at + hole_bytes + 2, place + np.int64(lengths[unit])
                unit, column, number = unit + 1, column + 1, number + 1
                continue
            # Needed units that lie together are copied at once, with their markers numbered anew.
            begin_at, first = place, unit
            if place > len(file):
                return -1
            if first > 0 and (file[place - 2] != 0xFF or file[place - 1] != 0xD0 | ((first - 1) & 7)):
                return -1
            is_sound = True
            while unit < stop and needed[row - top, column]:
                place += np.int64(lengths[unit])
                if place > len(file):
                    return -1
                expected = 0xD9 if unit == num_units - 1 else 0xD0 | (unit & 7)
                is_sound &= (file[place - 2] == 0xFF) & (file[place - 1] == expected)
                unit, column = unit + 1, column + 1
            if not is_sound or at + place - begin_at > len(out):
                return -1
            _memcpy(np.uintp(target + at), np.uintp(data + begin_at), np.uintp(place - begin_at))
            for other in range(first, unit):
                at += np.int64(lengths[other])
                out[at - 1] = np.uint8(0xD0 | (number & 7))
                number += 1
        for other in range(stop, min(stop + num_columns - right + left, num_units)):
            place += np.int64(lengths[other])
    out[at - 1] = 0xD9
    return at if num_markers(out, begin, at) == number else -1
