"""One sound image file of every kind that a shard may hold, from a table; Pillow writes most, some it cannot write."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.shared.photographs import photograph

WIDTH, HEIGHT = 61, 47  # no multiples of anything
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_BI_RGB, _BI_BITFIELDS = 0, 3


def picture(seed: int) -> np.ndarray:
    """uint8 [HEIGHT, WIDTH, 3]."""
    return photograph(seed, WIDTH, HEIGHT)


def _saved(format: str, mode: str = "RGB", **options: object) -> Callable[[int], bytes]:
    def save(seed: int) -> bytes:
        image = Image.fromarray(picture(seed))
        if mode.endswith("A"):
            image.putalpha(Image.fromarray(picture(seed + 1)[:, :, 0]))
        sink = io.BytesIO()
        image.convert(mode).save(sink, format, **options)
        return sink.getvalue()

    return save


def _png_palette_with_alpha(seed: int) -> bytes:
    image, sink = Image.fromarray(picture(seed)), io.BytesIO()
    image.putalpha(Image.fromarray(picture(seed + 1)[:, :, 0]))
    image.quantize(64).save(sink, "PNG")
    return sink.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a picture", 6  # a description, and an orientation that the loader ignores
    return exif.tobytes()


def without_segment(data: bytes, marker: int) -> bytes:
    """A JPEG without its segments of this marker."""
    at = 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == marker:
            return without_segment(data[:at] + data[end:], marker)
        at = end
    return data


def _cmyk_without_adobe(seed: int) -> bytes:
    return without_segment(_saved("JPEG", "CMYK")(seed), 0xEE)


def _ycck(seed: int) -> bytes:
    """The four components of a CMYK file, said to be YCCK: odd colours, but whole."""
    data = _saved("JPEG", "CMYK")(seed)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\2" + data[at + 1 :]


def _lossless_jpeg(seed: int) -> bytes:
    """A grey JPEG of the lossless process: each pixel less its neighbour to the left, or in the first column above."""
    pixels = picture(seed)[:, :, 0].astype(int)
    expected = np.roll(pixels, 1, axis=1)
    expected[1:, 0], expected[0, 0] = pixels[:-1, 0], 128
    bits = ""
    for difference in (pixels - expected).ravel().tolist():
        size = abs(difference).bit_length()
        bits += f"{size:04b}" + (
            f"{difference if difference > 0 else difference + 2**size - 1:0{size}b}" if size else ""
        )
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHB3B", 8, HEIGHT, WIDTH, 1, 1, 0x11, 0)
    table = bytes([0, 0, 0, 0, 9, *bytes(12), *range(9)])  # the number of bits, each as a code of 4 bits
    parts = ((0xC3, frame), (0xC4, table), (0xDA, bytes([1, 1, 0, 1, 0, 0])))
    segments = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in parts)
    return b"\xff\xd8" + segments + scan + b"\xff\xd9"


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(pixels: np.ndarray, color: int, *, interlaced: bool = False) -> bytes:
    """A PNG of uint8 or big-endian uint16 [H, W, C], which Pillow does not write: 16 bits in colour, interlaced."""
    height, width = pixels.shape[:2]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    raw = b""
    for top, left, down, right in passes:
        part = pixels[top::down, left::right]
        raw += b"".join(b"\0" + row.tobytes() for row in part if part.size)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color, 0, 0, int(interlaced))
    parts = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(raw)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _png_16_bits(seed: int) -> bytes:
    return _png((picture(seed).astype(np.uint16) * 257).astype(">u2"), 2)


def _png_interlaced(seed: int) -> bytes:
    return _png(picture(seed), 2, interlaced=True)


def _bmp_16_bits(masks: tuple[int, ...]) -> Callable[[int], bytes]:
    """A BMP of 5 bits a colour (no masks) or of 5, 6 and 5."""

    def save(seed: int) -> bytes:
        red, green, blue = (picture(seed)[::-1, :, channel].astype(np.uint16) for channel in range(3))
        values = red >> 3 << 10 | green >> 3 << 5 | blue >> 3
        if masks:
            values = red >> 3 << 11 | green >> 2 << 5 | blue >> 3
        rows = np.zeros((HEIGHT, (2 * WIDTH + 3) // 4 * 2), "<u2")
        rows[:, :WIDTH] = values
        tables = struct.pack(f"<{len(masks)}I", *masks)
        start = 14 + 40 + len(tables)
        kind = _BI_BITFIELDS if masks else _BI_RGB
        info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 16, kind, rows.nbytes, 2835, 2835, 0, 0)
        return b"BM" + struct.pack("<IHHI", start + rows.nbytes, 0, 0, start) + info + tables + rows.tobytes()

    return save


FILES: dict[str, Callable[[int], bytes]] = {
    "JPEG": _saved("JPEG"),
    "JPEG, progressive": _saved("JPEG", progressive=True),
    "JPEG, grey": _saved("JPEG", "L"),
    "JPEG with EXIF": _saved("JPEG", exif=_exif()),
    "JPEG, CMYK": _saved("JPEG", "CMYK"),
    "JPEG, CMYK without Adobe marker": _cmyk_without_adobe,
    "JPEG, YCCK": _ycck,
    "JPEG, lossless": _lossless_jpeg,
    "PNG": _saved("PNG"),
    "PNG, grey": _saved("PNG", "L"),
    "PNG, palette": _saved("PNG", "P"),
    "PNG, palette with alpha": _png_palette_with_alpha,
    "PNG, black and white": _saved("PNG", "1"),
    "PNG, grey with alpha": _saved("PNG", "LA"),
    "PNG with alpha": _saved("PNG", "RGBA"),
    "PNG, 16 bits": _png_16_bits,
    "PNG, grey, 16 bits": _saved("PNG", "I;16"),
    "PNG, interlaced": _png_interlaced,
    "PNG with EXIF": _saved("PNG", exif=_exif()),
    "WebP": _saved("WEBP"),
    "WebP, lossless": _saved("WEBP", lossless=True),
    "WebP with EXIF": _saved("WEBP", exif=_exif()),
    "WebP, lossless, with EXIF": _saved("WEBP", lossless=True, exif=_exif()),
    "WebP with alpha": _saved("WEBP", "RGBA"),
    "WebP, lossless, with alpha": _saved("WEBP", "RGBA", lossless=True),
    "BMP, 24 bits": _saved("BMP"),
    "BMP, 8 bits, grey": _saved("BMP", "L"),
    "BMP, 8 bits, palette": _saved("BMP", "P"),
    "BMP, 16 bits": _bmp_16_bits(()),
    "BMP, 16 bits with masks": _bmp_16_bits((0xF800, 0x07E0, 0x001F)),
    "BMP, 32 bits": _saved("BMP", "RGBA"),
}
