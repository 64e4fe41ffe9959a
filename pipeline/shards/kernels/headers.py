"""``image_header`` for JPEG and PNG, compiled: whether a file is beyond doubt what the index says it is."""

from pipeline.compiling import compiled

_JPEG_SCAN, _APP1, _APP14 = 0xDA, 0xE1, 0xEE
_EXIF = 0x45786966


@compiled
def _pair(encoded, at):  # type: ignore[no-untyped-def]
    """Two bytes as a number."""
    return (int(encoded[at]) << 8) | int(encoded[at + 1])


@compiled
def _quad(encoded, at):  # type: ignore[no-untyped-def]
    """Four bytes as a number."""
    return (_pair(encoded, at) << 16) | _pair(encoded, at + 2)


@compiled
def _is_frame(marker):  # type: ignore[no-untyped-def]
    """Whether a JPEG's marker starts a frame: C4, C8 and CC lie among those and mean something else."""
    return 0xC0 <= marker < 0xD0 and marker != 0xC4 and marker != 0xC8 and marker != 0xCC


@compiled
def _jpeg_is(encoded, height, width):  # type: ignore[no-untyped-def]
    """Whether the segments lead to a frame of this size."""
    at, length = 2, len(encoded)
    while at + 9 <= length and encoded[at] == 0xFF:
        marker = int(encoded[at + 1])
        if _is_frame(marker):
            return _pair(encoded, at + 5) == height and _pair(encoded, at + 7) == width
        at += 1 if marker == 0xFF else 2 + _pair(encoded, at + 2)
    return False


@compiled
def _jpeg_leads_to_data(encoded):  # type: ignore[no-untyped-def]
    """As ``containers`` walks, but for JPEGs of four components: of those it is never sure."""
    at, length, components = 2, len(encoded), 0
    while at + 4 <= length and encoded[at] == 0xFF:
        marker = int(encoded[at + 1])
        if marker == _JPEG_SCAN:
            return components == 1 or components == 3
        if marker == 0:
            return False
        if marker == 0xFF:
            at += 1
            continue
        size = _pair(encoded, at + 2)
        end = at + 2 + size
        if end > length or (marker in (_APP1, _APP14) and at + 10 > length):
            return False
        if (
            marker == _APP1 and size < 8 and _quad(encoded, at + 4) == 0x45786966 and _pair(encoded, at + 8) == 0
        ):  # Exif
            return False
        if _is_frame(marker):
            if components > 0 or at + 10 > length:
                return False
            components = int(encoded[at + 9])
            if at + 10 + 3 * components > length:
                return False
        at = end
    return False


@compiled
def _png_is_one(encoded):  # type: ignore[no-untyped-def]
    """Whether its header is the first chunk, and of a kind that there is."""
    if len(encoded) < 33 or _quad(encoded, 8) != 13 or _quad(encoded, 12) != 0x49484452:  # IHDR
        return False
    depth, color = encoded[24], encoded[25]
    if color == 2 or color == 4 or color == 6:
        return depth == 8 or depth == 16
    if color == 0 or color == 3:
        return depth == 1 or depth == 2 or depth == 4 or depth == 8 or (depth == 16 and color == 0)
    return False


@compiled
def _png_leads_to_end(encoded):  # type: ignore[no-untyped-def]
    at, length = 8, len(encoded)
    while at + 12 <= length:
        if _quad(encoded, at + 4) == 0x49454E44:  # IEND
            return True
        at += 12 + _quad(encoded, at)
    return False


@compiled
def is_surely(encoded, height, width):  # type: ignore[no-untyped-def]
    """Whether a file is a JPEG or PNG of which ``image_size`` gives this size and ``is_parsable`` is True.

    It may be False for a JPEG of four components where both are true.

    Args:
        encoded: uint8 [bytes].
    """
    length = len(encoded)
    if length >= 2 and encoded[0] == 0xFF and encoded[1] == 0xD8:
        return _jpeg_is(encoded, height, width) and _jpeg_leads_to_data(encoded)
    if length >= 24 and _quad(encoded, 0) == 0x89504E47 and _quad(encoded, 4) == 0x0D0A1A0A:
        is_of_size = _quad(encoded, 20) == height and _quad(encoded, 16) == width
        return is_of_size and _png_is_one(encoded) and _png_leads_to_end(encoded)
    return False
