"""DALI nodes from encoded bytes to images: layout HWC, uint8, RGB.

EXIF orientation is ignored, as torchvision's ImageFolder and timm ignore it, so that width and height in the index are
those of the stored pixels. Light to import, because the shard tools start processes that do nothing but decode.
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
    Left to itself it also spreads the colours of a JPEG by another rule than the CPU's decoder.
    """
    return fn.decoders.image(
        encoded,
        device=device,
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=device == "mixed",
    )
