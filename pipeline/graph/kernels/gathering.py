"""Kept patches of a finished image."""

from pipeline.compiling import compiled


@compiled
def gather(ids, image, patches):  # type: ignore[no-untyped-def]
    """``rules.gather_patches`` of one image: int32 [K] and uint8 [S, S, 3] to uint8 [K, P, P, 3] in ``patches``."""
    size, pixels = patches.shape[1], image.reshape(image.shape[0], -1)
    grid, width = image.shape[0] // size, 3 * size
    for place in range(len(ids)):
        top, left = (ids[place] // grid) * size, (ids[place] % grid) * width
        out = patches[place].reshape(-1)
        for r in range(size):
            row, out_row = pixels[top + r, left : left + width], out[r * width : (r + 1) * width]
            for i in range(width):
                out_row[i] = row[i]
