"""Whether a JPEG is as simple as most are, so that all decoders of one library make the same of it."""

import re

from pipeline.shards.containers import JPEG_FRAMES, JPEG_SIGNATURE

_BASELINE_FRAMES = (0xC0, 0xC1)
_SCAN, _END = 0xDA, 0xD9
# What ends a scan's data: a marker that is neither a stuffed FF, a fill byte nor a restart marker.
_ENDING = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def is_one_whole_scan(encoded: bytes) -> bool:
    """Whether a file is a sequential JPEG of 8 bits whose only scan holds all its components and ends with the file.

    Behind such a scan there is nothing that one decoder reads and another does not.
    """
    at, components = 2, 0
    if encoded[:2] != JPEG_SIGNATURE:
        return False
    while at + 10 <= len(encoded) and encoded[at] == 0xFF:
        marker, end = encoded[at + 1], at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker in JPEG_FRAMES:
            if marker not in _BASELINE_FRAMES or components or encoded[at + 4] != 8:
                return False
            components = encoded[at + 9]
        elif marker == _SCAN:
            found = _ENDING.search(encoded, end)
            return components > 0 and encoded[at + 4] == components and found is not None and found[0][1] == _END
        elif marker == 0xFF:
            return False
        at = end
    return False
