"""DALI nodes from encoded bytes to a square image. Every random decision arrives as data; the nodes draw nothing.

Layout HWC, uint8, RGB throughout. EXIF orientation is ignored, as torchvision's ImageFolder and timm ignore it, so that
width and height in the index are those of the stored pixels.
"""

from collections.abc import Callable
from typing import Any

from nvidia.dali import fn, types
from nvidia.dali.auto_aug import augmentations
from nvidia.dali.auto_aug.augmentations import sharpness_kernel
from nvidia.dali.auto_aug.core import augmentation, select, signed_bin
from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite
from nvidia.dali.auto_aug.trivial_augment import get_trivial_augment_wide_suite
from nvidia.dali.pipeline import do_not_convert

from pipeline.plan.augmentation import AUTO_OPS, NUM_MAGNITUDE_BINS

Node = Any  # a DALI DataNode; the operators' stubs accept several kinds
Augmentation = Any  # what DALI's decorator ``augmentation`` makes of a function


def decode_window(encoded: Node, start: Node, shape: Node) -> Node:
    """Decode a window of each image on the CPU.

    Args:
        encoded: uint8 [bytes], JPEG, PNG or WebP; grayscale becomes RGB.
        start, shape: int32 [2], (row, column) and (height, width) in pixels of the stored image.
    """
    return fn.decoders.image_slice(
        encoded,
        start=start,
        shape=shape,
        axes=[0, 1],
        device="cpu",
        output_type=types.RGB,
        adjust_orientation=False,
    )


def decode_whole(encoded: Node, device: str) -> Node:
    """Decode whole images; device ``cpu`` or ``mixed`` (bytes on the CPU, pixels on the GPU).

    On a GPU whole images are decoded and cropped in the resize: nvImageCodec's window decoding is not dependable there.
    """
    return fn.decoders.image(encoded, device=device, output_type=types.RGB, adjust_orientation=False)


def resize_region(images: Node, start: Node, end: Node, image_size: int) -> Node:
    """Resample a region to a square: bilinear with antialiasing, as torchvision's transforms do on images.

    Args:
        start, end: float32 [2], (row, column) of the region's corners, in pixels of ``images``.
    """
    return fn.resize(
        images,
        roi_start=start,
        roi_end=end,
        roi_relative=False,
        size=[image_size, image_size],
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )


def resize_whole(images: Node, image_size: int) -> Node:
    """Resample whole images to a square, without keeping their aspect: bilinear with antialiasing."""
    return fn.resize(images, size=[image_size, image_size], interp_type=types.INTERP_LINEAR, antialias=True)


def shift_with_border(images: Node, start: Node, image_size: int) -> Node:
    """A square window that may reach beyond the image, where it is black. start: int32 [2], (row, column)."""
    return fn.slice(
        images,
        start=start,
        shape=[image_size, image_size],
        axes=[0, 1],
        out_of_bounds_policy="pad",
        fill_values=0,
    )


def flip(images: Node, mirrored: Node) -> Node:
    """Mirror images from left to right where ``mirrored`` (int32 scalar) is 1."""
    return fn.flip(images, horizontal=mirrored)


@augmentation(mag_range=(0, 0.9), randomly_negate=True, mag_to_param=sharpness_kernel, param_device="auto")
def sharpness(images: Node, kernel: Node) -> Node:
    return fn.filter(images, kernel)


@augmentation
def equalize(images: Node, _: Node) -> Node:
    return fn.equalize(images)


def auto_suite(kind: str) -> list[Augmentation]:
    """The operations of ``OPERATIONS`` as DALI has them in its suite for ``randaugment`` or ``trivialaugment``.

    Images move by up to 100 (TrivialAugment: 32) pixels of 224, and by the same share of another size. An operation
    that the suite lacks is taken from DALI's collection by its name.

    Raises:
        ValueError: DALI has no such operation.
    """
    suite = _SUITES[kind]()
    found = {one.name: one for one in suite}
    # The suites name two operators by their old names, and DALI prints a line for each.
    found |= {name: one.augmentation(mag_range=found[name].mag_range) for name, one in _RENAMED.items()}
    missing = [name for name in AUTO_OPS if name not in found and not hasattr(augmentations, name)]
    if missing:
        raise ValueError(f"DALI has no operation named {', '.join(missing)}, which the table of operations lists")
    return [found.get(name) or getattr(augmentations, name) for name in AUTO_OPS]


_RENAMED = {"sharpness": sharpness, "equalize": equalize}
_SUITES: dict[str, Callable[[], list[Augmentation]]] = {
    "randaugment": lambda: get_rand_augment_suite(use_shape=True, max_translate_rel=100 / 224),
    "trivialaugment": lambda: get_trivial_augment_wide_suite(use_shape=True, max_translate_rel=32 / 224),
}


def auto_operations(kind: str) -> list[Callable[..., Node]]:
    """The suite's operations as functions that a graph with ``enable_conditionals`` calls as they are.

    They branch on no image, and to rewrite them takes a second for each operation in a row.
    """
    return [do_not_convert(one.__call__) for one in auto_suite(kind)]


def auto_augment(
    images: Node, operations: list[Callable[..., Node]], ops: Node, bins: Node, signs: Node, image_size: int
) -> Node:
    """Apply one operation to each image. Needs a graph with ``enable_conditionals``.

    What moves into the image from beyond its border is mid-grey.

    Args:
        operations: from ``auto_operations``.
        ops, bins, signs: int32 scalars: place in the suite, magnitude bin of 31, 1 for the negated magnitude.
    """
    return select(
        operations,
        ops,
        data=images,
        magnitude_bin=signed_bin(bins, signs),
        num_magnitude_bins=NUM_MAGNITUDE_BINS,
        shape=(image_size, image_size),
        fill_value=128,
        interp_type=types.INTERP_LINEAR,
    )


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


def paste_boxes(images: Node, ids: Node, anchors: Node, shapes: Node, image_size: int) -> Node:
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
        output_size=[image_size, image_size],
    )


def paste_noise(images: Node, noise: Node, anchors: Node, erased: Node, image_size: int) -> Node:
    """Erasing on a GPU, with noise. Needs a graph with ``enable_conditionals``.

    Args:
        noise: uint8 [height, width, 3]; anchors: int32 [2, 2], of the whole image and of the noise; erased: int32
            scalar, 0 where the image stays as it is.
    """
    noise = noise.gpu() if images.device == "gpu" else noise
    if erased > 0:
        images = fn.multi_paste(images, noise, out_anchors=anchors, output_size=[image_size, image_size])
    return images


def fill_boxes(images: Node, start: Node, shape: Node, color: list[float]) -> Node:
    """Erasing on a GPU, with a colour. start, shape: float32 [2], (row, column) and (height, width)."""
    return fn.erase(images, anchor=start, shape=shape, axis_names="HW", fill_value=color)
