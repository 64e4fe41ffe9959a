"""Memory that is used again, so that the kernel need not hand out and clear new pages for every batch."""

import weakref

import numpy as np
import numpy.typing as npt

_SLACK = 1.25  # batches differ in size, and few of them should need a larger piece


class ReusedMemory:
    """Pieces of memory, each of which is handed out again once nothing holds the array it was handed out as.

    Slices of such an array, and what shares them, hold it. So nobody has to say when they are done, and as many pieces
    are kept as were ever in use at a time.
    """

    def __init__(self) -> None:
        self._free: list[npt.NDArray[np.uint8]] = []

    def take(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Memory that holds whatever it held: uint8 [num_bytes]."""
        piece = self._free.pop() if self._free else np.empty(0, dtype=np.uint8)
        if len(piece) < num_bytes:
            piece = np.empty(int(_SLACK * num_bytes), dtype=np.uint8)
        # NumPy lets slices of a slice hold whatever array has the memory; behind a view of memory that is this one.
        array = np.frombuffer(piece.data, dtype=np.uint8)
        weakref.finalize(array, self._free.append, piece).atexit = False
        return array[:num_bytes]
