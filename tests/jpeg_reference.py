"""JPEGs taken apart and put together the slow and obvious way: bytes split at markers, codes spelled out as text."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Parts:
    """segments: (marker, content) up to the data. units: the data of each unit, without markers.

    rows, columns: of units; height, width: of the image, unit_height, unit_width: of a unit, in pixels.
    """

    segments: list[tuple[int, bytes]]
    units: list[bytes]
    rows: int
    columns: int
    height: int
    width: int
    unit_height: int
    unit_width: int


def take_apart(encoded: bytes) -> Parts:
    segments, at = [], 2
    while not segments or segments[-1][0] != 0xDA:
        size = int.from_bytes(encoded[at + 2 : at + 4])
        segments.append((encoded[at + 1], encoded[at + 4 : at + 2 + size]))
        at += 2 + size
    (frame,) = [content for marker, content in segments if marker == 0xC0]
    height, width, count = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5]), frame[5]
    factors = [divmod(frame[7 + 3 * i], 16) for i in range(count)] if count > 1 else [(1, 1)]
    unit_width, unit_height = (8 * max(factor[axis] for factor in factors) for axis in (0, 1))
    units = re.split(rb"\xff[\xd0-\xd7]", encoded[at : encoded.rindex(b"\xff\xd9")])
    rows, columns = -(-height // unit_height), -(-width // unit_width)
    return Parts(segments, units, rows, columns, height, width, unit_height, unit_width)


def _codes(parts: Parts) -> dict[tuple[int, int], dict[int, str]]:
    """By (class, number) of a Huffman table: the code of each of its symbols, in text."""
    tables: dict[tuple[int, int], dict[int, str]] = {}
    for content in [content for marker, content in parts.segments if marker == 0xC4]:
        while content:
            counts, symbols, code = content[1:17], content[17:], 0
            table = tables[divmod(content[0], 16)] = {}
            for bits, count in enumerate(counts, 1):
                for _ in range(count):
                    table[symbols[len(table)]] = f"{code:0{bits}b}"
                    code += 1
                code *= 2
            content = content[17 + sum(counts) :]
    return tables


def hole_of(parts: Parts) -> bytes:
    """The shortest unit: in every block a difference of the fewest bits, and the end of the block."""
    codes, bits = _codes(parts), ""
    (frame,) = [content for marker, content in parts.segments if marker == 0xC0]
    scan = parts.segments[-1][1]
    for i in range(frame[5]):
        across, down = divmod(frame[7 + 3 * i], 16) if frame[5] > 1 else (1, 1)
        differences, others = (codes[kind, table] for kind, table in enumerate(divmod(scan[2 + 2 * i], 16)))
        symbol = min(differences, key=lambda one: len(differences[one]) + one)
        bits += across * down * (differences[symbol] + symbol * "0" + others[0])
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")


def put_together(parts: Parts, top: int, left: int, needed: Bools) -> bytes:
    """The JPEG of a rectangle of units, from row ``top`` and column ``left`` on; bool [rows, columns]."""
    num_rows, num_columns = needed.shape
    height = int(min((top + num_rows) * parts.unit_height, parts.height) - top * parts.unit_height)
    width = int(min((left + num_columns) * parts.unit_width, parts.width) - left * parts.unit_width)
    encoded, hole = b"\xff\xd8", hole_of(parts)
    for marker, content in parts.segments:
        if marker == 0xC0:
            content = content[:1] + height.to_bytes(2) + width.to_bytes(2) + content[5:]
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            encoded += bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content
    for row in range(num_rows):
        for column in range(num_columns):
            unit = parts.units[(top + row) * parts.columns + left + column] if needed[row, column] else hole
            encoded += unit + bytes([0xFF, 0xD0 + (row * num_columns + column) % 8])
    return encoded[:-1] + b"\xd9"
