"""What stands in a JPEG before its data: its units' size and number, and the shortest unit that its tables allow.

Sections and tables are named as in ITU-T T.81.
"""

import numpy as np

from pipeline.compiling import compiled

# Places in what is found of a frame, int64.
HEIGHT, WIDTH = 0, 1  # of the image, in pixels
UNIT_HEIGHT, UNIT_WIDTH = 2, 3  # pixels of a unit (MCU)
NUM_ROWS, NUM_COLUMNS = 4, 5  # of units
REACH_Y, REACH_X = 6, 7  # pixels beyond itself that a pixel's colour is taken from
DATA_AT = 8  # first byte behind the header
HOLE_BYTES = 9
FRAME_SIZE = 10
MAX_HOLE_BYTES = 64

# Why a JPEG cannot be taken apart.
(
    FINE,
    NO_JPEG,
    CUT_OFF,
    NOT_SEQUENTIAL,
    NOT_8_BITS,
    COMPONENTS,
    SAMPLING,
    NO_RESTARTS,
    SCANS,
    TABLES,
    NO_END_OF_BLOCK,
    UNITS,
) = range(12)

_APP0, _APP14 = 0xE0, 0xEE


@compiled
def pair_at(encoded, at):  # type: ignore[no-untyped-def]
    """Two bytes as a number."""
    return (np.int64(encoded[at]) << 8) | np.int64(encoded[at + 1])


@compiled
def _read_tables(encoded, start, stop, shortest):  # type: ignore[no-untyped-def]
    """The shortest codes of a segment's Huffman tables (B.2.4.2, C.2). False if the tables are no such.

    Args:
        shortest: int64 [2, 4, 3], written at (class, table): under class 0 the difference that takes the fewest bits,
            under class 1 the end of a block: code, its bits, bits behind it. 0 bits: there is none.
    """
    at = start
    while at < stop:
        if at + 17 > stop:
            return False
        kind, table = encoded[at] >> 4, encoded[at] & 15
        if kind > 1 or table > 3:
            return False
        values, code = at + 17, 0
        shortest[kind, table, 1] = 0
        for bits in range(1, 17):
            count = np.int64(encoded[at + bits])
            if values + count > stop or code + count > (1 << bits):
                return False
            for i in range(count):
                value = np.int64(encoded[values + i])
                more = value if kind == 0 else 0
                known = shortest[kind, table, 1] + shortest[kind, table, 2]
                wanted = value < 12 if kind == 0 else value == 0
                if wanted and (shortest[kind, table, 1] == 0 or bits + more < known):
                    shortest[kind, table, 0], shortest[kind, table, 1] = code + i, bits
                    shortest[kind, table, 2] = more
            values += count
            code = (code + count) << 1
        at = values
    return at == stop


@compiled
def _append(hole, num_bits, code, bits):  # type: ignore[no-untyped-def]
    """A code's bits behind those that are there."""
    for i in range(bits - 1, -1, -1):
        if (code >> i) & 1:
            hole[num_bits >> 3] |= np.uint8(128 >> (num_bits & 7))
        num_bits += 1
    return num_bits


@compiled
def _make_hole(shortest, blocks, num_components, tables, hole):  # type: ignore[no-untyped-def]
    """Write the shortest unit: for each block a difference and its end. Bytes of it; 0: its tables do not allow one."""
    plain, num_bits = np.zeros(MAX_HOLE_BYTES, np.uint8), 0
    for component in range(num_components):
        difference, end = shortest[0, tables[component, 0]], shortest[1, tables[component, 1]]
        if difference[1] == 0 or end[1] == 0:
            return 0
        for _ in range(blocks[component]):
            if num_bits + difference[1] + difference[2] + end[1] > 8 * MAX_HOLE_BYTES // 2:
                return 0
            num_bits = _append(plain, num_bits, difference[0], difference[1])
            num_bits = _append(plain, num_bits, 0, difference[2])
            num_bits = _append(plain, num_bits, end[0], end[1])
    while num_bits & 7:
        num_bits = _append(plain, num_bits, 1, 1)
    length = 0
    for i in range(num_bits >> 3):
        hole[length] = plain[i]
        length += 1
        if plain[i] == 0xFF:
            hole[length] = 0
            length += 1
    return length


