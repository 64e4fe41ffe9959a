"""Patches and boxes of the resized crop, straight from a decoded image."""

from pipeline.compiling import compiled
from pipeline.graph.kernels.boxes import box_scratch, resample_box
from pipeline.graph.kernels.sampling import (
    OWN_REGION,
    OWN_WINDOW,
    PARTNER_REGION,
    PARTNER_WINDOW,
    axis_weights,
    window_at,
)


@compiled
def filters_of(planned, partner, side):  # type: ignore[no-untyped-def]
    """The filters along both axes by which the crop of the image, or of its partner, becomes a square."""
    place, window = (PARTNER_REGION, PARTNER_WINDOW) if partner else (OWN_REGION, OWN_WINDOW)
    region = planned[place : place + 4]
    top, left, bottom, right = window_at(planned, window)
    rows = axis_weights(region[0], region[2], top, bottom, side)
    return rows, axis_weights(region[1], region[3], left, right, side)


@compiled
def resample_patches(image, rows, columns, ids, wanted, mirrored, patches):  # type: ignore[no-untyped-def]
    """The wanted ones of some patches of the resized (and mirrored) image.

    Args:
        rows, columns: as from ``axis_weights``.
        ids: int32 [K], ascending. wanted: bool [K].
        patches: uint8 [K, P, P, 3], written.
    """
    size, side, scratch = patches.shape[1], len(rows[0]), box_scratch(image, columns)
    grid = side // size
    place = 0
    while place < len(ids):
        stop = place + 1
        if wanted[place]:
            # Neighbours in one piece, which saves looking twice at what lies under the filters of both.
            while stop < len(ids) and wanted[stop] and ids[stop] == ids[stop - 1] + 1 and ids[stop] % grid > 0:
                stop += 1
            left, right = (ids[place] % grid) * size, (ids[stop - 1] % grid + 1) * size
            top, out = (ids[place] // grid) * size, patches[place:stop, :, :]
            resample_box(image, rows, columns, top, side - right if mirrored else left, mirrored, out, scratch)
        place = stop
