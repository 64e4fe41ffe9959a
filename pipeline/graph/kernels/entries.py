"""What DALI calls. It hands over addresses: of the data of each input and output, and of their shapes."""

import numpy as np
from numba import carray, cfunc
from numba import types as nb
from nvidia.dali.plugin.numba import address_as_void_pointer  # type: ignore[attr-defined]

from pipeline.compiling import compiled
from pipeline.graph.kernels.gathering import gather
from pipeline.graph.kernels.resampling import select_then_resample
from pipeline.selection.kernels.contrast import patch_contrast
from pipeline.selection.kernels.ranking import keep_best

_ADDRESS, _COUNT = nb.uint64, nb.int32
_SETUP = nb.void(_ADDRESS, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _COUNT, _COUNT)
_RUN = nb.void(_ADDRESS, _ADDRESS, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _ADDRESS, _COUNT)


@compiled
def _integers(address, num):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), num, dtype=np.int64)


@compiled
def _list_of(address, num_kept):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), num_kept, dtype=np.int32)


@compiled
def _numbers(address, shape):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), _integers(shape, 1)[0], dtype=np.float32)


@compiled
def _image(address, shape):  # type: ignore[no-untyped-def]
    height, width = _integers(shape, 2)
    return carray(address_as_void_pointer(address), (height, width, 3), dtype=np.uint8)


@compiled
def _patches(address, num_kept, size):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), (num_kept, size, size, 3), dtype=np.uint8)


@cfunc(_SETUP, cache=True, nopython=True)
def ids_setup(out_shapes, out_ndims, num_outs, in_shapes, in_ndims, num_ins, num_samples):  # type: ignore[no-untyped-def]
    """Shape of the output: ids [K], as long as input 0."""
    outs, ins = _integers(out_shapes, num_outs * num_samples), _integers(in_shapes, num_ins * num_samples)
    for row in range(num_samples):
        _integers(outs[row], 1)[0] = _integers(ins[row], 1)[0]


@cfunc(_SETUP, cache=True, nopython=True)
def patches_setup(out_shapes, out_ndims, num_outs, in_shapes, in_ndims, num_ins, num_samples):  # type: ignore[no-untyped-def]
    """Shapes of the outputs: patches [K, P*P*3], as many as input 0 is long, each as large as input 1; then ids [K]."""
    outs, ins = _integers(out_shapes, num_outs * num_samples), _integers(in_shapes, num_ins * num_samples)
    for row in range(num_samples):
        num_kept = _integers(ins[row], 1)[0]
        height, width, channels = _integers(ins[num_samples + row], 3)
        shape = _integers(outs[row], 2)
        shape[0], shape[1] = num_kept, height * width * channels
        if num_outs > 1:
            _integers(outs[num_samples + row], 1)[0] = num_kept


@cfunc(_RUN, cache=True, nopython=True)
def contrast_run(out_data, out_shapes, out_ndims, num_outs, in_data, in_shapes, in_ndims, num_ins):  # type: ignore[no-untyped-def]
    """(ids [K] of any value, blank [P, P, 3], image [S, S, 3], noise [C], temperature [1]) to the ids kept."""
    data, shapes = _integers(in_data, num_ins), _integers(in_shapes, num_ins)
    num_kept = _integers(shapes[0], 1)[0]
    kept = _list_of(_integers(out_data, num_outs)[0], num_kept)
    image, noise, temperature = _image(data[2], shapes[2]), _numbers(data[3], shapes[3]), _numbers(data[4], shapes[4])
    size = _integers(shapes[1], 3)[0]
    if num_kept == (image.shape[0] // size) ** 2:
        for place in range(num_kept):
            kept[place] = place
    else:
        keep_best(patch_contrast(image, size), noise, temperature[0], kept)


@cfunc(_RUN, cache=True, nopython=True)
def gather_run(out_data, out_shapes, out_ndims, num_outs, in_data, in_shapes, in_ndims, num_ins):  # type: ignore[no-untyped-def]
    """(ids [K], blank [P, P, 3], image [S, S, 3]) to patches."""
    data, shapes = _integers(in_data, num_ins), _integers(in_shapes, num_ins)
    num_kept, size = _integers(shapes[0], 1)[0], _integers(shapes[1], 3)[0]
    patches = _patches(_integers(out_data, num_outs)[0], num_kept, size)
    gather(_list_of(data[0], num_kept), _image(data[2], shapes[2]), patches)


@cfunc(_RUN, cache=True, nopython=True)
def resample_run(out_data, out_shapes, out_ndims, num_outs, in_data, in_shapes, in_ndims, num_ins):  # type: ignore[no-untyped-def]
    """(ids [K], blank [P, P, 3], image, partner, sampling, noise) to patches and the ids kept."""
    data, shapes, outs = _integers(in_data, num_ins), _integers(in_shapes, num_ins), _integers(out_data, num_outs)
    num_kept, size = _integers(shapes[0], 1)[0], _integers(shapes[1], 3)[0]
    select_then_resample(
        _list_of(data[0], num_kept),
        _image(data[2], shapes[2]),
        _image(data[3], shapes[3]),
        _numbers(data[4], shapes[4]),
        _numbers(data[5], shapes[5]),
        _list_of(outs[1], num_kept),
        _patches(outs[0], num_kept, size),
    )
