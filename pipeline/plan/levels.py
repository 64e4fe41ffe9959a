"""Which of several sizes of an image a crop is taken from, and where it lies there: arithmetic."""

import numpy as np


def smallest_levels(crops: np.ndarray, sizes: np.ndarray, level_sizes: np.ndarray, image_size: int) -> np.ndarray:
    """The smallest level at which a crop is still at least ``image_size`` pixels high and wide.

    Args:
        crops: float32 [B, 4], (top, left, bottom, right) in whole pixels of the full sizes.
        sizes: int [B, 2], (height, width) of the full sizes.
        level_sizes: int [L, B, 2], the same at each level, the largest first.
        image_size: side of what the crop is resized to, in pixels.

    Returns:
        int64 [B]: 0 for the full size, k for the k-th level.
    """
    sides, sizes = (crops[:, 2:] - crops[:, :2]).astype(np.int64), sizes.astype(np.int64)
    chosen = np.zeros(len(crops), dtype=np.int64)
    for level, smaller in enumerate(level_sizes.astype(np.int64), 1):
        # side * smaller / size >= image_size, in whole numbers.
        chosen[np.all(sides * smaller >= image_size * sizes, axis=1)] = level
    return chosen


def scaled_crops(crops: np.ndarray, sizes: np.ndarray, stored_sizes: np.ndarray) -> np.ndarray:
    """The crops in pixels of images of another size: the same shares of height and width, not whole in general.

    Args:
        crops: float32 [B, 4], in pixels of images of ``sizes`` int [B, 2], (height, width).
        stored_sizes: int [B, 2], of the others.

    Returns:
        float32 [B, 4]; exact where it is a whole number, such as at the border.
    """
    scaled = crops.astype(np.float64) * np.tile(stored_sizes, 2) / np.tile(sizes, 2)
    return scaled.astype(np.float32)
