"""Kept patches of an image after all that is planned for it, and of nothing else of it."""

import numpy as np

from pipeline.compiling import compiled
from pipeline.graph.kernels.boxes import box_scratch, resample_box
from pipeline.graph.kernels.chain import boxes_of, run_levels
from pipeline.graph.kernels.copying import copy_bytes
from pipeline.graph.kernels.erasing import erase
from pipeline.graph.kernels.pixel_lanes import SPARE
from pipeline.graph.kernels.resampling import filters_of, resample_patches
from pipeline.graph.kernels.sampling import (
    BOX,
    ERASE_BOX,
    GRID_SIZE,
    OWN_REGION,
    PARTNER_REGION,
    SCORED,
    SQUARE,
    TEMPERATURE,
    WEIGHT,
    color_of,
    ids_at,
    levels_at,
    noise_at,
    tables_at,
)
from pipeline.graph.kernels.sketch import planned_contrast
from pipeline.selection.kernels.contrast import patch_contrast
from pipeline.selection.kernels.ranking import keep_best

# The share of the patches from which on an image with operations is made whole and cut up: boxes overlap.
WHOLE_FROM = 0.4


@compiled
def _cut(whole, side, top, left, height, width, out):  # type: ignore[no-untyped-def]
    """A box of an image uint8 [S * S * 3], copied to uint8 [h * w * 3]."""
    source, place = whole.ctypes.data + 3 * (top * side + left), out.ctypes.data
    for y in range(height):
        copy_bytes(source + 3 * y * side, place + 3 * y * width, 3 * width)