@compiled
def read_frame(encoded, frame, hole):  # type: ignore[no-untyped-def]
    """Look through a JPEG's header, up to the data of its first scan. ``FINE``, or why it cannot be taken apart.

    Args:
        encoded: uint8 [bytes]; nothing behind the header is looked at.
        frame: int64 [FRAME_SIZE], written. hole: uint8 [MAX_HOLE_BYTES], written.
    """
    length = len(encoded)
    if length < 4 or encoded[0] != 0xFF or encoded[1] != 0xD8:
        return NO_JPEG
    shortest = np.zeros((2, 4, 3), np.int64)
    # Of each component: its name, its blocks across and down in a unit.
    components, num_components = np.zeros((4, 3), np.int64), 0
    interval = 0
    at = 2
    while True:
        if at + 4 > length:
            return CUT_OFF
        if encoded[at] != 0xFF:
            return NO_JPEG
        marker = np.int64(encoded[at + 1])
        if marker == 0xFF:
            at += 1
            continue
        size = pair_at(encoded, at + 2)
        begin, end = at + 4, at + 2 + size
        if marker < 0xC0 or 0xD0 <= marker <= 0xD9 or size < 2:
            return NO_JPEG
        if end > length:
            return CUT_OFF
        if marker == 0xC4:
            if not _read_tables(encoded, begin, end, shortest):
                return TABLES
        elif marker == 0xC0 or marker == 0xC1:
            if num_components > 0:
                return SCANS
            if size < 8 or encoded[begin] != 8:
                return NOT_8_BITS
            frame[HEIGHT], frame[WIDTH] = pair_at(encoded, begin + 1), pair_at(encoded, begin + 3)
            num_components = np.int64(encoded[begin + 5])
            if (num_components != 1 and num_components != 3) or size != 8 + 3 * num_components:
                return COMPONENTS
            for i in range(num_components):
                place = begin + 6 + 3 * i
                components[i, 0] = encoded[place]
                components[i, 1], components[i, 2] = encoded[place + 1] >> 4, encoded[place + 1] & 15
        elif 0xC2 <= marker <= 0xCF:
            return NOT_SEQUENTIAL
        elif marker == 0xDD:
            if size != 4:
                return NO_JPEG
            interval = pair_at(encoded, begin)
        elif marker == 0xDA:
            break
        at = end
    if num_components == 0 or frame[HEIGHT] == 0 or frame[WIDTH] == 0:
        return NO_JPEG
    if interval != 1:
        return NO_RESTARTS
    if size != 6 + 2 * num_components or encoded[begin] != num_components:
        return SCANS
    tables = np.zeros((4, 2), np.int64)
    for i in range(num_components):
        place = begin + 1 + 2 * i
        if encoded[place] != components[i, 0]:
            return SCANS
        tables[i, 0], tables[i, 1] = encoded[place + 1] >> 4, encoded[place + 1] & 15
        if tables[i, 0] > 3 or tables[i, 1] > 3:
            return TABLES
    if encoded[end - 3] != 0 or encoded[end - 2] != 63 or encoded[end - 1] != 0:
        return SCANS
    frame[DATA_AT] = end
    if not _read_sampling(components, num_components, frame):
        return SAMPLING
    blocks = components[:, 1] * components[:, 2]
    frame[HOLE_BYTES] = _make_hole(shortest, blocks, num_components, tables, hole)
    return FINE if frame[HOLE_BYTES] > 0 else NO_END_OF_BLOCK


@compiled
def _read_sampling(components, num_components, frame):  # type: ignore[no-untyped-def]
    """The unit's size, its number, and how far colour reaches (A.2). False for sampling that no decoder knows."""
    if num_components == 1:
        components[0, 1] = components[0, 2] = 1  # alone in its scan a component has units of one block
    across, down, num_blocks = 0, 0, 0
    for i in range(num_components):
        across, down = max(across, components[i, 1]), max(down, components[i, 2])
        num_blocks += components[i, 1] * components[i, 2]
        if not 1 <= components[i, 1] <= 4 or not 1 <= components[i, 2] <= 4:
            return False
    frame[REACH_Y] = frame[REACH_X] = 0
    for i in range(num_components):
        if across % components[i, 1] or down % components[i, 2]:
            return False
        # Decoders smooth what is stored at half of the size, and repeat what is stored at less.
        frame[REACH_Y] = max(frame[REACH_Y], 1 if components[i, 2] < down else 0)
        frame[REACH_X] = max(frame[REACH_X], 1 if components[i, 1] < across else 0)
    frame[UNIT_HEIGHT], frame[UNIT_WIDTH] = 8 * down, 8 * across
    frame[NUM_ROWS] = -(-frame[HEIGHT] // frame[UNIT_HEIGHT])
    frame[NUM_COLUMNS] = -(-frame[WIDTH] // frame[UNIT_WIDTH])
    return num_blocks <= 10


@compiled
def write_header(encoded, frame, height, width, out, at):  # type: ignore[no-untyped-def]
    """The header of a frame that was read, for an image of another size. Returns where it ends.

    What tells cameras' facts and colour profiles is left out; no pixel depends on it.
    """
    out[at], out[at + 1] = 0xFF, 0xD8
    at += 2
    place, stop = 2, frame[DATA_AT]
    while place < stop:
        marker = encoded[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        size = 2 + pair_at(encoded, place + 2)
        is_said = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_said or marker in (_APP0, _APP14):
            for i in range(size):
                out[at + i] = encoded[place + i]
            if marker == 0xC0 or marker == 0xC1:
                out[at + 5], out[at + 6] = np.uint8(height >> 8), np.uint8(height & 255)
                out[at + 7], out[at + 8] = np.uint8(width >> 8), np.uint8(width & 255)
            at += size
        place += size
    return at
