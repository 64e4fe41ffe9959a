"""JPEGs of many kinds, small, and what Pillow sees in them."""

import io
import shutil

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from benchmarks.shared.photographs import photograph

needs_jpegtran = pytest.mark.skipif(
    shutil.which("jpegtran") is None, reason="needs jpegtran (Debian: libjpeg-turbo-progs)"
)


def picture(seed: int = 0, width: int = 60, height: int = 45, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(photograph(seed, width, height)).convert(mode)


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def addressable_jpeg(seed: int, width: int = 60, height: int = 45) -> bytes:
    """One that is addressable from the start."""
    return encoded(picture(seed, width, height), restart_marker_blocks=1, optimize=True)


def pixels_of(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)))


def damaged_jpeg() -> bytes:
    """One that Pillow decodes, although its data end before the picture does."""
    return encoded(picture())[:900] + b"\xff\xd9"


def profiled_jpeg() -> bytes:
    """One with an orientation tag, a comment and a colour profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(picture(), exif=exif, icc_profile=profile, comment=b"a comment")


def several_pictures() -> bytes:
    return encoded(picture(0), "MPO", save_all=True, append_images=[picture(1)])
