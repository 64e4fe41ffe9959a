"""What LLVM is told of vectors: loads, stores, and numbers picked out of them.

LLVM turns vectors into what the machine has, however wide, and none of this depends on how wide that is.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
Values = list[Any]  # of LLVM


def vector(kind: ir.Type, length: int) -> ir.VectorType:
    return ir.VectorType(kind, length)


def splat(value: float, length: int, kind: ir.Type = I32) -> ir.Constant:
    return ir.Constant(vector(kind, length), [value] * length)


def spread(builder: Any, value: Any, length: int) -> Any:
    """A number in every place."""
    kind = vector(value.type, length)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return pick(builder, first, first, [0] * length)


def load(builder: Any, address: Any, kind: ir.VectorType) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def pick(builder: Any, first: Any, second: Any, places: Sequence[int]) -> Any:
    """The numbers at these places of the two vectors, one behind the other."""
    return builder.shuffle_vector(first, second, ir.Constant(vector(I32, len(places)), list(places)))
