"""Damage to a JPEG's header. The functions are as those of ``data_damage``."""

import numpy as np

from benchmarks.damaged_jpegs.data_damage import flip_bits
from pipeline.jpeg.addressable import Units

_DHT, _DQT, _DRI, _SOF0, _SOF1, _SOS = 0xC4, 0xDB, 0xDD, 0xC0, 0xC1, 0xDA


def segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, first byte behind its length, end) of every segment of a sound header."""
    found: list[tuple[int, int, int]] = []
    at = 2
    while not found or found[-1][0] != _SOS:
        assert data[at] == 0xFF
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at + 1], at + 4, end))
        at = end
    return found


def _segment(data: bytes, random: np.random.Generator, *markers: int) -> tuple[int, int]:
    """A random one of these markers."""
    places = [(begin, end) for marker, begin, end in segments(data) if marker in markers]
    begin, end = places[int(random.integers(len(places)))]
    return begin, end


def _with(data: bytes, at: int, values: list[int] | bytes) -> bytes:
    return data[:at] + bytes(values) + data[at + len(values) :]


def _changed(data: bytes, at: int, random: np.random.Generator) -> bytes:
    """Another value for one byte."""
    return _with(data, at, [(data[at] + int(random.integers(1, 256))) % 256])


def flip_a_bit(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    header = bytearray(data[: units.header_bytes])
    header[int(random.integers(len(header)))] ^= 1 << int(random.integers(8))
    return bytes(header) + data[units.header_bytes :]


def overwrite_some(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A run of up to 40 random bytes."""
    length = int(random.integers(1, 41))
    at = int(random.integers(units.header_bytes - length))
    return _with(data, at, random.bytes(length))


def restart_interval(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """Another one than a unit: none, a row, any."""
    begin, _ = _segment(data, random, _DRI)
    choices = (0, 2, units.lengths.shape[1], int(random.integers(2, 65536)))
    return _with(data, begin, int(random.choice(choices)).to_bytes(2, "big"))


def no_end_of_block(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """In a table of AC coefficients, the end of a block is another value, or gone with its code."""
    tables = []
    for marker, begin, end in segments(data):
        at = begin
        while marker == _DHT and at < end:
            values = at + 17
            stop = values + sum(data[at + 1 : at + 17])
            tables += [at for _ in range(data[at] >> 4)]
            at = stop
    at = tables[int(random.integers(len(tables)))]
    values = at + 17
    place = data.index(0, values)
    return _with(data, place, [int(random.integers(1, 256))])


def huffman_table(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    begin, end = _segment(data, random, _DHT)
    return _changed(data, int(random.integers(begin, end)), random)


def quantization_table(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    begin, end = _segment(data, random, _DQT)
    return _changed(data, int(random.integers(begin, end)), random)


def frame_size(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """Height or width: a little more or less, or any."""
    begin, _ = _segment(data, random, _SOF0, _SOF1)
    at = begin + 1 + 2 * int(random.integers(2))
    size = int.from_bytes(data[at : at + 2], "big")
    near = max(0, size + int(random.choice([-17, -8, -1, 1, 7, 16])))
    return _with(data, at, int(random.choice([near, int(random.integers(65536))])).to_bytes(2, "big"))


def sampling_factors(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    begin, end = _segment(data, random, _SOF0, _SOF1)
    at = begin + 7 + 3 * int(random.integers((end - begin - 6) // 3))
    choices = [one for one in (0x00, 0x11, 0x12, 0x21, 0x22, 0x14, 0x41, 0x31, 0x44, 0x55) if one != data[at]]
    return _with(data, at, [int(random.choice(choices))])


def frame(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """Precision, components, their names or tables."""
    begin, end = _segment(data, random, _SOF0, _SOF1)
    places = [begin, begin + 5, *(at for at in range(begin + 6, end) if (at - begin) % 3 != 1)]
    return _changed(data, int(random.choice(places)), random)


def scan(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """Components, their tables, the spectrum: what stands before the data."""
    begin, end = _segment(data, random, _SOS)
    at = int(random.integers(begin, end))
    value = int(random.choice([data[at] ^ 1, data[at] ^ 16, int(random.integers(256))]))
    return _with(data, at, [value if value != data[at] else (value + 1) % 256])


def kind_of_segment(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A segment's marker becomes another."""
    places = segments(data)
    _, begin, _ = places[int(random.integers(len(places)))]
    return _changed(data, begin - 3, random)


def length_of_segment(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A segment's length: a little more or less, or any."""
    places = segments(data)
    _, begin, end = places[int(random.integers(len(places)))]
    size = end - begin + 2
    near = max(0, size + int(random.choice([-3, -2, -1, 1, 2, 3])))
    return _with(data, begin - 2, int(random.choice([near, int(random.integers(65536))])).to_bytes(2, "big"))


def header_and_data(data: bytes, units: Units, random: np.random.Generator) -> bytes:
    """A bit of the header and some of the data."""
    return flip_bits(flip_a_bit(data, units, random), units, random, 5)
