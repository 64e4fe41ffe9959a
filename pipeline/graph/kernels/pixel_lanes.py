"""Operations on the colours of 16 pixels at once, said as vectors.

Fractions are float32, computed in one order and rounded after each step, so the result is the same everywhere, bit for
bit: that of ``pixels.blended``, one number after another.
"""

from collections.abc import Sequence
from typing import Any

from numba import types as nb
from numba.extending import intrinsic

from pipeline.graph.kernels.vectors import F32, I8, I16, I32, I64, Values, load, pick, splat, spread, store, vector

PIXELS = 16  # of which every function here changes or looks at so many
SMOOTHED = 32  # numbers that ``smooth_lanes`` writes at once
LOOKED_UP = 24  # numbers that ``look_up_lanes`` replaces at once
# Bytes behind the last pixel of a buffer that are read and written along with it, so that no row needs a shorter step.
SPARE = 64
OVER_13 = 5042  # 65536 / 13, rounded up: exact for the quotients of whole numbers up to 6552

_CHANNELS = 3
_WEIGHTS = (19595, 38470, 7471)  # of Pillow's mode L, in units of 1 / 2**16


def _to_float(builder: Any, whole: Any) -> Any:
    return builder.sitofp(whole, vector(F32, whole.type.count))


def _clipped(builder: Any, value: Any) -> Any:
    """float32 cut to 0 to 255 and truncated: int32."""
    length = value.type.count
    for limit, order in ((0.0, ">"), (255.0, "<")):
        bound = splat(limit, length, F32)
        value = builder.select(builder.fcmp_ordered(order, value, bound), value, bound)
    return builder.fptosi(value, vector(I32, length))


def _blended(builder: Any, degenerate: Any, value: Any, factor: Any) -> Any:
    """``pixels.blended`` of int32: uint8."""
    change = builder.fmul(factor, _to_float(builder, builder.sub(value, degenerate)))
    result = _clipped(builder, builder.fadd(_to_float(builder, degenerate), change))
    return builder.trunc(result, vector(I8, value.type.count))


def _widened(builder: Any, numbers: Any, kind: Any = I32) -> Any:
    return builder.zext(numbers, vector(kind, numbers.type.count))


def _scalar(builder: Any, address: Any, kind: Any) -> Any:
    return builder.extract_element(load(builder, address, vector(kind, 1)), I32(0))


def _thirds(builder: Any, pixels: Any) -> Values:
    """The 48 bytes of 16 pixels as they lie in memory."""
    return [load(builder, builder.add(pixels, I64(PIXELS * i)), vector(I8, PIXELS)) for i in range(_CHANNELS)]


def _channel(builder: Any, thirds: Values, channel: int) -> Any:
    """One channel of 16 pixels."""
    at = range(channel, _CHANNELS * PIXELS, _CHANNELS)
    early = [place if place < 2 * PIXELS else 0 for place in at]
    late = [i if place < 2 * PIXELS else place - PIXELS for i, place in enumerate(at)]
    return pick(builder, pick(builder, thirds[0], thirds[1], early), thirds[2], late)


