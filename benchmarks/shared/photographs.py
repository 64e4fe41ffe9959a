"""Photograph-like JPEGs for tests and measurements: seeded, about 60 KB at 500 x 375 pixels and quality 87."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter


def photograph(seed: int, width: int = 500, height: int = 375, texture_strength: float = 1.0) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: a smooth background, some shapes with soft edges, and texture of several sizes."""
    rng = np.random.default_rng(seed)
    sky = Image.fromarray(rng.integers(30, 226, (4, 5, 3), dtype=np.uint8))
    picture = sky.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        half_width, half_height = rng.integers(8, max(9, width // 5)), rng.integers(8, max(9, height // 5))
        box = [int(x - half_width), int(y - half_height), int(x + half_width), int(y + half_height)]
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        (draw.ellipse if rng.random() < 0.6 else draw.rectangle)(box, fill=color)
    picture = picture.filter(ImageFilter.GaussianBlur(1.2))
    texture = np.zeros((height, width, 1), dtype=np.float32)
    for cell_pixels, strength in ((1, 6.2), (2, 6.0), (5, 8.0), (16, 10.0)):
        shape = (-(-height // cell_pixels), -(-width // cell_pixels))
        noise = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
        texture[..., 0] += (
            texture_strength * strength * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
        )
    return np.clip(np.asarray(picture, dtype=np.float32) + texture, 0, 255).astype(np.uint8)


def jpeg_bytes(
    seed: int, width: int = 500, height: int = 375, quality: int = 87, *, addressable: bool = False
) -> bytes:
    """The same, encoded as JPEG; an addressable one decodes to the same pixels."""
    sink = io.BytesIO()
    restarts = {"restart_marker_blocks": 1} if addressable else {}
    Image.fromarray(photograph(seed, width, height)).save(sink, "JPEG", quality=quality, **restarts)
    return sink.getvalue()


def write_image_folder(
    folder: Path, num_images: int, num_classes: int, width: int = 500, height: int = 375, quality: int = 87
) -> list[Path]:
    """Writes FOLDER/class_0/0000.jpg and so on, image i in class i modulo num_classes. Returns the paths."""
    paths = []
    for number in range(num_images):
        path = folder / f"class_{number % num_classes}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg_bytes(number, width, height, quality))
        paths.append(path)
    return paths
