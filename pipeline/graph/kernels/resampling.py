"""Compiled kernels: patches gathered from a finished image, and patches resampled straight from a decoded one.

They run in DALI's own threads, one image at a time, without Python. Numbers are added in a fixed order and nothing is
reassociated, so that the bits are the same on any number of threads.

All of it is in one file, because numba's cache of compiled code looks at the file that a function stands in and not at
those that it calls.
"""

import numpy as np
from numba import carray, cfunc, njit
from numba import types as nb
from nvidia.dali.plugin.numba import address_as_void_pointer  # type: ignore[attr-defined]

# What the sampling of an image is planned by, a row of float32.
OWN_REGION = 0  # (top, left, bottom, right) in pixels of the window, then 1 for the mirror image
PARTNER_REGION = 5  # the same of the image that it is mixed with
WEIGHT = 10  # the image's own share under mixup, else 1
BOX = 11  # (top, left, bottom, right) of what cutmix takes from the partner, in pixels of the square image
GRID_SIZE = 15
TEMPERATURE = 16
SCORED = 17  # 1: the patches are chosen here by contrast; 0: they are given
OWN_WINDOW = 18  # (top, left, bottom, right), whole pixels of the given image: what lies outside is as if not there
PARTNER_WINDOW = 22
NUM_SAMPLING = 26

# Samples along one side of a patch that its contrast is estimated from. Every other row is shifted by half a step.
MAX_SAMPLES = 8

# Loops instead of assignments to slices: the latter bring along code for errors that takes longest to compile.
_compiled = njit(cache=True, nogil=True, error_model="numpy")


@_compiled
def axis_weights(start, end, window_start, window_end, size_out):  # type: ignore[no-untyped-def]
    """The triangle filter of a resize along one axis, as wide as a pixel of the larger of the two grids.

    Where the filter reaches beyond the window, it is cut off and what is left of it counts for the whole, as in Pillow.

    Args:
        start, end: of the region that becomes ``size_out`` pixels, in pixels of the window, not whole in general.
        window_start, window_end: the window's first pixel in the input and the one behind its last.

    Returns:
        first int64 [size_out] and count int64 [size_out], the input's pixels under the filter of each of the output's;
        weights float32 [size_out, T], theirs.
    """
    size_in = window_end - window_start
    scale = (end - start) / size_out
    reach = max(scale, 1.0)
    first = np.empty(size_out, np.int64)
    count = np.empty(size_out, np.int64)
    weights = np.zeros((size_out, int(2 * reach) + 3), np.float32)
    for i in range(size_out):
        centre = start + (i + 0.5) * scale
        low = min(max(int(np.floor(centre - reach + 0.5)), 0), size_in - 1)
        high = max(min(int(np.floor(centre + reach + 0.5)), size_in), low + 1)
        total = 0.0
        for k in range(low, high):
            total += max(1.0 - abs(k + 0.5 - centre) / reach, 0.0)
        for k in range(low, high):
            weights[i, k - low] = max(1.0 - abs(k + 0.5 - centre) / reach, 0.0) / total
        first[i], count[i] = window_start + low, high - low
    return first, count, weights


@_compiled
def _window(sampling, place):  # type: ignore[no-untyped-def]
    """(top, left, bottom, right) in whole pixels."""
    return int(sampling[place]), int(sampling[place + 1]), int(sampling[place + 2]), int(sampling[place + 3])


@_compiled
def _down(pixels, first, count, weights, low, high, line):  # type: ignore[no-untyped-def]
    """One row of the output, not yet resized along it: float32 [high - low] of interleaved channels into ``line``."""
    width = high - low
    above, weight = pixels[first, low:high], weights[0]
    if count == 1:
        for i in range(width):
            line[i] = weight * np.float32(above[i])
        return
    below, weight_below = pixels[first + 1, low:high], weights[1]
    for i in range(width):
        line[i] = weight * np.float32(above[i]) + weight_below * np.float32(below[i])
    k = 2
    while k + 1 < count:  # two at a time, which reads and writes the line half as often
        above, weight = pixels[first + k, low:high], weights[k]
        below, weight_below = pixels[first + k + 1, low:high], weights[k + 1]
        for i in range(width):
            line[i] += weight * np.float32(above[i]) + weight_below * np.float32(below[i])
        k += 2
    if k < count:
        above, weight = pixels[first + k, low:high], weights[k]
        for i in range(width):
            line[i] += weight * np.float32(above[i])


