"""Pixels of a warp that lie inside the image with all that they look at, several at once, said as vectors.

A pixel is a mean of 2 x 2, weighed in 1 / 256 along each axis. All numbers are whole, so that the result is the same
everywhere, whatever is added up first.
"""

from typing import Any

from llvmlite import ir
from numba import types as nb
from numba.extending import intrinsic

from pipeline.graph.kernels.vectors import I8, I16, I32, I64, Values, load, pick, splat, spread, store, vector

WARPED = 4  # pixels that ``warp_lanes`` writes at once
SHIFTED = 32  # numbers that ``shift_lanes`` writes at once
_BYTES = 8  # read of a row for one pixel: two pixels, and two numbers that come to nothing


def _wide(builder: Any, numbers: Any, kind: ir.Type) -> Any:
    return builder.zext(numbers, vector(kind, numbers.type.count))


def _share(builder: Any, place: Any) -> Any:
    """Of a place in 1 / 65536, cut to int16, what is behind the point, in 1 / 256."""
    return builder.lshr(place, splat(8, place.type.count, I16))


def _mean(builder: Any, first: Any, second: Any, share: Any) -> Any:
    """Of uint8 in int16, ``share`` / 256 of the second and the rest of the first, in 1 / 256: at most 255 * 256."""
    whole = builder.shl(first, splat(8, first.type.count, I16))
    return builder.add(whole, builder.mul(builder.sub(second, first), share))


def _places(builder: Any, start: Any, step: Any, length: int) -> Any:
    """``start``, and ``step`` more for each of the pixels behind, 8 numbers each: int16, what is above is lost."""
    number = ir.Constant(vector(I16, length), [i // _BYTES for i in range(length)])
    steps = builder.mul(number, spread(builder, builder.trunc(step, I16), length))
    return builder.add(spread(builder, builder.trunc(start, I16), length), steps)


def _loaded(builder: Any, addresses: Values) -> Any:
    """8 bytes from each address; left and right pixel's reds side by side, then greens and blues: int16."""
    numbers = ir.Constant(vector(I64, len(addresses)), ir.Undefined)
    for i, address in enumerate(addresses):
        loaded = load(builder, address, vector(I64, 1))
        numbers = builder.insert_element(numbers, builder.extract_element(loaded, I32(0)), I32(i))
    read = builder.bitcast(numbers, vector(I8, _BYTES * len(addresses)))
    places = [_BYTES * i + k for i in range(len(addresses)) for k in (0, 3, 1, 4, 2, 5, 6, 7)]
    return _wide(builder, pick(builder, read, read, places), I16)


@intrinsic
def warp_lanes(_context, source, step, x, y, x_step, y_step, out):  # type: ignore[no-untyped-def]
    """4 pixels along a row.

    Args:
        source: address of pixel (0, 0) of the image, whether it is there or not, and ``step``: bytes from row to row.
        x, y: where the first comes from, int64 in 1 / 65536 of a pixel; neither is below 0, and there is a pixel
            behind along both axes.
        x_step, y_step: how much further along that is for each of the next.
        out: address of uint8 [16], written: 12 bytes, and 4 that mean nothing.
    """

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        source, step, x, y, x_step, y_step, out = args
        length, upper = _BYTES * WARPED, []
        at_x, at_y = x, y
        for _ in range(WARPED):
            column, row = (builder.ashr(at, I64(16)) for at in (at_x, at_y))
            place = builder.add(builder.mul(row, step), builder.mul(column, I64(3)))
            upper.append(builder.add(source, place))
            at_x, at_y = builder.add(at_x, x_step), builder.add(at_y, y_step)
        above = _loaded(builder, upper)
        below = _loaded(builder, [builder.add(address, step) for address in upper])
        down = _share(builder, _places(builder, y, y_step, length))
        right = _share(builder, _places(builder, x, x_step, length))
        # Weights of left and right in turn: 256 - share, share.
        is_left = ir.Constant(vector(I16, length), [-1, 0] * (length // 2))
        weights = builder.add(builder.xor(right, is_left), builder.and_(is_left, splat(257, length, I16)))
        # As signed numbers, around 2**15, two products and their sum are one instruction on most machines.
        columns = builder.xor(_mean(builder, above, below, down), splat(-(1 << 15), length, I16))
        wide = vector(I32, length)
        each = builder.mul(builder.sext(columns, wide), builder.sext(weights, wide), flags=["nsw"])
        even, odd = (pick(builder, each, each, range(start, length, 2)) for start in (0, 1))
        back = splat((1 << 23) + 0x8000, length // 2)
        total = builder.lshr(builder.add(builder.add(even, odd), back), splat(16, length // 2))
        narrow = builder.trunc(total, vector(I8, length // 2))
        places = [4 * i + channel for i in range(WARPED) for channel in range(3)]
        store(builder, pick(builder, narrow, narrow, [*places, 15, 15, 15, 15]), out)
        return target.get_dummy_value()

    return nb.void(*[nb.int64] * 7), generate


@intrinsic
def shift_lanes(_context, source, step, right, down, out):  # type: ignore[no-untyped-def]
    """32 numbers of pixels that come from pixels side by side.

    Args:
        source: address of the first of the upper left ones; ``step``: bytes from row to row.
        right, down: shares of the pixels there, int64, in 1 / 256.
        out: address of uint8 [32], written.
    """

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        source, step, right, down, out = args
        shares = [spread(builder, builder.trunc(share, I16), SHIFTED) for share in (right, down)]
        rows = []
        for row in (source, builder.add(source, step)):
            first, second = (
                _wide(builder, load(builder, builder.add(row, I64(beside)), vector(I8, SHIFTED)), I16)
                for beside in (0, 3)
            )
            rows.append(_wide(builder, _mean(builder, first, second, shares[0]), I32))
        part = builder.mul(builder.sub(rows[1], rows[0]), _wide(builder, shares[1], I32))
        total = builder.add(builder.shl(rows[0], splat(8, SHIFTED)), part)
        rounded = builder.lshr(builder.add(total, splat(0x8000, SHIFTED)), splat(16, SHIFTED))
        store(builder, builder.trunc(rounded, vector(I8, SHIFTED)), out)
        return target.get_dummy_value()

    return nb.void(*[nb.int64] * 5), generate
