"""Crops as arithmetic: uniform numbers and image sizes in, boxes out."""

import numpy as np

from pipeline.config import AugmentConfig

_CROP_TRIES = 10  # torchvision's RandomResizedCrop draws up to ten boxes, then falls back to the centre
NUM_CROP_DRAWS = 2 * _CROP_TRIES + 2  # random numbers per image of a resized crop


def resized_crops(heights: np.ndarray, widths: np.ndarray, draws: np.ndarray, augment: AugmentConfig) -> np.ndarray:
    """Random resized crops as in "Going deeper with convolutions" (arXiv 1409.4842, section 6) and torchvision.

    Args:
        heights, widths: int [B], of the stored images.
        draws: float32 [B, 22] in [0, 1): ten pairs (area, ratio), then the place.

    Returns:
        float32 [B, 4]: (top, left, bottom, right) in whole pixels.
    """
    heights, widths = heights.astype(np.int64), widths.astype(np.int64)
    w, h, found = _first_fit(heights, widths, draws[:, :2], augment)
    # Most rows are done after the first try, so the others are worked out for the rest alone.
    rest = np.flatnonzero(~found)
    w[rest], h[rest], found[rest] = _first_fit(heights[rest], widths[rest], draws[rest, 2 : 2 * _CROP_TRIES], augment)

    lost = np.flatnonzero(~found)
    w[lost], h[lost] = _widest_fit(heights[lost], widths[lost], augment)
    top = (draws[:, -2] * (heights - h + 1)).astype(np.int64)
    left = (draws[:, -1] * (widths - w + 1)).astype(np.int64)
    top[lost], left[lost] = (heights - h)[lost] // 2, (widths - w)[lost] // 2
    top, left = np.minimum(top, heights - h), np.minimum(left, widths - w)
    return np.stack([top, left, top + h, left + w], axis=1).astype(np.float32)


def _first_fit(
    heights: np.ndarray, widths: np.ndarray, pairs: np.ndarray, augment: AugmentConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Width and height int64 [B] of the first box inside its image, and whether there is one, bool [B].

    Args:
        heights, widths: int64 [B].
        pairs: float32 [B, 2 T] in [0, 1): (area, ratio) of T tries.
    """
    heights, widths = heights[:, None], widths[:, None]
    low, high = augment.scale
    area = heights * widths * (low + (high - low) * pairs[:, 0::2].astype(np.float64))
    log_low, log_high = np.log(augment.ratio)
    ratio = np.exp(log_low + (log_high - log_low) * pairs[:, 1::2].astype(np.float64))
    crop_w = np.round(np.sqrt(area * ratio)).astype(np.int64)
    crop_h = np.round(np.sqrt(area / ratio)).astype(np.int64)
    fits = (crop_w > 0) & (crop_w <= widths) & (crop_h > 0) & (crop_h <= heights)
    rows, first = np.arange(len(fits)), np.argmax(fits, axis=1)
    return crop_w[rows, first], crop_h[rows, first], fits[rows, first]


def _widest_fit(heights: np.ndarray, widths: np.ndarray, augment: AugmentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Width and height int64 [B] of the largest boxes whose ratio is allowed, where no try has found one."""
    in_ratio = widths / heights
    widest = np.maximum(np.round(heights * augment.ratio[1]), 1).astype(np.int64)
    highest = np.maximum(np.round(widths / augment.ratio[0]), 1).astype(np.int64)
    w = np.where(in_ratio > augment.ratio[1], widest, widths)
    return w, np.where(in_ratio < augment.ratio[0], highest, heights)


def pad_crops(draws: np.ndarray, image_size: int, pad_pixels: int) -> np.ndarray:
    """Square crops shifted by up to ``pad_pixels`` each way: float32 [B, 4] from draws float32 [B, 2] in [0, 1)."""
    offsets = np.floor(draws.astype(np.float64) * (2 * pad_pixels + 1)) - pad_pixels
    return np.concatenate([offsets, offsets + image_size], axis=1).astype(np.float32)


def centre_crops(heights: np.ndarray, widths: np.ndarray, image_size: int, crop_fraction: float) -> np.ndarray:
    """Validation's crops: torchvision's Resize (shorter side) and CenterCrop, expressed on the stored image.

    Returns:
        float32 [B, 4]: (top, left, bottom, right) in pixels of the stored image, not whole in general.
    """
    heights, widths = heights.astype(np.int64), widths.astype(np.int64)
    shorter = np.minimum(heights, widths)
    resized_shorter = int(image_size / crop_fraction)
    resized_h = np.where(heights <= widths, resized_shorter, resized_shorter * heights // shorter)
    resized_w = np.where(widths <= heights, resized_shorter, resized_shorter * widths // shorter)
    top = np.round((resized_h - image_size) / 2.0)
    left = np.round((resized_w - image_size) / 2.0)
    to_stored_h, to_stored_w = heights / resized_h, widths / resized_w
    return np.stack(
        [
            top * to_stored_h,
            left * to_stored_w,
            (top + image_size) * to_stored_h,
            (left + image_size) * to_stored_w,
        ],
        axis=1,
    ).astype(np.float32)
