"""DALI nodes from decoded images to square ones. Every random decision arrives as data; the nodes draw nothing.

Layout HWC, uint8, RGB throughout. ``image_size`` is the side of all square images, or int32 [2], each one's
(height, width).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.auto_aug.core import select
from nvidia.dali.pipeline import do_not_convert

from pipeline.config import AutoAugmentConfig, DataConfig
from pipeline.operations import OPERATIONS, levels_of

Node = Any  # a DALI DataNode; the operators' stubs accept several kinds


def _square(image_size: int | Node) -> list[int] | Node:
    """(height, width): of every image, or a node of each one's."""
    return [image_size, image_size] if isinstance(image_size, int) else image_size


def _resized(image_size: int | Node) -> list[int] | Node:
    """The same for a resize, which takes floats where each image has its own."""
    return _square(image_size) if isinstance(image_size, int) else fn.cast(image_size, dtype=types.FLOAT)


def resize_region(images: Node, start: Node, end: Node, image_size: int | Node) -> Node:
    """Resample a region to a square: bilinear with antialiasing, as torchvision's transforms do on images.

    Args:
        start, end: float32 [2], (row, column) of the region's corners, in pixels of ``images``.
    """
    return fn.resize(
        images,
        roi_start=start,
        roi_end=end,
        roi_relative=False,
        size=_resized(image_size),
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )


def resize_whole(images: Node, image_size: int | Node) -> Node:
    """Resample whole images to a square, without keeping their aspect: bilinear with antialiasing."""
    return fn.resize(images, size=_resized(image_size), interp_type=types.INTERP_LINEAR, antialias=True)


def shift_with_border(images: Node, start: Node, image_size: int | Node) -> Node:
    """A square window that may reach beyond the image, where it is black. start: int32 [2], (row, column)."""
    return fn.slice(
        images,
        start=start,
        shape=_square(image_size),
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )


def flip(images: Node, mirrored: Node) -> Node:
    """Mirror images from left to right where ``mirrored`` (int32 scalar) is 1."""
    return fn.flip(images, horizontal=mirrored)


def _gpu(number: Node, images: Node) -> Node:
    """A number where the images are: DALI's arithmetic wants both in one place."""
    return number.gpu() if images.device == "gpu" else number


def _scaled(images: Node, factor: Node, _: Node) -> Node:
    return fn.cast(images * _gpu(factor, images), dtype=types.UINT8)


def _contrasted(images: Node, factor: Node, _: Node) -> Node:
    means = fn.reductions.mean(images, axis_names="HW", keep_dims=True)
    grey = fn.reductions.sum(means * types.Constant(_GREY), axis_names="C", keep_dims=True)
    return fn.cast(grey + (images - grey) * _gpu(factor, images), dtype=types.UINT8)


def _saturated(images: Node, factor: Node, _: Node) -> Node:
    return fn.saturation(images, saturation=factor)


def _sharpened(images: Node, factor: Node, _: Node) -> Node:
    factor = _gpu(factor, images)
    kernel = types.Constant(_SMOOTH) * (1.0 - factor) + types.Constant(_SAME) * factor
    return fn.filter(images, kernel)


def _posterized(images: Node, bits: Node, _: Node) -> Node:
    step = math.pow(2.0, 8.0 - _gpu(bits, images))
    return fn.cast(math.floor(images / step) * step, dtype=types.UINT8)


def _solarized(images: Node, threshold: Node, _: Node) -> Node:
    stay = images < _gpu(threshold, images)
    return fn.cast(images * stay + (255 - images) * (stay ^ True), dtype=types.UINT8)


def _solarize_added(images: Node, add: Node, _: Node) -> Node:
    return fn.cast(images + _gpu(add, images) * (images < 128), dtype=types.UINT8)


def _stretched(images: Node, _value: Node, _: Node) -> Node:
    low = fn.cast(fn.reductions.min(images, axis_names="HW", keep_dims=True), dtype=types.FLOAT)
    high = fn.cast(fn.reductions.max(images, axis_names="HW", keep_dims=True), dtype=types.FLOAT)
    flat = high <= low
    scale = 255.0 / (high - low + flat)
    stretched = (images - low) * scale * (flat ^ True) + images * flat
    return fn.cast(math.floor(stretched), dtype=types.UINT8)


