import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from benchmarks.shared.photographs import photograph
from pipeline.graph import decoding, nodes

WIDTH, HEIGHT = 61, 47
PHOTO = Image.fromarray(photograph(3, WIDTH, HEIGHT))
RNG = np.random.default_rng(0)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def pillow(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def run(nodes: Callable[[Any], Any], value: np.ndarray | bytes) -> np.ndarray:
    """One value through the nodes."""
    array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph() -> Any:
        source = fn.external_source(source=lambda _: [array], dtype=types.UINT8, ndim=array.ndim)
        return nodes(source)

    return np.array(graph().run()[0].at(0))


def decode(encoded: bytes) -> np.ndarray:
    return run(lambda node: decoding.decode_whole(node, "cpu"), encoded)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be shown turned by 90 degrees
    return exif


def with_alpha() -> Image.Image:
    image = PHOTO.convert("RGBA")
    image.putalpha(Image.fromarray(RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)))
    return image


IMAGES = {
    "a JPEG": encode(PHOTO, "JPEG"),
    "a JPEG without chroma subsampling": encode(PHOTO, "JPEG", subsampling=0),
    "a progressive JPEG": encode(PHOTO, "JPEG", progressive=True),
    "a grayscale JPEG": encode(PHOTO.convert("L"), "JPEG"),
    "a CMYK JPEG": encode(PHOTO.convert("CMYK"), "JPEG"),
    "a PNG": encode(PHOTO, "PNG"),
    "a grayscale PNG": encode(PHOTO.convert("L"), "PNG"),
    "a palette PNG": encode(PHOTO.quantize(32), "PNG"),
    "a palette PNG with a transparent colour": encode(PHOTO.quantize(32), "PNG", transparency=3),
    "a black and white PNG": encode(PHOTO.convert("1"), "PNG"),
    "a PNG with alpha": encode(with_alpha(), "PNG"),
    "a grayscale PNG with alpha": encode(with_alpha().convert("LA"), "PNG"),
    "a WebP": encode(PHOTO, "WEBP"),
    "a lossless WebP": encode(PHOTO, "WEBP", lossless=True),
    "a WebP with alpha": encode(with_alpha(), "WEBP", lossless=True, exact=True),
    "a BMP": encode(PHOTO, "BMP"),
    "a JPEG with an orientation": encode(PHOTO, "JPEG", exif=turned()),
    "a PNG with an orientation": encode(PHOTO, "PNG", exif=turned()),
    "a WebP with an orientation": encode(PHOTO, "WEBP", exif=turned()),
}


# Decoding


@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_image_decodes_to_pillows_rgb_pixels_exactly(kind: str) -> None:
    np.testing.assert_array_equal(decode(IMAGES[kind]), pillow(IMAGES[kind]))


@pytest.mark.parametrize("kind", IMAGES)
def test_a_decoded_window_is_that_part_of_the_whole_image(kind: str) -> None:
    start, shape = np.array([5, 11], np.int32), np.array([30, 23], np.int32)
    window = run(lambda node: decoding.decode_window(node, start, shape), IMAGES[kind])
    np.testing.assert_array_equal(window, pillow(IMAGES[kind])[5:35, 11:34])


def test_an_orientation_tag_is_ignored() -> None:
    assert decode(IMAGES["a JPEG with an orientation"]).shape == (HEIGHT, WIDTH, 3)


def test_alpha_is_dropped_and_not_blended() -> None:
    np.testing.assert_array_equal(decode(IMAGES["a PNG with alpha"]), np.asarray(PHOTO))


def test_a_16_bit_png_is_scaled_to_8_bits_where_pillow_would_clip_it() -> None:
    gray = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    decoded = decode(encode(Image.fromarray(gray), "PNG"))
    scaled = np.repeat((gray / 257)[..., None], 3, axis=2)
    assert np.abs(decoded - scaled).max() <= 1


# Resizing


@pytest.mark.parametrize("size", [16, 32, 61, 128])
def test_a_resized_image_is_pillows_within_one(size: int) -> None:
    got = run(lambda node: nodes.resize_whole(node, size), np.asarray(PHOTO)).astype(int)
    want = np.asarray(F.resize(PHOTO, [size, size], InterpolationMode.BILINEAR, antialias=True))
    # Next to the border the two treat the missing neighbours differently.
    assert np.abs(got - want)[1:-1, 1:-1].max() <= 1
    assert np.abs(got - want).max() <= 8
    assert np.abs(got - want).mean() <= 0.3


def test_a_resized_region_is_that_region_of_the_resized_image() -> None:
    corners = np.array([10.5, 7.25], np.float32), np.array([42.5, 39.25], np.float32)
    got = run(lambda node: nodes.resize_region(node, *corners, 64), np.asarray(PHOTO)).astype(int)
    twice = np.asarray(PHOTO.resize((64, 64), Image.Resampling.BILINEAR, box=(7.25, 10.5, 39.25, 42.5)))
    assert np.abs(got - twice)[2:-2, 2:-2].max() <= 1


# Shifting and flipping


@pytest.mark.parametrize("start", [(-4, 3), (0, 0), (4, -4), (2, 1)])
def test_a_shifted_window_is_torchvisions_pad_and_crop(start: tuple[int, int]) -> None:
    image = np.ascontiguousarray(np.asarray(PHOTO)[:28, :28])
    got = run(lambda node: nodes.shift_with_border(node, np.array(start, np.int32), 28), image)
    padded = F.pad(Image.fromarray(image), [4])
    np.testing.assert_array_equal(got, np.asarray(F.crop(padded, start[0] + 4, start[1] + 4, 28, 28)))


@pytest.mark.parametrize("mirrored", [0, 1])
def test_an_image_is_mirrored_where_it_should_be(mirrored: int) -> None:
    got = run(lambda node: nodes.flip(node, np.array(mirrored, np.int32)), np.asarray(PHOTO))
    np.testing.assert_array_equal(got, np.asarray(PHOTO)[:, ::-1] if mirrored else np.asarray(PHOTO))
