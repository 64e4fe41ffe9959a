"""The words of ``keyed.words``, computed one block at a time: Philox-4x64 with ten rounds (Salmon et al., SC 2011)."""

import numpy as np

from pipeline.compiling import compiled

_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@compiled
def _high(a, b):  # type: ignore[no-untyped-def]
    """The upper 64 bits of a product of 64-bit words."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    crossed = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _HALF) + (crossed >> _HALF)


@compiled
def philox_block(key, stream, block, out):  # type: ignore[no-untyped-def]
    """Words ``4 * block`` to ``4 * block + 3`` of ``keyed.words(key, stream, 0, ...)``: uint64 [4] into ``out``."""
    # NumPy adds one to the counter before it draws.
    c0, c1, c2, c3 = np.uint64(block) + np.uint64(1), np.uint64(0), np.uint64(0), np.uint64(0)
    k0, k1 = np.uint64(key), np.uint64(stream)
    for _ in range(10):
        high0, low0 = _high(_M0, c0), _M0 * c0
        high1, low1 = _high(_M1, c2), _M1 * c2
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += _W0
        k1 += _W1
    out[0], out[1], out[2], out[3] = c0, c1, c2, c3
