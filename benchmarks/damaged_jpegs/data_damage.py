"""Damage behind a JPEG's header: in its units, and in the restart markers between them.

Every function takes the sound file, where its units lie and random numbers, and returns a file of the same length, as a
tar's member keeps its size. What the file loses is filled up with zeros; what it gains pushes its end out.
"""

import numpy as np

from pipeline.jpeg.addressable import Units

_RST0, _EOI = 0xD0, 0xD9
_WRONG_MARKERS = (0x01, 0xC0, 0xC4, 0xD8, _EOI, 0xDA, 0xDB, 0xDD, 0xE0, 0xFE, 0xFF, *range(_RST0, _RST0 + 8))


def unit_ends(units: Units) -> np.ndarray:
    """Where each unit ends in the file, with its marker: int64 [units]."""
    return units.header_bytes + np.cumsum(units.lengths.ravel(), dtype=np.int64)


def _filled(data: bytes | bytearray, length: int) -> bytes:
    return bytes(data[:length]).ljust(length, b"\0")


def _unit(units: Units, random: np.random.Generator, *, but_last: int = 1) -> tuple[int, int]:
    """Beginning and end of a random unit that is none of the last."""
    ends = unit_ends(units)
    number = int(random.integers(len(ends) - but_last)) if len(ends) > but_last else 0
    return int(ends[number] - units.lengths.flat[number]), int(ends[number])


def flip_bits(data: bytes, units: Units, random: np.random.Generator, most: int = 1) -> bytes:
    """Up to ``most`` bits anywhere in the data."""
    damaged = bytearray(data)
    for _ in range(int(random.integers(1, most + 1))):
        damaged[int(random.integers(units.header_bytes, len(data)))] ^= 1 << int(random.integers(8))
    return bytes(damaged)


def flip_many_bits(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    return flip_bits(data, units, random, 40)


def overwrite(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A run of up to 200 random bytes."""
    length = int(random.integers(1, 201))
    at = int(random.integers(units.header_bytes, max(units.header_bytes, len(data) - length) + 1))
    return _filled(data[:at] + random.bytes(length) + data[at + length :], len(data))


def lose_sectors(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """Some sectors of 512 bytes come back as zeros."""
    at = int(random.integers(units.header_bytes, len(data)))
    length = 512 * int(random.integers(1, 9))
    return _filled(data[:at] + bytes(min(length, len(data) - at)) + data[at + length :], len(data))


def marker_inside(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A marker stands where a unit has data; the unit's own marker stays."""
    begin, end = _unit(units, random, but_last=0)
    at = int(random.integers(begin, max(begin + 1, end - 3)))
    damaged = bytearray(data)
    damaged[at : at + 2] = 0xFF, int(random.choice(_WRONG_MARKERS))
    return bytes(damaged[: len(data)])


def renumber_marker(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A restart marker, or the file's end, becomes a restart marker of another number."""
    _, end = _unit(units, random, but_last=0)
    others = [number for number in range(_RST0, _RST0 + 8) if number != data[end - 1]]
    return data[: end - 1] + bytes([int(random.choice(others))]) + data[end:]


def hide_marker(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A restart marker becomes data."""
    _, end = _unit(units, random)
    return data[: end - 2] + bytes(random.integers(0, 255, 2, dtype=np.uint8)) + data[end:]


def remove_marker(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    _, end = _unit(units, random)
    return _filled(data[: end - 2] + data[end:], len(data))


def repeat_marker(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    _, end = _unit(units, random)
    return _filled(data[:end] + data[end - 2 : end] + data[end:], len(data))


def remove_unit(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    begin, end = _unit(units, random)
    return _filled(data[:begin] + data[end:], len(data))


def remove_eight_units(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """Markers are numbered from 0 to 7, so the numbers go on as if nothing were missing."""
    ends = unit_ends(units)
    first = int(random.integers(max(1, len(ends) - 9)))
    begin = int(ends[first] - units.lengths.flat[first])
    return _filled(data[:begin] + data[int(ends[min(first + 7, len(ends) - 2)]) :], len(data))


def repeat_unit(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    begin, end = _unit(units, random)
    return _filled(data[:end] + data[begin:end] + data[end:], len(data))


def shift_a_byte(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A byte is lost, or one comes in."""
    at = int(random.integers(units.header_bytes, len(data)))
    middle, rest = (b"", data[at + 1 :]) if random.random() < 0.5 else (random.bytes(1), data[at:])
    return _filled(data[:at] + middle + rest, len(data))


def cut_zeros(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    return _filled(data[: int(random.integers(units.header_bytes, len(data)))], len(data))


def cut_garbage(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    at = int(random.integers(units.header_bytes, len(data)))
    return data[:at] + random.bytes(len(data) - at)


def cut_end_marker(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """The picture ends within its data, and says so; zeros follow."""
    at = int(random.integers(units.header_bytes, len(data) - 2))
    return _filled(data[:at] + bytes([0xFF, _EOI]), len(data))
