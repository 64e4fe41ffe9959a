"""Damaged files go through the compiled functions with numba's checks of every index: run by ``test_hostile_files``.

    python tests/pipeline/jpeg/bounds_fuzz.py NUM_FILES

It needs ``NUMBA_BOUNDSCHECK=1`` and a folder of compiled code of its own. Ends with a traceback at the first index out
of bounds, or the first byte written beside an output.
"""

import io
import sys
from collections import Counter

import numpy as np
from PIL import Image

from benchmarks.damaged_jpegs.header_damage import huffman_table, segments
from benchmarks.damaged_jpegs.kinds import KINDS, damaged_image
from benchmarks.shared.photographs import jpeg_bytes, photograph
from pipeline.jpeg.addressable import REASONS, units_of
from pipeline.jpeg.kernels.frame import FINE, FRAME_SIZE, MAX_HOLE_BYTES, NUM_COLUMNS, NUM_ROWS, read_frame
from pipeline.jpeg.kernels.splice import splice, units_around
from pipeline.jpeg.kernels.units import measure_units

_GUARD = 64
_MOST_UNITS = 100_000  # sizes that a damaged header states are held against the index before they are believed


def exercise(file: np.ndarray, random: np.random.Generator) -> str:
    """One file through all functions; how far it came."""
    frame, hole = np.zeros(FRAME_SIZE, np.int64), np.zeros(MAX_HOLE_BYTES, np.uint8)
    found = read_frame(file, frame, hole)
    num_units = int(frame[NUM_ROWS] * frame[NUM_COLUMNS])
    if found != FINE or num_units > _MOST_UNITS:
        return REASONS.get(found, "too large")
    lengths = np.zeros(num_units, np.uint16)
    measured = measure_units(file, frame, lengths)
    if random.random() < 0.5:
        lengths[random.integers(num_units, size=3)] = random.integers(0, 65536, 3)
    region = np.zeros(4, np.int64)
    top, left, bottom, right = np.sort(random.integers(0, frame[:2] + 1, (2, 2)), axis=0).ravel().tolist()
    units_around(frame, top - 2, left - 2, bottom + 2, right + 2, region)
    needed = random.random((region[2] - region[0], region[3] - region[1])) < random.choice([0.1, 0.5, 1.0])
    guarded = np.full(int(random.integers(1, len(file) + 256)) + 2 * _GUARD, 0xA5, np.uint8)
    splice(file, frame, hole, lengths, region, needed, guarded[_GUARD:-_GUARD])
    assert (guarded[:_GUARD] == 0xA5).all()
    assert (guarded[-_GUARD:] == 0xA5).all()
    return "fine" if measured == FINE else REASONS[measured]


def main() -> None:
    random, sound = np.random.default_rng(0), [jpeg_bytes(i, 60 + i, 90 - i, addressable=True) for i in range(8)]
    for mode, subsampling in (("L", "4:4:4"), ("RGB", "4:4:4"), ("RGB", "4:2:2")):
        sink, picture = io.BytesIO(), Image.fromarray(photograph(8, 60, 45)).convert(mode)
        picture.save(sink, "JPEG", restart_marker_blocks=1, optimize=True, subsampling=subsampling)
        sound.append(sink.getvalue())
    kinds, came_to = list(KINDS.values()), Counter[str]()
    for number in range(int(sys.argv[1])):
        file = sound[number % len(sound)]
        units = units_of(file)
        damaged = damaged_image(file, kinds[int(random.integers(len(kinds)))], units, random)
        # And cut off, anywhere or right behind a damaged table.
        cut = damaged[: int(random.integers(len(damaged) + 1))]
        ends = [end for marker, _, end in segments(file) if marker == 0xC4]
        table = huffman_table(file, units, random)[: int(random.choice(ends))]
        for one in (damaged, cut, table):
            came_to[exercise(np.frombuffer(one, np.uint8), random)] += 1
    print("\n".join(f"{count:6} {what}" for what, count in came_to.most_common()))


if __name__ == "__main__":
    main()
