"""Images as patches and back, in NumPy."""

import numpy as np


def patchify(images: np.ndarray, patch_size: int) -> np.ndarray:
    """Images uint8 [B, S, S, 3] as patches uint8 [B, N, P*P*3], raster order, (row, column, channel) within a patch."""
    batch, size = images.shape[:2]
    grid = size // patch_size
    tiles = images.reshape(batch, grid, patch_size, grid, patch_size * 3)
    return tiles.transpose(0, 1, 3, 2, 4).reshape(batch, grid * grid, -1)


def unpatchify(patches: np.ndarray, patch_size: int) -> np.ndarray:
    """All N patches of images, uint8 [B, N, P*P*3], back as images uint8 [B, S, S, 3]."""
    batch, num_patches = patches.shape[:2]
    grid = round(num_patches**0.5)
    tiles = patches.reshape(batch, grid, grid, patch_size, patch_size, 3).transpose(0, 1, 3, 2, 4, 5)
    return tiles.reshape(batch, grid * patch_size, grid * patch_size, 3)


def gather_patches(image: np.ndarray, ids_keep: np.ndarray, patch_size: int) -> np.ndarray:
    """The kept patches of one image: uint8 [S, S, 3] and int [K] to uint8 [K, P*P*3]. Only kept pixels are copied."""
    grid = image.shape[0] // patch_size
    rows, columns = np.divmod(ids_keep, grid)
    tiles = image.reshape(grid, patch_size, grid, patch_size * 3)
    return tiles[rows, :, columns].reshape(len(ids_keep), -1)


def ids_dropped(ids_keep: np.ndarray, num_patches: int) -> np.ndarray:
    """The patches that are not kept, ascending: int [B, K], each once, to int32 [B, N - K]."""
    dropped = np.ones((len(ids_keep), num_patches), dtype=bool)
    np.put_along_axis(dropped, ids_keep.astype(np.int64), False, axis=1)
    return np.nonzero(dropped)[1].reshape(len(ids_keep), -1).astype(np.int32)