def _interleaved(builder: Any, channels: Sequence[Any], third: int) -> Any:
    """16 bytes of pixels, of which each channel is given."""
    at = range(PIXELS * third, PIXELS * (third + 1))
    early = [place // _CHANNELS + PIXELS * (place % _CHANNELS == 1) for place in at]
    late = [i if place % _CHANNELS < 2 else PIXELS + place // _CHANNELS for i, place in enumerate(at)]
    return pick(builder, pick(builder, channels[0], channels[1], early), channels[2], late)


def _grey(builder: Any, thirds: Values) -> Any:
    """Pillow's mode L of 16 pixels: int32."""
    total = splat(0x8000, PIXELS)
    for channel, weight in enumerate(_WEIGHTS):
        wide = _widened(builder, _channel(builder, thirds, channel))
        total = builder.add(total, builder.mul(wide, splat(weight, PIXELS)))
    return builder.lshr(total, splat(16, PIXELS))


@intrinsic
def blend_with_grey_lanes(_context, pixels, factor):  # type: ignore[no-untyped-def]
    """Away from or towards the pixels in grey, in place.

    Args:
        pixels: address of uint8 [16 * 3].
        factor: float32.
    """

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        pixels, factor = args
        thirds, factors = _thirds(builder, pixels), spread(builder, factor, PIXELS)
        grey = builder.trunc(_grey(builder, thirds), vector(I8, PIXELS))
        for third, values in enumerate(thirds):
            beside = _widened(builder, _interleaved(builder, [grey] * _CHANNELS, third))
            result = _blended(builder, beside, _widened(builder, values), factors)
            store(builder, result, builder.add(pixels, I64(PIXELS * third)))
        return target.get_dummy_value()

    return nb.void(nb.int64, nb.float32), generate


@intrinsic
def sum_of_grey_lanes(_context, pixels):  # type: ignore[no-untyped-def]
    """The sum of 16 pixels in grey: int64. ``pixels``: address of uint8 [16 * 3]."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        total = _grey(builder, _thirds(builder, args[0]))
        while total.type.count > 1:
            half = total.type.count // 2
            lower, upper = (pick(builder, total, total, range(start, start + half)) for start in (0, half))
            total = builder.add(lower, upper)
        return builder.zext(builder.extract_element(total, I32(0)), I64)

    return nb.int64(nb.int64), generate


@intrinsic
def multiply_lanes(_context, pixels, matrix):  # type: ignore[no-untyped-def]
    """A colour matrix, in place.

    Args:
        pixels: address of uint8 [16 * 3].
        matrix: address of float32 [12], three rows of three factors and what is added.
    """

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        pixels, matrix = args
        thirds = _thirds(builder, pixels)
        old = [_to_float(builder, _widened(builder, _channel(builder, thirds, channel))) for channel in range(3)]
        new = []
        for row in range(_CHANNELS):
            at = [builder.add(matrix, I64(4 * (4 * row + i))) for i in range(4)]
            *factors, added = (spread(builder, _scalar(builder, address, F32), PIXELS) for address in at)
            total = builder.fmul(factors[0], old[0])
            for factor, value in zip(factors[1:], old[1:], strict=True):
                total = builder.fadd(total, builder.fmul(factor, value))
            rounded = builder.fadd(builder.fadd(total, added), splat(0.5, PIXELS, F32))
            new.append(builder.trunc(_clipped(builder, rounded), vector(I8, PIXELS)))
        for third in range(_CHANNELS):
            store(builder, _interleaved(builder, new, third), builder.add(pixels, I64(PIXELS * third)))
        return target.get_dummy_value()

    return nb.void(nb.int64, nb.int64), generate


@intrinsic
def smooth_lanes(_context, source, step, out, factor):  # type: ignore[no-untyped-def]
    """32 numbers of pixels that have neighbours on all sides, blended with Pillow's SMOOTH filter of them.

    Args:
        source: address of the first, uint8, interleaved channels.
        step: bytes from row to row.
        out: address of uint8 [32], written.
        factor: float32.
    """

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        source, step, out, factor = args
        above = builder.sub(source, step)
        rows = [above, source, builder.add(source, step)]
        kind, wide = vector(I8, SMOOTHED), vector(I16, SMOOTHED)
        # The pixel itself counts 5 times, the eight around it once: at most 13 * 255.
        middle = load(builder, source, kind)
        total = builder.mul(builder.zext(middle, wide), splat(4, SMOOTHED, I16))
        for row in rows:
            for beside in (-_CHANNELS, 0, _CHANNELS):
                numbers = load(builder, builder.add(row, I64(beside)), kind)
                total = builder.add(total, builder.zext(numbers, wide))
        # (2 * total + 13) // 26 is (total + 6) // 13, and that is a product with ``OVER_13`` / 65536.
        shifted = builder.add(total, splat(6, SMOOTHED, I16))
        product = builder.mul(_widened(builder, shifted), splat(OVER_13, SMOOTHED))
        smoothed = builder.lshr(product, splat(16, SMOOTHED))
        factors = spread(builder, factor, SMOOTHED)
        store(builder, _blended(builder, smoothed, _widened(builder, middle), factors), out)
        return target.get_dummy_value()

    return nb.void(nb.int64, nb.int64, nb.int64, nb.float32), generate


@intrinsic
def look_up_lanes(_context, pixels, tables, step):  # type: ignore[no-untyped-def]
    """8 pixels by the tables of their channels, in place.

    Args:
        pixels: address of uint8 [8 * 3].
        tables: address of uint8 [2 * step + 256]; step: bytes from a channel's table to the next one's.
    """

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        pixels, tables, step = args
        of_channel = [builder.add(tables, builder.mul(step, I64(channel))) for channel in range(_CHANNELS)]
        for start in range(0, LOOKED_UP, 8):
            # Eight at a time are written: stores of single bytes are what would take longest.
            word = I64(0)
            for i in range(8):
                old = builder.zext(_scalar(builder, builder.add(pixels, I64(start + i)), I8), I64)
                new = _scalar(builder, builder.add(of_channel[(start + i) % _CHANNELS], old), I8)
                word = builder.or_(word, builder.shl(builder.zext(new, I64), I64(8 * i)))
            store(builder, builder.bitcast(word, vector(I8, 8)), builder.add(pixels, I64(start)))
        return target.get_dummy_value()

    return nb.void(*[nb.int64] * 3), generate


@intrinsic
def bounds_lanes(_context, pixels, lows, highs):  # type: ignore[no-untyped-def]
    """Least and greatest values so far, of 16 pixels and what was there: addresses of uint8 [16 * 3] each."""

    def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
        pixels, *bounds = args
        for third, values in enumerate(_thirds(builder, pixels)):
            for bound, order in zip(bounds, "<>", strict=True):
                at = builder.add(bound, I64(PIXELS * third))
                old = load(builder, at, vector(I8, PIXELS))
                store(builder, builder.select(builder.icmp_unsigned(order, values, old), values, old), at)
        return target.get_dummy_value()

    return nb.void(*[nb.int64] * 3), generate