@compiled
def _cut_patches(whole, side, ids, wanted, patches):  # type: ignore[no-untyped-def]
    size = patches.shape[1]
    grid = side // size
    for place in range(len(ids)):
        if wanted[place]:
            top, left = (ids[place] // grid) * size, (ids[place] % grid) * size
            _cut(whole, side, top, left, size, size, patches[place].reshape(-1))


@compiled
def _pull_boxes(image, planned, partner, side, ids, wanted, patches):  # type: ignore[no-untyped-def]
    """The wanted ones of some patches of the image, or of its partner, after its operations.

    Args:
        ids: int32 [K]. wanted: bool [K]. patches: uint8 [K, P, P, 3], written. One patch may be the whole image.
    """
    levels, tables, fill = levels_at(planned, partner), tables_at(planned, partner), color_of(planned)
    square, size = planned[SQUARE] > 0, patches.shape[1]
    mirrored = planned[(PARTNER_REGION if partner else OWN_REGION) + 4] > 0
    rows, columns = filters_of(planned, partner, 1 if square else side)
    grid, num = side // size, len(levels)
    first, second = np.empty(3 * side * side + SPARE, np.uint8), np.empty(3 * side * side + SPARE, np.uint8)
    fixed, boxes = np.empty((num, 6), np.int64), np.empty((num + 1, 4), np.int64)
    box, scratch = boxes[0], box_scratch(image, columns)
    for place in range(len(ids)):
        if not wanted[place]:
            continue
        boxes_of(levels, fixed, side, (ids[place] // grid) * size, (ids[place] % grid) * size, size, boxes)
        top, left, height, width = box[0], box[1], box[2], box[3]
        if height > 0 and width > 0:
            if square:
                _cut(image.reshape(-1), side, top, left, height, width, first)
            else:
                out = first[: 3 * height * width].reshape(1, height, width, 3)
                at = side - left - width if mirrored else left
                resample_box(image, rows, columns, top, at, mirrored, out, scratch)
        done = second if run_levels(levels, tables, fixed, boxes, side, fill, first, second) else first
        copy_bytes(done.ctypes.data, patches[place].ctypes.data, 3 * size * size)


@compiled
def _make(image, planned, partner, side, ids, wanted, patches):  # type: ignore[no-untyped-def]
    """As ``_pull_boxes``, the shortest way."""
    num = len(levels_at(planned, partner))
    if num > 0:
        _pull_boxes(image, planned, partner, side, ids, wanted, patches)
    elif planned[SQUARE] > 0:
        _cut_patches(image.reshape(-1), side, ids, wanted, patches)
    else:
        rows, columns = filters_of(planned, partner, side)
        mirrored = planned[(PARTNER_REGION if partner else OWN_REGION) + 4] > 0
        resample_patches(image, rows, columns, ids, wanted, mirrored, patches)


@compiled
def _make_whole(image, planned, partner, whole):  # type: ignore[no-untyped-def]
    """The whole image, or its partner, after its operations: uint8 [S, S, 3], written."""
    side = whole.shape[0]
    everything, wanted = np.zeros(1, np.int32), np.ones(1, np.bool_)
    _make(image, planned, partner, side, everything, wanted, whole.reshape(1, side, side, 3))


@compiled
def augment_whole(image, planned, whole):  # type: ignore[no-untyped-def]
    """The image after its operations, before it is mixed: uint8 [S, S, 3] written; nothing if ``whole`` is smaller."""
    if whole.shape[0] > 1:
        _make_whole(image, planned, False, whole)


@compiled
def _mix(own, other, planned, top, left, size):  # type: ignore[no-untyped-def]
    """A patch mixed with the partner's, in place: mixup's blend, or cutmix's box."""
    low_y, high_y = max(int(planned[BOX]) - top, 0), min(int(planned[BOX + 2]) - top, size)
    low_x, high_x = max(int(planned[BOX + 1]) - left, 0), min(int(planned[BOX + 3]) - left, size)
    if low_x < high_x:
        for y in range(low_y, high_y):
            at = 3 * (y * size + low_x)
            copy_bytes(other.ctypes.data + at, own.ctypes.data + at, 3 * (high_x - low_x))
    if planned[WEIGHT] < 1:
        share = np.float32(1) - planned[WEIGHT]
        for i in range(len(own)):
            value = np.int32(own[i])
            own[i] = np.uint8(value + np.int32(np.rint(np.float32(np.int32(other[i]) - value) * share)))


@compiled
def takes(planned, top, left, size):  # type: ignore[no-untyped-def]
    """Whether a patch needs the image itself, and whether it needs the partner."""
    if planned[WEIGHT] < 1:
        return True, True
    height = min(int(planned[BOX + 2]) - top, size) - max(int(planned[BOX]) - top, 0)
    width = min(int(planned[BOX + 3]) - left, size) - max(int(planned[BOX + 1]) - left, 0)
    from_partner = height > 0 and width > 0
    return not (from_partner and height * width == size * size), from_partner


@compiled
def _finish(images, wholes, planned, side, ids, patches):  # type: ignore[no-untyped-def]
    """Some patches after operations, mixing and erasing.

    Args:
        images: decoded, the image and the one that it is mixed with. wholes: as for ``select_augment_gather``.
        ids: int32 [K], ascending. patches: uint8 [K, P, P, 3], written.
    """
    size = patches.shape[1]
    grid, num = side // size, len(ids)
    own, from_partner = np.ones(num, np.bool_), np.zeros(num, np.bool_)
    if planned[WEIGHT] < 1 or planned[BOX + 2] > planned[BOX]:
        for place in range(num):
            top, left = (ids[place] // grid) * size, (ids[place] % grid) * size
            own[place], from_partner[place] = takes(planned, top, left, size)
    has_levels = len(levels_at(planned, False)) > 0
    for partner in (False, True):
        image, whole = (images[1], wholes[1]) if partner else (images[0], wholes[0])
        wanted = from_partner if partner else own
        if not wanted.any():
            continue
        target = np.empty_like(patches) if partner else patches
        if side > 1 and whole.shape[0] == side:  # else it is a pixel that stands for none
            _cut_patches(whole.reshape(-1), side, ids, wanted, target)
        elif has_levels and wanted.sum() >= WHOLE_FROM * grid * grid:
            made = np.empty((side, side, 3), np.uint8)
            _make_whole(image, planned, partner, made)
            _cut_patches(made.reshape(-1), side, ids, wanted, target)
        else:
            _make(image, planned, partner, side, ids, wanted, target)
        if partner:
            for place in range(num):
                if wanted[place]:
                    top, left = (ids[place] // grid) * size, (ids[place] % grid) * size
                    _mix(patches[place].reshape(-1), target[place].reshape(-1), planned, top, left, size)
    if planned[ERASE_BOX + 2] > planned[ERASE_BOX]:
        for place in range(num):
            top, left = (ids[place] // grid) * size, (ids[place] % grid) * size
            erase(planned, top, left, size, size, patches[place].reshape(-1))


@compiled
def _choose(images, wholes, planned, size, kept):  # type: ignore[no-untyped-def]
    """The kept patches, int32 [K] written, planned or by their contrast."""
    grid, num_kept = int(planned[GRID_SIZE]), len(kept)
    side = grid * size
    if num_kept == grid * grid or planned[SCORED] == 0:
        ids = ids_at(planned)
        for place in range(num_kept):
            kept[place] = place if num_kept == grid * grid else int(ids[place])
        return
    # Images that are square are scored as the model will see them, pixel by pixel; decoded ones by a few samples.
    if planned[SQUARE] == 0:
        scores = planned_contrast(images[0], images[1], planned, size)
    else:
        whole = np.empty((1, side, side, 3), np.uint8)
        _finish(images, wholes, planned, side, np.zeros(1, np.int32), whole)
        scores = patch_contrast(whole[0], size)
    keep_best(scores, noise_at(planned), planned[TEMPERATURE], kept)


@compiled
def select_augment_gather(images, wholes, planned, kept, patches, rest):  # type: ignore[no-untyped-def]
    """Choose patches of a decoded image, and make just those.

    Args:
        images: uint8 [H, W, 3] each, decoded, the image and the one that it is mixed with.
        wholes: of ``augment_whole`` where the images were made whole, else a single pixel.
        planned: float32, see ``sampling``.
        kept: int32 [K], written.
        patches: uint8 [K, P, P, 3], written.
        rest: uint8 [N - K, P, P, 3], written: the others, in order; of no length where they are not wanted.
    """
    size, num_patches = patches.shape[1], int(planned[GRID_SIZE]) ** 2
    side = int(planned[GRID_SIZE]) * size
    _choose(images, wholes, planned, size, kept)
    _finish(images, wholes, planned, side, kept, patches)
    if len(rest) > 0:
        others, next_kept, place = np.empty(len(rest), np.int32), 0, 0
        for patch in range(num_patches):
            if next_kept < len(kept) and kept[next_kept] == patch:
                next_kept += 1
            else:
                others[place] = patch
                place += 1
        _finish(images, wholes, planned, side, others, rest)
