"""JPEGs each of whose units (MCUs) can be reached alone, because a restart marker ends it.

After a restart nothing depends on the data before (ITU-T T.81, E.1.4 and F.1.1.5.1). So units can be taken out and put
together at will, given where each begins. Such are sequential JPEGs of 8 bits, in grey or three colours, in one scan
with a restart interval of one, whose Huffman tables know the end of a block; ``jpegtran -optimize -restart 1B`` makes
them without loss.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.jpeg.kernels import frame as kernel
from pipeline.jpeg.kernels.units import measure_units

# In what a JPEG differs from an addressable one, by the kernels' codes.
REASONS = {
    kernel.NO_JPEG: "it is no JPEG that can be looked through",
    kernel.CUT_OFF: "it ends within its header",
    kernel.NOT_SEQUENTIAL: "it is progressive, lossless or arithmetically coded",
    kernel.NOT_8_BITS: "its samples do not have 8 bits",
    kernel.COMPONENTS: "it has neither one nor three colour components",
    kernel.SAMPLING: "its components are sampled in a way that does not make units",
    kernel.NO_RESTARTS: "it has no restart marker behind every unit",
    kernel.SCANS: "its components do not stand together in one scan",
    kernel.TABLES: "its Huffman tables are damaged",
    kernel.NO_END_OF_BLOCK: "a Huffman table of it has no code for the end of a block",
    kernel.UNITS: "its restart markers are not those of its units",
}


class NotAddressableError(ValueError):
    """A file whose units cannot be reached alone; the message says why."""


@dataclass(frozen=True)
class Units:
    """Where the units of a JPEG lie.

    Attributes:
        height, width: of the image, in pixels.
        unit_height, unit_width: of a unit, in pixels.
        header_bytes: up to the first unit.
        lengths: uint16 [rows, columns], bytes of each with the marker behind it; they lie one behind the other.
    """

    height: int
    width: int
    unit_height: int
    unit_width: int
    header_bytes: int
    lengths: npt.NDArray[np.uint16]


def units_with(header: bytes | npt.NDArray[np.uint8], lengths: npt.NDArray[np.uint16]) -> Units:
    """The units of an addressable JPEG whose lengths are known already.

    Args:
        header: its first bytes, up to the first unit or further.
        lengths: uint16 [units].

    Raises:
        NotAddressableError: it is none, or has another number of units.
    """
    frame, hole = np.zeros(kernel.FRAME_SIZE, np.int64), np.zeros(kernel.MAX_HOLE_BYTES, np.uint8)
    found = kernel.read_frame(np.frombuffer(header, dtype=np.uint8), frame, hole)
    rows, columns = int(frame[kernel.NUM_ROWS]), int(frame[kernel.NUM_COLUMNS])
    if found == kernel.FINE and rows * columns != len(lengths):
        found = kernel.UNITS
    if found != kernel.FINE:
        raise NotAddressableError(REASONS[found])
    height, width, unit_height, unit_width = frame[: kernel.UNIT_WIDTH + 1].tolist()
    at = int(frame[kernel.DATA_AT])
    return Units(height, width, unit_height, unit_width, at, lengths.reshape(rows, columns))


def units_of(encoded: bytes | npt.NDArray[np.uint8]) -> Units:
    """The units of an addressable JPEG, from one look through all of it.

    Raises:
        NotAddressableError: it is none.
    """
    file = np.frombuffer(encoded, dtype=np.uint8)
    frame, hole = np.zeros(kernel.FRAME_SIZE, np.int64), np.zeros(kernel.MAX_HOLE_BYTES, np.uint8)
    found = kernel.read_frame(file, frame, hole)
    lengths = np.zeros((frame[kernel.NUM_ROWS], frame[kernel.NUM_COLUMNS]), np.uint16)
    if found == kernel.FINE:
        found = measure_units(file, frame, lengths.reshape(-1))
    if found != kernel.FINE:
        raise NotAddressableError(REASONS[found])
    height, width, unit_height, unit_width = frame[: kernel.UNIT_WIDTH + 1].tolist()
    return Units(height, width, unit_height, unit_width, int(frame[kernel.DATA_AT]), lengths)
