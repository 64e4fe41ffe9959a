"""What DALI calls. It hands over addresses: of the data of each input and output, and of their shapes."""

import numpy as np
from numba import carray, cfunc
from numba import types as nb
from nvidia.dali.plugin.numba import address_as_void_pointer  # type: ignore[attr-defined]

from pipeline.compiling import compiled
from pipeline.graph.kernels.patches import augment_whole, select_augment_gather

_ADDRESS, _COUNT = nb.uint64, nb.int32
_SETUP = nb.void(_ADDRESS, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _COUNT, _COUNT)
_RUN = nb.void(_ADDRESS, _ADDRESS, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _ADDRESS, _COUNT)


@compiled
def _integers(address, num):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), num, dtype=np.int64)


@compiled
def _numbers(address, shape):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), _integers(shape, 1)[0], dtype=np.float32)


@compiled
def _image(address, shape):  # type: ignore[no-untyped-def]
    height, width = _integers(shape, 2)
    return carray(address_as_void_pointer(address), (height, width, 3), dtype=np.uint8)


@compiled
def _patches(address, num, size):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), (num, size, size, 3), dtype=np.uint8)


@cfunc(_SETUP, cache=True, nopython=True)
def whole_setup(out_shapes, out_ndims, num_outs, in_shapes, in_ndims, num_ins, num_samples):  # type: ignore[no-untyped-def]
    """Shape of the output: [S, S, 3], where S is the length of input 0, which holds nothing."""
    outs, ins = _integers(out_shapes, num_outs * num_samples), _integers(in_shapes, num_ins * num_samples)
    for row in range(num_samples):
        shape, side = _integers(outs[row], 3), _integers(ins[row], 1)[0]
        shape[0], shape[1], shape[2] = side, side, 3


@cfunc(_RUN, cache=True, nopython=True)
def whole_run(out_data, out_shapes, out_ndims, num_outs, in_data, in_shapes, in_ndims, num_ins):  # type: ignore[no-untyped-def]
    """(side [S, 0], image, planned) to the whole image after its operations."""
    data, shapes, outs = _integers(in_data, num_ins), _integers(in_shapes, num_ins), _integers(out_data, num_outs)
    side = _integers(shapes[0], 1)[0]
    whole = carray(address_as_void_pointer(outs[0]), (side, side, 3), dtype=np.uint8)
    augment_whole(_image(data[1], shapes[1]), _numbers(data[2], shapes[2]), whole)


@cfunc(_SETUP, cache=True, nopython=True)
def patches_setup(out_shapes, out_ndims, num_outs, in_shapes, in_ndims, num_ins, num_samples):  # type: ignore[no-untyped-def]
    """Shapes of the outputs: patches [K, P*P*3], ids [K], other patches [R, P*P*3]; input 0 is [K, R, P, 0]."""
    outs, ins = _integers(out_shapes, num_outs * num_samples), _integers(in_shapes, num_ins * num_samples)
    for row in range(num_samples):
        num_kept, num_rest, size, _ = _integers(ins[row], 4)
        patches, rest = _integers(outs[row], 2), _integers(outs[2 * num_samples + row], 2)
        patches[0], patches[1] = num_kept, size * size * 3
        _integers(outs[num_samples + row], 1)[0] = num_kept
        rest[0], rest[1] = num_rest, size * size * 3


@cfunc(_RUN, cache=True, nopython=True)
def patches_run(out_data, out_shapes, out_ndims, num_outs, in_data, in_shapes, in_ndims, num_ins):  # type: ignore[no-untyped-def]
    """(sizes [K, R, P, 0], image, partner, whole, its whole, planned) to patches, the ids kept and other patches."""
    data, shapes, outs = _integers(in_data, num_ins), _integers(in_shapes, num_ins), _integers(out_data, num_outs)
    num_kept, num_rest, size, _ = _integers(shapes[0], 4)
    select_augment_gather(
        (_image(data[1], shapes[1]), _image(data[2], shapes[2])),
        (_image(data[3], shapes[3]), _image(data[4], shapes[4])),
        _numbers(data[5], shapes[5]),
        carray(address_as_void_pointer(outs[1]), num_kept, dtype=np.int32),
        _patches(outs[0], num_kept, size),
        _patches(outs[2], num_rest, size),
    )
