"""Weighted sums of pixels, many at a time: the two steps of a resize, said as vectors.

LLVM turns vectors into what the machine has, however wide. All numbers are whole, so the result is the same everywhere.
A weight is an int16 in units of 1 / 2**14. Weights come in pairs, because two products and their sum are one
instruction on most machines.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types as nb
from numba.core import cgutils
from numba.extending import intrinsic

from pipeline.graph.kernels.vectors import I1, I8, I16, I32, I64, Values, load, pick, splat, store, vector

WEIGHT_BITS = 14
LINE_BITS = 7  # behind the point of what is resized downwards only: 255 * 2**7 is the most that an int16 holds
LANES = 16  # columns that ``weigh_rows`` does at once
GROUP = 4  # rows, and pixels along them, that ``weigh_columns`` does at once
LOAD_BYTES = 16  # what it reads of a row at once: two pixels, and two numbers that come to nothing
_UNROLLED = (1, 2, 3)  # pairs of weights that have code of their own: scales up to 3

_ADDRESS = nb.int64
_FOUR = nb.UniTuple(nb.int64, GROUP)


def _interleaved(length: int, run: int) -> list[int]:
    """Places that take ``run`` numbers of one vector of this length, as many of the other, and so on."""
    return [part + start + i for start in range(0, length, run) for part in (0, length) for i in range(run)]


def _products(builder: Any, numbers: Any, weights_address: Any) -> Any:
    """Pairs of int16, each times a pair of weights and added up: int32, half as many."""
    length = numbers.type.count
    pair = load(builder, weights_address, vector(I16, 2))
    weights = pick(builder, pair, pair, [0, 1] * (length // 2))
    wide = vector(I32, length)
    each = builder.mul(builder.sext(numbers, wide), builder.sext(weights, wide), flags=["nsw"])
    even, odd = (pick(builder, each, each, range(start, length, 2)) for start in (0, 1))
    return builder.add(even, odd, flags=["nsw"])


def _packed(builder: Any, first: Any, second: Any, kind: ir.IntType, run: int) -> Any:
    """Two vectors cut to a narrower kind and interleaved by ``run`` numbers."""
    narrow = vector(kind, first.type.count)
    places = _interleaved(first.type.count, run)
    return pick(builder, builder.trunc(first, narrow), builder.trunc(second, narrow), places)


def _sum_over_pairs(
    builder: Any, pairs: Any, sums: Values, add: Callable[[Any, Any, Values], Values], finish: Callable[[Values], None]
) -> None:
    """``add(k, is_last, sums)`` for k from 0 to ``pairs`` - 1, at least once, then ``finish(sums)``."""
    end, loop = builder.append_basic_block("end"), builder.append_basic_block("loop")
    before = builder.block
    cases = builder.switch(pairs, loop)
    for number in _UNROLLED:
        block = builder.append_basic_block(f"pairs{number}")
        cases.add_case(I64(number), block)
        builder.position_at_end(block)
        unrolled = sums
        for k in range(number):
            unrolled = add(I64(k), I1(k + 1 == number), unrolled)
        finish(unrolled)
        builder.branch(end)
    builder.position_at_end(loop)
    place, running = builder.phi(I64), [builder.phi(value.type) for value in sums]
    following = builder.add(place, I64(1))
    is_last = builder.icmp_unsigned("==", following, pairs)
    added = add(place, is_last, running)
    for phi, start, later in zip([place, *running], [I64(0), *sums], [following, *added], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(later, builder.block)
    done = builder.append_basic_block("done")
    builder.cbranch(is_last, done, loop)
    builder.position_at_end(done)
    finish(added)
    builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def weigh_rows(_context, source, step, count, weights, out):  # type: ignore[no-untyped-def]
    """16 bytes, and as many of each following row, as one row: ``count`` of them, weighed and added up.

    Args:
        source: address of uint8 [16] in the first row.
        step: bytes from row to row. Rows behind the last are not read.
        weights: address of int16 [count], and of a 0 behind them where ``count`` is odd.
        out: address of int16 [16], written: sums in units of 1 / 2**7.
    """

    def generate(_target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        source, step, count, weights, out = args
        half, rounding = LANES // 2, 1 << (WEIGHT_BITS - LINE_BITS - 1)
        places = _interleaved(LANES, 1)
        last_step = builder.select(builder.trunc(count, I1), I64(0), step)  # an odd row is paired with itself

        def add(k: Any, is_last: Any, sums: Values) -> Values:
            first = builder.add(source, builder.mul(k, builder.shl(step, I64(1))))
            second = builder.add(first, builder.select(is_last, last_step, step))
            upper, lower = (
                builder.zext(load(builder, address, vector(I8, LANES)), vector(I16, LANES))
                for address in (first, second)
            )
            at = builder.add(weights, builder.shl(k, I64(2)))
            # Numbers 0 to 3 and 8 to 11, then the others: what machines do within 128 bits.
            parts = [
                [places[i + low] for i in range(0, 2 * LANES, LANES) for low in range(start, start + 8)]
                for start in (0, 8)
            ]
            return [
                builder.add(total, _products(builder, pick(builder, upper, lower, part), at), flags=["nsw"])
                for total, part in zip(sums, parts, strict=True)
            ]

        def finish(sums: Values) -> None:
            shift = splat(WEIGHT_BITS - LINE_BITS, half)
            low, high = (builder.lshr(total, shift) for total in sums)
            store(builder, _packed(builder, low, high, I16, 4), out)

        pairs = builder.lshr(builder.add(count, I64(1)), I64(1))
        _sum_over_pairs(builder, pairs, [splat(rounding, half)] * 2, add, finish)
        return _target.get_dummy_value()

    return nb.void(_ADDRESS, nb.int64, nb.int64, _ADDRESS, _ADDRESS), generate


@intrinsic
def weigh_columns(_context, lines, lines_step, offsets, weights, pairs, out, out_step):  # type: ignore[no-untyped-def]
    """4 pixels in each of 4 rows, from neighbouring pixels along the row.

    Args:
        lines: address of the first row, int16 in units of 1 / 2**7, interleaved channels.
        lines_step: bytes from row to row.
        offsets: of each pixel, the bytes from a row's start to the first pixel under its filter.
        weights: of each pixel, address of int16 [2 * pairs].
        pairs: half the pixels under each filter, all of which are read, with up to 4 bytes behind the last.
        out: address of uint8 [4 * 3] in the first row, written.
        out_step: bytes from row to row.
    """

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        lines, lines_step, offsets, weights, pairs, out, out_step = args
        starts, tables = cgutils.unpack_tuple(builder, offsets), cgutils.unpack_tuple(builder, weights)
        rows = [builder.add(lines, builder.mul(lines_step, I64(row))) for row in range(GROUP)]
        total_bits = WEIGHT_BITS + LINE_BITS
        # Two pixels, red beside red; the last pair is nothing.
        by_channel = [8 * row + i for row in range(GROUP) for i in (0, 3, 1, 4, 2, 5, 6, 7)]

        def add(k: Any, _is_last: Any, sums: Values) -> Values:
            added = []
            for total, start, table in zip(sums, starts, tables, strict=True):
                at = builder.add(start, builder.mul(k, I64(12)))
                loaded = [load(builder, builder.add(row, at), vector(I16, 8)) for row in rows]
                upper, lower = (pick(builder, loaded[i], loaded[i + 1], range(16)) for i in (0, 2))
                numbers = pick(builder, upper, lower, by_channel)
                products = _products(builder, numbers, builder.add(table, builder.shl(k, I64(2))))
                added.append(builder.add(total, products, flags=["nsw"]))
            return added

        def finish(sums: Values) -> None:
            levels = [builder.lshr(total, splat(total_bits, 4 * GROUP)) for total in sums]
            halves = [_packed(builder, levels[i], levels[i + 1], I16, 4) for i in (0, 2)]
            square = _packed(builder, halves[0], halves[1], I8, 8)
            for row in range(GROUP):
                places = [16 * row + 4 * pixel + channel for pixel in range(GROUP) for channel in range(3)]
                at = builder.add(out, builder.mul(out_step, I64(row)))
                store(builder, pick(builder, square, square, places[:8]), at)
                store(builder, pick(builder, square, square, places[8:]), builder.add(at, I64(8)))

        _sum_over_pairs(builder, pairs, [splat(1 << (total_bits - 1), 4 * GROUP)] * GROUP, add, finish)
        return target.get_dummy_value()

    return nb.void(_ADDRESS, nb.int64, _FOUR, _FOUR, nb.int64, _ADDRESS, nb.int64), generate