@_compiled
def _along(line, begin, first, count, weights, left, size, mirrored, out):  # type: ignore[no-untyped-def]
    """A line resized along itself: ``size`` pixels from column ``left`` on, float32 [size * 3] into ``out``."""
    for c in range(size):
        at, num = 3 * (first[left + c] - begin), count[left + c]
        source, weight = line[at : at + 3 * num], weights[left + c]
        red, green, blue = weight[0] * source[0], weight[0] * source[1], weight[0] * source[2]
        for k in range(1, num):
            red += weight[k] * source[3 * k]
            green += weight[k] * source[3 * k + 1]
            blue += weight[k] * source[3 * k + 2]
        place = 3 * (size - 1 - c) if mirrored else 3 * c
        out[place], out[place + 1], out[place + 2] = red, green, blue


@_compiled
def _resample_patch(pixels, rows, columns, patch, grid, size, mirrored, line, tile):  # type: ignore[no-untyped-def]
    """Patch ``patch`` of the resized (and mirrored) image: float32 [P*P*3] into ``tile``, not rounded."""
    top, left = (patch // grid) * size, (patch % grid) * size
    if mirrored:
        left = grid * size - left - size
    begin = columns[0][left]
    end = columns[0][left + size - 1] + columns[1][left + size - 1]
    for r in range(size):
        _down(pixels, rows[0][top + r], rows[1][top + r], rows[2][top + r], 3 * begin, 3 * end, line)
        out = tile[3 * r * size : 3 * (r + 1) * size]
        _along(line, begin, columns[0], columns[1], columns[2], left, size, mirrored, out)


@_compiled
def _sample_points(start, end, window_start, window_end, grid, size, mirrored, num):  # type: ignore[no-untyped-def]
    """Pixels of the output at which the contrast looks, along one axis, and those of the input below them.

    Returns:
        int64 [G, num] each, evenly spread over every patch.
    """
    places, sources = np.empty((grid, num), np.int64), np.empty((grid, num), np.int64)
    scale = (end - start) / (grid * size)
    for patch in range(grid):
        for j in range(num):
            place = patch * size + (j + 0.5) * size / num
            places[patch, j] = int(place)
            source = int(np.floor(start + (grid * size - place if mirrored else place) * scale))
            sources[patch, j] = window_start + min(max(source, 0), window_end - window_start - 1)
    return places, sources


@_compiled
def _mixed(own, other, weight, from_partner):  # type: ignore[no-untyped-def]
    """A sample of the image (the sum of two values) with that of its partner mixed in."""
    if from_partner:
        return other
    return own + np.int64(np.rint((1 - weight) * (other - own)))


@_compiled
def thumbnail_contrast(image, partner, sampling, size):  # type: ignore[no-untyped-def]
    """Each patch's contrast, from a few samples of the decoded images: float64 [N].

    Standard deviation around the mean colour of up to 8 x 8 samples a patch, over 255. A sample is two neighbours in a
    row, which takes off some of the detail that resampling would. Sums are of whole numbers, so that a patch of one
    colour scores 0 exactly.
    """
    grid, side = int(sampling[GRID_SIZE]), min(size, MAX_SAMPLES)
    region, others = sampling[OWN_REGION:], sampling[PARTNER_REGION:]
    window, partner_window = _window(sampling, OWN_WINDOW), _window(sampling, PARTNER_WINDOW)
    y, own_y = _sample_points(region[0], region[2], window[0], window[2], grid, size, False, side)
    x, own_x = _sample_points(region[1], region[3], window[1], window[3], grid, size, region[4] > 0, 2 * side)
    _, partner_y = _sample_points(others[0], others[2], partner_window[0], partner_window[2], grid, size, False, side)
    _, partner_x = _sample_points(
        others[1], others[3], partner_window[1], partner_window[3], grid, size, others[4] > 0, 2 * side
    )
    weight, box = sampling[WEIGHT], sampling[BOX : BOX + 4]
    pure = weight == 1 and box[2] <= box[0]
    num, last, partner_last = side * side, window[3] - 1, partner_window[3] - 1
    pixels, partner_pixels = image.reshape(image.shape[0], -1), partner.reshape(partner.shape[0], -1)
    scores = np.empty(grid * grid, np.float64)
    for patch in range(grid * grid):
        r, c = patch // grid, patch % grid
        red_sum, green_sum, blue_sum, squares = 0, 0, 0, 0
        for i in range(side):
            row = pixels[own_y[r, i]]
            for j in range(i & 1, 2 * side, 2):
                column = own_x[c, j]
                at, beside = 3 * column, 3 * min(column + 1, last)
                red = np.int64(row[at]) + row[beside]
                green = np.int64(row[at + 1]) + row[beside + 1]
                blue = np.int64(row[at + 2]) + row[beside + 2]
                if not pure:
                    other_row, column = partner_pixels[partner_y[r, i]], partner_x[c, j]
                    at, beside = 3 * column, 3 * min(column + 1, partner_last)
                    cut = box[0] <= y[r, i] < box[2] and box[1] <= x[c, j] < box[3]
                    red = _mixed(red, np.int64(other_row[at]) + other_row[beside], weight, cut)
                    green = _mixed(green, np.int64(other_row[at + 1]) + other_row[beside + 1], weight, cut)
                    blue = _mixed(blue, np.int64(other_row[at + 2]) + other_row[beside + 2], weight, cut)
                red_sum += red
                green_sum += green
                blue_sum += blue
                squares += red * red + green * green + blue * blue
        spread = num * squares - (red_sum * red_sum + green_sum * green_sum + blue_sum * blue_sum)
        scores[patch] = np.sqrt(spread / 3) / (num * 510)
    return scores


@_compiled
def patch_contrast(image, size):  # type: ignore[no-untyped-def]
    """``selection.patch_contrast`` of one image: uint8 [S, S, 3] to float64 [N] that hold float32 numbers."""
    grid, num, pixels = image.shape[0] // size, size * size, image.reshape(image.shape[0], -1)
    scores = np.empty(grid * grid, np.float64)
    # Twice as many numbers at a time as with 64 bits, and wide enough for patches of 33,000 rows.
    total, squares = np.empty(3 * size, np.int32), np.empty(3 * size, np.int32)
    for patch in range(grid * grid):
        top, left = (patch // grid) * size, (patch % grid) * size
        for i in range(3 * size):
            total[i] = squares[i] = 0
        for r in range(size):
            row = pixels[top + r, 3 * left : 3 * (left + size)]
            for i in range(3 * size):
                value = np.int32(row[i])
                total[i] += value
                squares[i] += value * value
        spread = 0
        for channel in range(3):
            sum_all = 0
            for c in range(size):
                sum_all += np.int64(total[3 * c + channel])
                spread += num * np.int64(squares[3 * c + channel])
            spread -= sum_all * sum_all
        scores[patch] = np.float32(np.sqrt(spread / 3) / (num * 255))
    return scores


@_compiled
def keep_best(scores, noise, temperature, ids):  # type: ignore[no-untyped-def]
    """``selection.top_k`` of ``selection.perturbed`` scores of one image: int32 [K] into ``ids``."""
    num, num_kept = len(scores), len(ids)
    if temperature > 0:
        for i in range(num):
            scores[i] = scores[i] / temperature - np.log(-np.log(noise[i] + 2.0**-25))
    worst = np.sort(scores)[num - num_kept]  # of those that are kept
    better = 0
    for i in range(num):
        better += scores[i] > worst
    ties, place = num_kept - better, 0
    for i in range(num):
        if scores[i] == worst and ties > 0:
            ties -= 1
        elif scores[i] <= worst:
            continue
        ids[place] = i
        place += 1


@_compiled
def select_then_resample(ids, image, partner, sampling, noise, kept, patches):  # type: ignore[no-untyped-def]
    """Choose patches of an image that is not resized yet, and resample just those.

    Args:
        ids: int32 [K], what is kept if that is planned; else only its length counts.
        image, partner: uint8 [H, W, 3], decoded, the image and the one that it is mixed with.
        sampling: float32 [26], see above.
        noise: float32 [N] in [0, 1) under a temperature, else of any length.
        kept: int32 [K], written.
        patches: uint8 [K, P, P, 3], written.
    """
    grid, size = int(sampling[GRID_SIZE]), patches.shape[1]
    if sampling[SCORED] > 0 and len(ids) < grid * grid:
        keep_best(thumbnail_contrast(image, partner, sampling, size), noise, sampling[TEMPERATURE], kept)
    else:
        for place in range(len(ids)):
            kept[place] = place if len(ids) == grid * grid else ids[place]
    weight, box = sampling[WEIGHT], sampling[BOX : BOX + 4]
    own, other = np.empty(size * size * 3, np.float32), np.empty(size * size * 3, np.float32)
    line = np.empty(3 * max(image.shape[1], partner.shape[1]), np.float32)
    side = grid * size
    region, others = sampling[OWN_REGION:], sampling[PARTNER_REGION:]
    top, left, bottom, right = _window(sampling, OWN_WINDOW)
    rows = axis_weights(region[0], region[2], top, bottom, side)
    columns = axis_weights(region[1], region[3], left, right, side)
    mixes = weight < 1 or box[2] > box[0]
    top, left, bottom, right = _window(sampling, PARTNER_WINDOW)
    partner_rows = axis_weights(others[0], others[2], top, bottom, side) if mixes else rows
    partner_columns = axis_weights(others[1], others[3], left, right, side) if mixes else columns
    pixels = image.reshape(image.shape[0], -1)
    partner_pixels = partner.reshape(partner.shape[0], -1)
    half = np.float32(0.5)
    for place in range(len(kept)):
        patch, out = kept[place], patches[place].reshape(-1)
        top, left = (patch // grid) * size, (patch % grid) * size
        # What cutmix takes from the partner, as rows and columns of this patch.
        low_y, high_y = max(int(box[0]) - top, 0), min(int(box[2]) - top, size)
        low_x, high_x = max(int(box[1]) - left, 0), min(int(box[3]) - left, size)
        cut = (high_y - low_y) * (high_x - low_x) if high_y > low_y and high_x > low_x else 0
        if cut < size * size:
            _resample_patch(pixels, rows, columns, patch, grid, size, region[4] > 0, line, own)
        if cut > 0 or weight < 1:
            _resample_patch(
                partner_pixels, partner_rows, partner_columns, patch, grid, size, others[4] > 0, line, other
            )
        if weight < 1:
            share = np.float32(1) - weight
            for i in range(len(own)):
                own[i] += share * (other[i] - own[i])
        elif cut > 0:
            for r in range(low_y, high_y):
                for i in range(3 * (r * size + low_x), 3 * (r * size + high_x)):
                    own[i] = other[i]
        for i in range(len(own)):
            out[i] = np.uint8(np.int32(own[i] + half))


@_compiled
def gather(ids, image, patches):  # type: ignore[no-untyped-def]
    """``selection.gather_patches`` of one image: int32 [K] and uint8 [S, S, 3] to uint8 [K, P, P, 3] in ``patches``."""
    size, pixels = patches.shape[1], image.reshape(image.shape[0], -1)
    grid, width = image.shape[0] // size, 3 * size
    for place in range(len(ids)):
        top, left = (ids[place] // grid) * size, (ids[place] % grid) * width
        out = patches[place].reshape(-1)
        for r in range(size):
            row, out_row = pixels[top + r, left : left + width], out[r * width : (r + 1) * width]
            for i in range(width):
                out_row[i] = row[i]


# What DALI calls. It hands over addresses: of the data of each input and output, and of their shapes.

_ADDRESS, _COUNT = nb.uint64, nb.int32
_SETUP = nb.void(_ADDRESS, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _COUNT, _COUNT)
_RUN = nb.void(_ADDRESS, _ADDRESS, _ADDRESS, _COUNT, _ADDRESS, _ADDRESS, _ADDRESS, _COUNT)


@_compiled
def _integers(address, num):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), num, dtype=np.int64)


@_compiled
def _list_of(address, num_kept):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), num_kept, dtype=np.int32)


@_compiled
def _numbers(address, shape):  # type: ignore[no-untyped-def]
    return carray(address_as_void_pointer(address), _integers(shape, 1)[0], dtype=np.float32)


@_compiled
def _image(address, shape):  # type: ignore[no-untyped-def]
    height, width = _integers(shape, 2)
    return carray(address_as_void_pointer(address), (height, width, 3), dtype=np.uint8)


@_compiled
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
