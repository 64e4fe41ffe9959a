"""The walk through an image file that the decoder will take, before the decoder takes it.

A file that nvImageCodec's parsers do not find their way through ends DALI 2.4.0 with SIGSEGV more often than not, when
it is one of a batch: the error is raised while other images of the batch are being decoded. Damage that the parsers do
not look at raises an error, as it should. So each walk goes where the parser of its format goes, and is stricter.
"""

from collections.abc import Callable

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
# Start-of-frame markers; C4, C8 and CC lie among them and mean something else (ITU T.81, table B.1).
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _APP1, _APP14 = 0xDA, 0xE1, 0xEE
# Bits of a pixel's values that a PNG may have, by its colour type (PNG specification, table 11.1).
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_WEBP_HAS_EXIF = 8
_BMP_FILE_HEADER, _BMP_CORE_HEADER, _BMP_INFO_HEADER = 14, 12, 40
_BMP_PLAIN, _BMP_RUNS_OF_8_BITS, _BMP_MASKS = 0, 1, 3
# Bits of a pixel that the decoder makes colours of, by the BMP's compression.
_BMP_DEPTHS = {_BMP_PLAIN: (1, 2, 4, 8, 24, 32), _BMP_RUNS_OF_8_BITS: (8,), _BMP_MASKS: (16, 32)}

OTHER_FORMAT = "neither JPEG, PNG, WebP nor BMP, which the loader takes"
NEGATIVE = "a CMYK JPEG without Adobe marker: the loader would show its negative"
_JPEG_ASTRAY = "a JPEG whose segments do not lead to its data: truncated or damaged"
_PNG_ASTRAY = "a PNG whose chunks do not lead to its end: truncated or damaged"
_WEBP_ASTRAY = "a WebP whose chunks do not lead to its picture: truncated or damaged"
_BMP_ASTRAY = "a BMP whose header does not lead to its pixels: truncated or damaged"


def container_fault(encoded: memoryview) -> str | None:
    """Why a JPEG, PNG, WebP or BMP must not come near the decoder, by its kind; None where it may.

    A few µs. An image of another format is none of the loader's and must not come near it either.
    """
    for signature, walk in _WALKS.items():
        if encoded[: len(signature)] == signature:
            return walk(encoded)
    return OTHER_FORMAT


def _jpeg_fault(encoded: memoryview) -> str | None:
    at, components, has_adobe = 2, 0, False
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == _JPEG_SCAN:
            return _jpeg_components_fault(components, has_adobe)
        if marker == 0:
            return "a JPEG with the bytes FF 00 where a marker belongs"
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length, body = _big(encoded, at + 2, 2), at + 4
        end = at + 2 + length
        if end > len(encoded):
            return _JPEG_ASTRAY
        if marker in JPEG_FRAMES:
            if components:
                return "a JPEG with several frames"  # of which the decoder goes by the last
            components = encoded[body + 5] if body + 6 <= len(encoded) else 0
            if body + 6 + 3 * components > len(encoded):
                return _JPEG_ASTRAY
        elif marker in (_APP1, _APP14) and body + 6 > len(encoded):  # the parser reads so far, whatever the length
            return _JPEG_ASTRAY
        elif marker == _APP1 and length < 8 and encoded[body : body + 6] == b"Exif\0\0":
            return "a JPEG whose EXIF segment is too short"
        elif marker == _APP14 and length >= 14 and encoded[body : body + 5] == b"Adobe":
            has_adobe = True
        at = end
    return _JPEG_ASTRAY


def _jpeg_components_fault(components: int, has_adobe: bool) -> str | None:
    if components == 0:
        return _JPEG_ASTRAY
    if components not in (1, 3, 4):
        return f"a JPEG of {components} components, where the loader takes 1, 3 or 4"
    return NEGATIVE if components == 4 and not has_adobe else None


