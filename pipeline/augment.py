"""DALI nodes from encoded bytes to a square image. Every random decision arrives as data; the nodes draw nothing.

Layout HWC, uint8, RGB throughout. EXIF orientation is ignored, as torchvision's ImageFolder and timm ignore it, so that
width and height in the index are those of the stored pixels.
"""

from typing import Any

from nvidia.dali import fn, types

Node = Any  # a DALI DataNode; the operators' stubs accept several kinds


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


def patch_contrast(images: Node, image_size: int, patch_size: int) -> Node:
    """Standard deviation of each patch's pixels around its mean colour, over 255: float32 [G, G], G patches a side.

    The root mean square over the channels of each channel's own deviation: a flat patch scores 0 whatever its colour.
    """
    grid = image_size // patch_size
    tiles = fn.reshape(images, shape=[grid, patch_size, grid, patch_size, 3])
    means = fn.reductions.mean(tiles, axes=[1, 3], keep_dims=True)
    return fn.reductions.rms(fn.reductions.std_dev(tiles, means, axes=[1, 3]), axes=[2]) / 255.0
