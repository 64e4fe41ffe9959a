"""Augmentation written out: slow, one image at a time, by Pillow or from the definitions in the papers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from pipeline.operations import OPERATION_NAMES, levels_of
from pipeline.plan.augmentation import AugmentPlan
from pipeline.plan.step import StepPlan

# Settings under ``data.augment`` with all on that goes together.
EVERYTHING: dict[str, Any] = {
    "auto": {"kind": "randaugment"},
    "mixup": 0.8,
    "cutmix": 1.0,
    "mix_probability": 0.8,
    "erase_probability": 0.5,
    "repeats": 2,
}
# In levels, at most and on average, of DALI's operators against the kernels; what differs more is told in DIFFERENCES.
GPU_DISTANCES = {
    **dict.fromkeys(("posterize", "solarize", "solarize_add", "invert", "auto_contrast", "identity"), (1, 0.2)),
    **dict.fromkeys(("brightness", "contrast", "color", "grey"), (2, 1.2)),
    "sharpness": (255, 4.0),
    "equalize": (255, 16.0),
    "blur": (255, 3.0),
}
_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def operated(image: np.ndarray, op: str, value: float, fill: tuple[int, ...]) -> np.ndarray:
    """uint8 [S, S, 3] after one operation, as Pillow does it (and timm, where it warps bilinearly)."""
    pillow, size = Image.fromarray(image), len(image)
    warp: dict[str, Any] = {"resample": Image.Resampling.BILINEAR, "fillcolor": fill}
    if op in _ENHANCERS:
        return np.asarray(_ENHANCERS[op](pillow).enhance(value))
    matrices = {
        "translate_x": (1, 0, value * size, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value * size),
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
    }
    if op in matrices:
        return np.asarray(pillow.transform(pillow.size, Image.Transform.AFFINE, matrices[op], **warp))
    results: dict[str, Callable[[], Image.Image]] = {
        "identity": lambda: pillow,
        "rotate": lambda: pillow.rotate(value, **warp),
        "posterize": lambda: ImageOps.posterize(pillow, int(value)) if value else Image.new("RGB", pillow.size),
        "solarize": lambda: ImageOps.solarize(pillow, value),
        "solarize_add": lambda: pillow.point([min(255, i + int(value)) if i < 128 else i for i in range(256)] * 3),
        "invert": lambda: ImageOps.invert(pillow),
        "auto_contrast": lambda: ImageOps.autocontrast(pillow),
        "equalize": lambda: ImageOps.equalize(pillow),
        "grey": lambda: ImageOps.grayscale(pillow).convert("RGB"),
        "blur": lambda: pillow.filter(ImageFilter.GaussianBlur(value)),
    }
    return np.asarray(results[op]())


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


def mixed_images(
    images: list[np.ndarray], partner: list[np.ndarray], weights: list[np.ndarray], boxes: list[np.ndarray]
) -> list[np.ndarray]:
    """The images of a micro batch, mixed in pairs; the given ones stay as they are.

    Args:
        images: uint8 [S, S, 3] each.
        partner: int scalars, as from ``partners``; the other arguments of two partners are equal.
        weights: float32 scalars.
        boxes: int32 [4] each.
    """
    mixed = list(images)
    for row, other in enumerate(int(place) for place in partner):
        top, left, bottom, right = (int(edge) for edge in boxes[row])
        if bottom > top and other != row:
            mixed[row] = images[row].copy()
            mixed[row][top:bottom, left:right] = images[other][top:bottom, left:right]
        elif row < other and weights[row] < 1:
            mixed[row], mixed[other] = _blend(images[row], images[other], weights[row])
    return mixed


def _blend(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both mixtures of two images at once: what one gains the other loses."""
    step = np.subtract(second, first, dtype=np.int16) * np.float32(1 - weight)
    # Differences are taken modulo 256: the sums lie within 0 to 255, so they come out right.
    change = np.rint(step, out=step).astype(np.int16).astype(np.uint8)
    return first + change, second - change


def with_operations(plan: StepPlan, ops: list[list[str]], values: list[list[float]]) -> StepPlan:
    """The same plan with these operations in a row on each of its images."""
    places = np.array([[OPERATION_NAMES.index(op) for op in row] for row in ops], dtype=np.int32)
    chosen = AugmentPlan(
        auto_ops=places, auto_magnitudes=np.zeros(places.shape), auto_values=np.array(values, np.float32)
    )
    return replace(plan, augment=chosen)


def value_at(kind: str, op: str, share: float) -> float:
    return float(levels_of(kind)[op].value(np.array([share]))[0])
