"""Every way in which the files are damaged: a function each, of a sound file and random numbers.

Damage to parts needs to know where they begin and end: segments of a JPEG, chunks of PNG and WebP, headers of a BMP.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_ODD_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 12, 13, 16, 24, 32, 40, 100, 255)
_SOF_MARKERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC8, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


@dataclass(frozen=True)
class Part:
    """A part of a file. start, stop: in bytes; length_at, length_size, order: where it states its length, and how."""

    start: int
    stop: int
    length_at: int = 0
    length_size: int = 0
    order: str = "big"


def parts_of(data: bytes) -> list[Part]:
    """The parts of a sound file behind its signature."""
    if data[:2] == b"\xff\xd8":
        return _jpeg_parts(data)
    if data[:4] == b"\x89PNG":
        return _chunks(data, 8, length_first=True)
    if data[:4] == b"RIFF":
        return _chunks(data, 12, length_first=False)
    assert data[:2] == b"BM", data[:8]
    pixels = int.from_bytes(data[10:14], "little")
    header = 14 + int.from_bytes(data[14:18], "little")
    parts = [Part(14, header, 14, 4, "little"), Part(header, pixels), Part(pixels, len(data))]
    return [part for part in parts if part.stop > part.start]


def _jpeg_parts(data: bytes) -> list[Part]:
    parts, at = [], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(Part(at, end, at + 2, 2))
        at = end
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return [*parts, Part(at, end, at + 2, 2), Part(end, len(data) - 2), Part(len(data) - 2, len(data))]


def _chunks(data: bytes, at: int, *, length_first: bool) -> list[Part]:
    parts = []
    while at < len(data):
        if length_first:
            end = at + 12 + int.from_bytes(data[at : at + 4], "big")
            parts.append(Part(at, end, at, 4))
        else:
            length = int.from_bytes(data[at + 4 : at + 8], "little")
            end = at + 8 + length + (length & 1)
            parts.append(Part(at, end, at + 4, 4, "little"))
        at = end
    return parts


def _one(data: bytes, random: np.random.Generator) -> Part:
    parts = parts_of(data)
    return parts[int(random.integers(len(parts)))]


def _replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def nothing(data: bytes, random: np.random.Generator) -> bytes:
    return data


def flip_a_byte(data: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(len(data)))
    return _replaced(data, at, bytes([data[at] ^ int(random.integers(1, 256))]))


def flip_a_header_byte(data: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(min(64, len(data))))
    return _replaced(data, at, bytes([data[at] ^ int(random.integers(1, 256))]))


def odd_header_byte(data: bytes, random: np.random.Generator) -> bytes:
    """A byte near the beginning of a part becomes a small number, as fields of headers hold them."""
    part = _one(data, random)
    at = int(random.integers(part.start, min(part.stop, part.start + 40)))
    return _replaced(data, at, bytes([int(random.choice(_ODD_NUMBERS))]))


def truncate(data: bytes, random: np.random.Generator) -> bytes:
    return data[: int(random.integers(1, len(data)))]


def cut_the_end(data: bytes, random: np.random.Generator) -> bytes:
    return data[: -int(random.integers(1, 17))]


def append_bytes(data: bytes, random: np.random.Generator) -> bytes:
    return data + random.bytes(int(random.integers(1, 100)))


def zero_bytes(data: bytes, random: np.random.Generator) -> bytes:
    at = int(random.integers(len(data)))
    return _replaced(data, at, bytes(min(len(data) - at, int(random.integers(1, 200)))))


def remove_a_part(data: bytes, random: np.random.Generator) -> bytes:
    part = _one(data, random)
    return data[: part.start] + data[part.stop :]


def repeat_a_part(data: bytes, random: np.random.Generator) -> bytes:
    part = _one(data, random)
    return data[: part.stop] + data[part.start :]


def cut_a_part(data: bytes, random: np.random.Generator) -> bytes:
    """A part loses its last bytes and states its old length."""
    part = _one(data, random)
    lost = int(random.integers(1, part.stop - part.start + 1))
    return data[: part.stop - lost] + data[part.stop :]


def change_a_length(data: bytes, random: np.random.Generator) -> bytes:
    parts = [part for part in parts_of(data) if part.length_size]
    part = parts[int(random.integers(len(parts)))]
    stated = data[part.length_at : part.length_at + part.length_size]
    little = part.order == "little"
    length = int.from_bytes(stated, "little" if little else "big")
    most = 256**part.length_size - 1
    other = int(random.choice([0, 1, length - 1, length + 1, length + 2, length * 2, len(data), most - 3, most]))
    return _replaced(data, part.length_at, (other & most).to_bytes(part.length_size, "little" if little else "big"))


def rename_a_part(data: bytes, random: np.random.Generator) -> bytes:
    """A JPEG's marker, the four letters of a chunk, or the sizes of a BMP become others."""
    part = _one(data, random)
    at = part.start + (1 if data[:2] == b"\xff\xd8" else 4 if data[:4] == b"\x89PNG" else 0)
    return _replaced(data, at, random.bytes(1))


def break_a_checksum(data: bytes, random: np.random.Generator) -> bytes:
    """The last byte of a part: of a PNG's chunk its CRC, of the others their data."""
    at = _one(data, random).stop - 1
    return _replaced(data, at, bytes([data[at] ^ int(random.integers(1, 256))]))


def another_frame(data: bytes, random: np.random.Generator) -> bytes:
    """The kind of a JPEG: its frame's marker is that of another process; of other formats a byte of the second part."""
    if data[:2] != b"\xff\xd8":
        return odd_header_byte(data, random)
    frame = next(part for part in parts_of(data) if data[part.start + 1] in _SOF_MARKERS)
    return _replaced(data, frame.start + 1, bytes([int(random.choice(_SOF_MARKERS))]))


Damage = Callable[[bytes, np.random.Generator], bytes]
KINDS: dict[str, Damage] = {
    "none": nothing,
    "a byte flipped": flip_a_byte,
    "a byte flipped in front": flip_a_header_byte,
    "a byte of a part's head set": odd_header_byte,
    "cut anywhere": truncate,
    "last bytes cut": cut_the_end,
    "bytes appended": append_bytes,
    "bytes zeroed": zero_bytes,
    "a part removed": remove_a_part,
    "a part repeated": repeat_a_part,
    "a part cut": cut_a_part,
    "a length changed": change_a_length,
    "a part renamed": rename_a_part,
    "a checksum broken": break_a_checksum,
    "another frame": another_frame,
}
