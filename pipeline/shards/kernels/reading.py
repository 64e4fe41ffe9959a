"""The files of a batch, read one after the other without a step of Python between them."""

import numpy as np
from numba import types
from numba.core.types import ExternalFunction

from pipeline.compiling import compiled
from pipeline.shards.kernels.headers import is_surely

# libc's; unlike a ctypes function, whose address holds for one process, it can be cached.
_pread = ExternalFunction("pread", types.int64(types.int32, types.uintp, types.uintp, types.int64))


@compiled
def read_images(descriptors, offsets, starts, buffer, sizes, is_sound):  # type: ignore[no-untyped-def]
    """Read each image from its open shard into its place. False if any of them came back short or not at all.

    Args:
        descriptors: int32 [B]. offsets: int64 [B], in the shard.
        starts: int64 [B + 1], in the buffer; where an image ends the next one begins.
        buffer: uint8 [bytes], written.
        sizes: int32 [B, 2], (height, width) that the index states.
        is_sound: bool [B], written: JPEG and PNG that are of that size and lead the decoder to their data.
    """
    address = buffer.ctypes.data
    for row in range(len(descriptors)):
        start, done = starts[row], 0
        length = starts[row + 1] - start
        # One call is the rule; the kernel's limit of 2 GiB may cut it short.
        while done < length:
            count = _pread(
                descriptors[row], np.uintp(address + start + done), np.uintp(length - done), offsets[row] + done
            )
            if count <= 0:
                return False
            done += count
        is_sound[row] = is_surely(buffer[start : start + length], sizes[row, 0], sizes[row, 1])
    return True
