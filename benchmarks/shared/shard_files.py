"""Small tars for tests, written with the standard library so that nothing under test had a hand in them."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def image_bytes(seed: int, width: int = 12, height: int = 8, format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format)
    return sink.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def write_shard(path: Path, labels: list[int], first: int = 0) -> Path:
    """Sample i has key ``sample0000i``, an image of (12 + i) x 8 pixels seeded by i, and the i-th label."""
    members = []
    for number, label in enumerate(labels, first):
        members.append((f"sample{number:05d}.png", image_bytes(number, 12 + number)))
        members.append((f"sample{number:05d}.cls", str(label).encode()))
    return write_tar(path, members)