def _png_fault(encoded: memoryview) -> str | None:
    if len(encoded) < 33 or encoded[8:16] != b"\0\0\0\rIHDR":
        return "a PNG that does not begin with its header"
    depth, color = encoded[24], encoded[25]
    if depth not in _PNG_DEPTHS.get(color, ()):
        return f"a PNG of colour type {color} with {depth} bits, which there is not"
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(encoded):
        if encoded[at + 4 : at + 8] == b"IEND":
            return None
        at += 12 + _big(encoded, at, 4)
    return _PNG_ASTRAY


def _webp_fault(encoded: memoryview) -> str | None:
    if len(encoded) < 30 or encoded[8:12] != b"WEBP":
        return _WEBP_ASTRAY
    kind = bytes(encoded[12:16])
    if kind == b"VP8 ":
        return None if encoded[23:26] == b"\x9d\x01\x2a" else "a WebP whose picture does not begin as such"
    if kind == b"VP8L":
        return None if encoded[20] == 0x2F else "a WebP whose picture does not begin as such"
    if kind != b"VP8X":
        return _WEBP_ASTRAY
    return _webp_exif_fault(encoded) if encoded[20] & _WEBP_HAS_EXIF else None


def _webp_exif_fault(encoded: memoryview) -> str | None:
    """The decoder looks for the EXIF data, and forgets that a chunk of odd length is followed by a byte of padding."""
    at, has_padding = 12, False
    while at + 8 <= len(encoded):
        kind, length = encoded[at : at + 4], _little(encoded, at + 4, 4)
        if kind == b"EXIF":
            if at + 8 + length > len(encoded):
                return _WEBP_ASTRAY
            return "a WebP with a chunk of odd length in front of its EXIF data" if has_padding else None
        has_padding = has_padding or length % 2 == 1
        at += 8 + length + length % 2
    return "a WebP without the EXIF data that its header tells of"


def _bmp_fault(encoded: memoryview) -> str | None:
    if len(encoded) < _BMP_FILE_HEADER + _BMP_CORE_HEADER:
        return _BMP_ASTRAY
    header = _little(encoded, 14, 4)
    if _BMP_FILE_HEADER + header > len(encoded):
        return _BMP_ASTRAY
    if header == _BMP_CORE_HEADER:
        width, height, depth = (_little(encoded, at, 2) for at in (18, 20, 24))
        compression, colors, entry = _BMP_PLAIN, 0, 3
    elif header >= _BMP_INFO_HEADER:
        width, height = (_little(encoded, at, 4) for at in (18, 22))
        height = min(height, 2**32 - height)  # negative where the rows go downwards
        depth, compression, colors, entry = _little(encoded, 28, 2), _little(encoded, 30, 4), _little(encoded, 46, 4), 4
    else:
        return f"a BMP with a header of {header} bytes, which there is not"
    if depth not in _BMP_DEPTHS.get(compression, ()):
        return f"a BMP of {depth} bits and compression {compression}, which the decoder does not know"
    if depth <= 8 and colors > 2**depth:
        return f"a BMP of {depth} bits with more colours than that"
    palette = (colors or 2**depth) * entry if depth <= 8 else 0
    # Rows end on a whole 4 bytes. Of runs nobody knows the length beforehand.
    pixels = 0 if compression == _BMP_RUNS_OF_8_BITS else (width * depth + 31) // 32 * 4 * height
    end = max(_BMP_FILE_HEADER + header + palette, _little(encoded, 10, 4) + pixels)
    return _BMP_ASTRAY if end > len(encoded) else None


def _big(encoded: memoryview, at: int, size: int) -> int:
    return int.from_bytes(encoded[at : at + size], "big")


def _little(encoded: memoryview, at: int, size: int) -> int:
    return int.from_bytes(encoded[at : at + size], "little")


_WALKS: dict[bytes, Callable[[memoryview], str | None]] = {
    JPEG_SIGNATURE: _jpeg_fault,
    PNG_SIGNATURE: _png_fault,
    b"RIFF": _webp_fault,
    b"BM": _bmp_fault,
}
