"""Markers in data, looked for many bytes at a time."""

from typing import Any

from llvmlite import ir
from numba import types as nb
from numba.extending import intrinsic

from pipeline.compiling import compiled

LANES = 32
_BYTES = ir.VectorType(ir.IntType(8), LANES)


@intrinsic
def markers_at(_context, address):  # type: ignore[no-untyped-def]
    """How many of 32 bytes are FF and stand before something else than 00. Reads 33 bytes."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        def loaded(place: Any) -> Any:
            return builder.load(builder.inttoptr(place, _BYTES.as_pointer()), align=1)

        def splat(value: int) -> ir.Constant:
            return ir.Constant(_BYTES, [value] * LANES)

        here, behind = loaded(args[0]), loaded(builder.add(args[0], args[0].type(1)))
        found = builder.and_(
            builder.icmp_unsigned("==", here, splat(0xFF)), builder.icmp_unsigned("!=", behind, splat(0))
        )
        bits = builder.bitcast(found, ir.IntType(LANES))
        return builder.zext(builder.ctpop(bits), ir.IntType(64))

    return nb.int64(nb.int64), generate


@compiled
def num_markers(data, begin, end):  # type: ignore[no-untyped-def]
    """How often FF stands before something else than 00 in a part of ``data``, uint8."""
    count, at, address = 0, begin, data.ctypes.data
    while at + LANES < end:
        count += markers_at(address + at)
        at += LANES
    for i in range(at, end - 1):
        count += 1 if data[i] == 0xFF and data[i + 1] != 0 else 0
    return count
