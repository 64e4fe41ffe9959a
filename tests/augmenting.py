"""Augmentation written out: slow, one image at a time, from the definitions in the papers and in Pillow."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

FILL = 128.0
# Settings under ``data.augment`` with all on that goes together.
EVERYTHING: dict[str, Any] = {
    "auto": {"kind": "randaugment"},
    "mixup": 0.8,
    "cutmix": 1.0,
    "mix_probability": 0.8,
    "erase_probability": 0.5,
    "repeats": 2,
}
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}
# What an operation does at magnitude 0 and at magnitude 10, by kind of augmentation: shares of the image, degrees, ...
RANGES = {
    "randaugment": {
        **dict.fromkeys(("translate_x", "translate_y"), (0, 100 / 224)),
        **dict.fromkeys(("shear_x", "shear_y"), (0, 0.3)),
        **dict.fromkeys(ENHANCERS, (0, 0.9)),
        "rotate": (0, 30),
        "posterize": (8, 4),
        "solarize": (256, 0),
    },
    "trivialaugment": {
        **dict.fromkeys(("translate_x", "translate_y"), (0, 32 / 224)),
        **dict.fromkeys(("shear_x", "shear_y"), (0, 0.99)),
        **dict.fromkeys(ENHANCERS, (0.01, 0.99)),
        "rotate": (0, 135),
        "posterize": (8, 2),
        "solarize": (256, 0),
    },
}


def auto_augmented(image: np.ndarray, kind: str, op: str, magnitude_bin: int, negated: bool) -> np.ndarray:
    """uint8 [S, S, 3] after one operation of RandAugment or TrivialAugment."""
    pillow, size = Image.fromarray(image), len(image)
    if op in ("identity", "equalize", "auto_contrast"):
        if op == "equalize":
            return np.stack([equalized(image[..., channel]) for channel in range(3)], axis=2)
        return np.asarray(ImageOps.autocontrast(pillow)) if op == "auto_contrast" else image
    low, high = RANGES[kind][op]
    value = low + (high - low) * magnitude_bin / 30
    if op == "posterize":
        return np.asarray(ImageOps.posterize(pillow, max(round(value), 1)))
    if op == "solarize":
        return np.asarray(ImageOps.solarize(pillow, value))
    value = -value if negated else value
    if op in ENHANCERS:
        return np.asarray(ENHANCERS[op](pillow).enhance(1 + value))
    middle, angle = size / 2, math.radians(value)
    cos, sin = math.cos(angle), math.sin(angle)
    # Where each pixel comes from: (x, y) in the image that was, for (x, y) in the one that will be.
    matrix = {
        "translate_x": [[1, 0, -value * size], [0, 1, 0]],
        "translate_y": [[1, 0, 0], [0, 1, -value * size]],
        "shear_x": [[1, -value, 0], [0, 1, 0]],
        "shear_y": [[1, 0, 0], [-value, 1, 0]],
        "rotate": [
            [cos, -sin, middle - cos * middle + sin * middle],
            [sin, cos, middle - sin * middle - cos * middle],
        ],
    }[op]
    return warped(image, np.array(matrix))


def warped(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Bilinear; what lies outside of the image is grey. Pixel (0, 0) has its centre at (0.5, 0.5)."""
    size = len(image)
    grey = np.full((3 * size, 3 * size, 3), FILL)
    grey[size : 2 * size, size : 2 * size] = image
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    x, y = np.einsum("ij,jrc->irc", matrix, np.stack([columns, rows, np.ones_like(rows)])) - 0.5 + size
    x, y = np.clip(x, 0, 3 * size - 2), np.clip(y, 0, 3 * size - 2)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_share, lower_share = (x - left)[..., None], (y - top)[..., None]
    upper = grey[top, left] * (1 - right_share) + grey[top, left + 1] * right_share
    lower = grey[top + 1, left] * (1 - right_share) + grey[top + 1, left + 1] * right_share
    return np.rint(upper * (1 - lower_share) + lower * lower_share).astype(np.uint8)


def equalized(channel: np.ndarray) -> np.ndarray:
    """Histogram equalisation of one channel as OpenCV defines it."""
    counts = np.bincount(channel.reshape(-1), minlength=256)
    lowest = int(np.flatnonzero(counts)[0])
    rest = channel.size - counts[lowest]
    if rest == 0:
        return channel
    table = np.clip(np.rint((np.cumsum(counts) - counts[lowest]) * 255 / rest), 0, 255)
    return table.astype(np.uint8)[channel]


def jittered(image: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Away from the grey image, then from mid-grey, then from black."""
    pixels = image.astype(np.float64)
    grey = (pixels @ [0.299, 0.587, 0.114])[..., None]
    pixels = grey + saturation * (pixels - grey)
    pixels = brightness * (128 + contrast * (pixels - 128))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def mixed(own: np.ndarray, partner: np.ndarray, weight: float, box: np.ndarray) -> np.ndarray:
    """Cutmix where there is a box, else mixup."""
    top, left, bottom, right = box
    if bottom > top:
        result = own.copy()
        result[top:bottom, left:right] = partner[top:bottom, left:right]
        return result
    return np.rint(own * np.float64(weight) + partner * (1 - np.float64(weight))).astype(np.uint8)


def erased(image: np.ndarray, box: np.ndarray, filling: np.ndarray) -> np.ndarray:
    top, left, bottom, right = box
    result = image.copy()
    result[top:bottom, left:right] = filling
    return result
