"""Copies of rows of pixels, of which most are short: a loop over bytes would take as long as what made them."""

from typing import Any

from numba import types as nb
from numba.extending import intrinsic

from pipeline.compiling import compiled
from pipeline.graph.kernels.vectors import I8, Values, load, store, vector

_LENGTH = 16


def _copy_of(length: int) -> Any:
    """What copies this many bytes from one address to another."""

    @intrinsic
    def copy(_context, source, out):  # type: ignore[no-untyped-def]
        def generate(target: Any, builder: Any, _signature: Any, args: Values) -> Any:
            store(builder, load(builder, args[0], vector(I8, length)), args[1])
            return target.get_dummy_value()

        return nb.void(nb.int64, nb.int64), generate

    return copy


_copy_many, _copy_one = _copy_of(_LENGTH), _copy_of(1)


@compiled
def copy_bytes(source, out, num):  # type: ignore[no-untyped-def]
    """From one address to another; the two do not overlap."""
    if num < _LENGTH:
        for i in range(num):
            _copy_one(source + i, out + i)
        return
    for i in range(0, num - _LENGTH, _LENGTH):
        _copy_many(source + i, out + i)
    _copy_many(source + num - _LENGTH, out + num - _LENGTH)