_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SAME = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)
_SMOOTH = (np.ones((3, 3), dtype=np.float32) + 4 * _SAME) / 13
_WARPS = ("translate_x", "translate_y", "shear_x", "shear_y", "rotate")
# What DALI does for each operation: (images, value float32 scalar, matrix float32 [2, 3]) to images.
_NODES: dict[str, Callable[[Node, Node, Node], Node]] = {
    "identity": lambda images, value, matrix: images,
    "brightness": _scaled,
    "contrast": _contrasted,
    "color": _saturated,
    "sharpness": _sharpened,
    "posterize": _posterized,
    "solarize": _solarized,
    "solarize_add": _solarize_added,
    "invert": lambda images, value, matrix: fn.cast(255 - images, dtype=types.UINT8),
    "auto_contrast": _stretched,
    "equalize": lambda images, value, matrix: fn.equalize(images),
    "grey": _saturated,
    "blur": lambda images, value, matrix: fn.gaussian_blur(images, sigma=value),
}
# In what the operations of a GPU's graph differ from a CPU's kernels. The others do the same, within one level.
DIFFERENCES = {
    **dict.fromkeys(
        _WARPS, "beyond the border lies one grey, the mean of data.mean, and pixels there are blended with it"
    ),
    "brightness": "rounded, not cut off",
    "contrast": "the mean grey is not rounded to a whole number",
    "color": "grey is not rounded, values are",
    "sharpness": "the outermost pixels are sharpened too",
    "equalize": "OpenCV's formula, not Pillow's",
    "grey": "grey is not rounded down",
    "blur": "DALI's own window of the Gaussian",
}


def auto_operations(auto: AutoAugmentConfig, data: DataConfig) -> list[Callable[[Node, Node, Node], Node]]:
    """The suite's operations, in the places that ``operations.OPERATIONS`` has them, for a graph with conditionals.

    They branch on no image, and to rewrite them takes a second for each operation in a row.

    Raises:
        ValueError: the suite draws an operation that there is no node for.
    """
    fill = 255 * float(np.mean(data.mean))

    def warped(images: Node, _: Node, matrix: Node) -> Node:
        return fn.warp_affine(images, matrix=matrix, fill_value=fill, interp_type=types.INTERP_LINEAR)

    known = {**_NODES, **dict.fromkeys(_WARPS, warped)}
    drawn = ("identity", *levels_of(auto.kind, increasing=auto.increasing))
    missing = [name for name in drawn if name not in known]
    if missing:
        raise ValueError(f"data.device is gpu, and no node there does {', '.join(missing)}; set data.device to cpu")
    return [do_not_convert(known[name] if name in drawn else known["identity"]) for name in OPERATIONS]


def auto_augment(
    images: Node, operations: list[Callable[[Node, Node, Node], Node]], op: Node, value: Node, matrix: Node
) -> Node:
    """Apply one operation to each image. Needs a graph with ``enable_conditionals``.

    Args:
        operations: from ``auto_operations``.
        op: int32 scalar, place in them; value: float32 scalar; matrix: float32 [2, 3], of a warp, in pixels.
    """
    return select(operations, op, images, value, matrix)


def jitter_colors(images: Node, factors: Node) -> Node:
    """Change saturation, then contrast (around mid-grey), then brightness, and round once at the end.

    Args:
        factors: float32 [3], of brightness, contrast and saturation; 1 changes nothing.
    """
    return fn.color_twist(images, brightness=factors[0], contrast=factors[1], saturation=factors[2])


def blend(images: Node, partner: Node, weight: Node) -> Node:
    """Mixup on a GPU.

    Args:
        partner: int32 scalar, place in the batch of the image that each is mixed with.
        weight: float32 scalar, the image's own share.
    """
    others = fn.permute_batch(images, indices=partner)
    weight = weight.gpu() if images.device == "gpu" else weight
    return fn.cast(images * weight + others * (1.0 - weight), dtype=types.UINT8)


def paste_boxes(images: Node, ids: Node, anchors: Node, shapes: Node, image_size: int | Node) -> Node:
    """Cutmix on a GPU: put each image together from boxes of the batch's images, which stay where they are.

    Args:
        ids: int32 [n], places in the batch; anchors, shapes: int32 [n, 2], (row, column) and (height, width).
    """
    return fn.multi_paste(
        images,
        in_ids=ids,
        in_anchors=anchors,
        shapes=shapes,
        out_anchors=anchors,
        output_size=_square(image_size),
    )


def fill_boxes_with_noise(images: Node, noise: Node, start: Node, shape: Node, image_size: int | Node) -> Node:
    """Erasing on a GPU, with noise.

    The noise is laid on a black image, and that is added where the image itself was made black. ``multi_paste`` of two
    batches puts other pixels there on a GPU (DALI 2.4.0), not the same ones each time.

    Args:
        noise: uint8 [height, width, 3], of the box; black where there is none.
        start, shape: float32 [2], (row, column) and (height, width) of the box.
    """
    noise = noise.gpu() if images.device == "gpu" else noise
    place = fn.cast(0.0 - start, dtype=types.INT32)
    window = {"start": place, "shape": _square(image_size), "axes": [0, 1]}
    laid = fn.slice(noise, **window, out_of_bounds_policy="pad", fill_values=[0.0])
    return fill_boxes(images, start, shape, [0.0]) + laid


def fill_boxes(images: Node, start: Node, shape: Node, color: list[float]) -> Node:
    """Erasing on a GPU, with a colour. start, shape: float32 [2], (row, column) and (height, width)."""
    return fn.erase(images, anchor=start, shape=shape, axis_names="HW", fill_value=color)
