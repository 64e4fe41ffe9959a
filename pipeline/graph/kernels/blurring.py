"""Gaussian blur of a box, in fixed point, so that a pixel is the same whichever box it is in."""

from typing import Any

import numpy as np
from numba import types as nb
from numba.extending import intrinsic

from pipeline.compiling import compiled
from pipeline.graph.kernels.copying import copy_bytes
from pipeline.graph.kernels.vectors import I8, I32, Values, load, splat, spread, store, vector

_LENGTH = 16  # numbers at once
_ONE_BITS = 12  # weights add up to 1 << 12


def _adding(kind: Any) -> Any:
    """What adds 16 weighed numbers of this kind to sums."""

    @intrinsic
    def add(_context, numbers, weight, sums):  # type: ignore[no-untyped-def]
        """Addresses of 16 numbers and of int32 [16]. ``weight``: int64."""

        def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
            numbers, weight, sums = args
            loaded, wide = load(builder, numbers, vector(kind, _LENGTH)), vector(I32, _LENGTH)
            values = loaded if kind == I32 else builder.zext(loaded, wide)
            weighed = builder.mul(values, spread(builder, builder.trunc(weight, I32), _LENGTH))
            store(builder, builder.add(load(builder, sums, wide), weighed), sums)
            return target.get_dummy_value()

        return nb.void(*[nb.int64] * 3), generate

    return add


_add_pixels, _add_sums = _adding(I8), _adding(I32)


@intrinsic
def _round_lanes(_context, sums, out):  # type: ignore[no-untyped-def]
    """Sums in units of 1 / 2**24 to whole numbers: addresses of int32 [16] without a sign and of uint8 [16]."""

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        total = builder.add(load(builder, args[0], vector(I32, _LENGTH)), splat(1 << 23, _LENGTH))
        store(builder, builder.trunc(builder.lshr(total, splat(24, _LENGTH)), vector(I8, _LENGTH)), args[1])
        return target.get_dummy_value()

    return nb.void(nb.int64, nb.int64), generate


@compiled
def blur_radius(sigma):  # type: ignore[no-untyped-def]
    """Pixels on each side that a blur looks at."""
    return int(np.ceil(3 * sigma))


@compiled
def _weights(sigma):  # type: ignore[no-untyped-def]
    """Of the pixels from ``blur_radius`` before to as many behind: int64, in units of 1 / 2**12."""
    reach = blur_radius(sigma)
    weights = np.empty(2 * reach + 1, np.int64)
    total = 0.0
    for k in range(2 * reach + 1):
        total += np.exp(-0.5 * ((k - reach) / sigma) ** 2)
    left = 1 << _ONE_BITS
    for k in range(2 * reach + 1):
        weights[k] = int(np.rint(np.exp(-0.5 * ((k - reach) / sigma) ** 2) / total * (1 << _ONE_BITS)))
        left -= weights[k]
    weights[reach] += left
    return weights


@compiled
def _prolong(source, num, before, behind, out):  # type: ignore[no-untyped-def]
    """A row of ``num`` pixels with its outermost pixels repeated on both sides; addresses."""
    for i in range(before):
        copy_bytes(source, out + 3 * i, 3)
    copy_bytes(source, out + 3 * before, 3 * num)
    for i in range(before + num, before + num + behind):
        copy_bytes(source + 3 * (num - 1), out + 3 * i, 3)


@compiled
def blur(source, box, out, wanted, side, sigma):  # type: ignore[no-untyped-def]
    """Gaussian; beyond its border the image goes on as its outermost pixels.

    Args:
        source: pixels of the box (top, left, height, width), by ``blur_radius`` wider than ``wanted`` inside the image.
        out: pixels of the box ``wanted``, and ``SPARE`` bytes behind them.
    """
    weights, num = _weights(sigma), 3 * wanted[3]
    reach, lanes = len(weights) // 2, -(-num // _LENGTH) * _LENGTH
    before = box[1] - (wanted[1] - reach)
    behind = wanted[1] + wanted[3] + reach - (box[1] + box[3])
    # Sums are taken modulo 2**32, which the last of them, at most 255.5 * 2**24, are below.
    along, total = np.zeros((box[2], lanes), np.int32), np.empty(lanes, np.int32)
    line = np.zeros(lanes + 6 * reach, np.uint8)
    for y in range(box[2]):
        _prolong(source.ctypes.data + 3 * y * box[3], box[3], before, behind, line.ctypes.data)
        for k in range(len(weights)):
            for i in range(0, lanes, _LENGTH):
                at = along.ctypes.data + 4 * (y * lanes + i)
                _add_pixels(line.ctypes.data + 3 * k + i, weights[k], at)
    for y in range(wanted[2]):
        for i in range(lanes):  # an assignment to a slice takes longer to compile
            total[i] = 0
        for k in range(len(weights)):
            row = min(max(wanted[0] + y + k - reach, 0), side - 1) - box[0]
            for i in range(0, lanes, _LENGTH):
                _add_sums(along.ctypes.data + 4 * (row * lanes + i), weights[k], total.ctypes.data + 4 * i)
        for i in range(0, lanes, _LENGTH):
            _round_lanes(total.ctypes.data + 4 * i, out.ctypes.data + y * num + i)
