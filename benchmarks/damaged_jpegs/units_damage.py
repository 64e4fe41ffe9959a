"""Wrong numbers in the file beside a shard, which says where the units of its images lie.

Every function takes what is true of an image and random numbers, and returns what is not. The images stay sound.
"""

from dataclasses import replace

import numpy as np

from pipeline.jpeg.addressable import Units


def _with(units: Units, lengths: np.ndarray) -> Units:
    return replace(units, lengths=lengths.astype(np.uint16).reshape(units.lengths.shape))


def one_length(units: Units, random: np.random.Generator) -> Units:
    """A bit of one length."""
    lengths = units.lengths.ravel().copy()
    lengths[int(random.integers(len(lengths)))] ^= 1 << int(random.integers(16))
    return _with(units, lengths)


def move_boundary(units: Units, random: np.random.Generator) -> Units:
    """One unit is longer, and its neighbour shorter by as much: all others lie where they should."""
    lengths = units.lengths.ravel().astype(np.int64)
    for number in random.integers(len(lengths) - 1, size=max(1, len(lengths) // 8)).tolist():
        more = int(random.integers(-lengths[number] + 1, lengths[number + 1]))
        lengths[number], lengths[number + 1] = lengths[number] + more, lengths[number + 1] - more
    return _with(units, lengths)


def swap_lengths(units: Units, random: np.random.Generator) -> Units:
    lengths = units.lengths.ravel().copy()
    one, other = random.integers(len(lengths), size=2).tolist()
    lengths[[one, other]] = lengths[[other, one]]
    return _with(units, lengths)


def skip_eight_units(units: Units, random: np.random.Generator) -> Units:
    """Nine units count as one, and the last eight are split: those between seem to lie eight units further on.

    Their markers have the same numbers there.
    """
    lengths = units.lengths.ravel().astype(np.int64)
    first = int(random.integers(max(1, len(lengths) - 9)))
    merged = np.concatenate([lengths[:first], [lengths[first : first + 9].sum()], lengths[first + 9 :]])
    missing = len(lengths) - len(merged)
    return _with(units, np.concatenate([merged, np.zeros(missing, np.int64)]))


def random_lengths(units: Units, random: np.random.Generator) -> Units:
    most = int(random.choice([3, 200, 65536]))
    return _with(units, random.integers(0, most, units.lengths.size))


def overwrite_lengths(units: Units, random: np.random.Generator) -> Units:
    """A run of up to 64 random bytes."""
    lengths = units.lengths.ravel().copy()
    run = random.integers(0, 65536, int(random.integers(1, 33)))[: len(lengths)]
    at = int(random.integers(len(lengths) - len(run) + 1))
    lengths[at : at + len(run)] = run
    return _with(units, lengths)


def header_bytes(units: Units, random: np.random.Generator) -> Units:
    near = max(1, units.header_bytes + int(random.choice([-600, -2, -1, 1, 2, 600])))
    return replace(units, header_bytes=int(random.choice([near, int(random.integers(1, 2**32))])))


def fewer_units(units: Units, random: np.random.Generator) -> Units:
    """The row of another image: of another number of units."""
    return replace(units, lengths=units.lengths[:-1] if random.random() < 0.5 else units.lengths[:, :-1])
