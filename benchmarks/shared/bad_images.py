"""Image files that are broken in every way the loader has to cope with."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.shared.photographs import jpeg_bytes, photograph
from benchmarks.shared.shard_files import write_tar
from pipeline.shards.index import ShardIndex, build_index

WIDTH, HEIGHT = 64, 48


def encoded(seed: int, format: str, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(photograph(seed, width, height)).save(sink, format)
    return sink.getvalue()


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of under 100 bytes that says it has billions of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    """A JPEG whose header was changed to say 60,000 x 60,000."""
    data = bytearray(jpeg_bytes(0, WIDTH, HEIGHT))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


# Images that an index takes, because their headers are sound, and that the decoder does not.
SOUND_OUTSIDE = {
    "a truncated JPEG": jpeg_bytes(1, WIDTH, HEIGHT)[:-100],
    "a truncated PNG": encoded(2, "PNG")[:-3000],
    "a GIF": encoded(3, "GIF"),
    "an AVIF": encoded(4, "AVIF"),
}
# What takes the place of an image after it was indexed; cut or filled up to the same length.
LATER_DAMAGE = {
    "zeros": bytes(4),
    "garbage": np.random.default_rng(0).integers(0, 256, 500, dtype=np.uint8).tobytes(),
    "a JPEG bomb": jpeg_bomb(),
    "a PNG bomb": png_bomb(),
    "an image of another size": encoded(5, "JPEG", 32, 24),
}


def write_photo_shards(
    folder: Path, replaced: dict[int, bytes] | None = None, num_samples: int = 48, *, addressable: bool = False
) -> ShardIndex:
    """Photographs of one size in three shards, image i with label i; some replaced by other bytes."""
    tars = []
    size = num_samples // 3
    for number in range(3):
        members = []
        for i in range(number * size, (number + 1) * size):
            image = (replaced or {}).get(i) or jpeg_bytes(i, WIDTH, HEIGHT, addressable=addressable)
            members += [(f"{i:05d}.jpg", image), (f"{i:05d}.cls", str(i).encode())]
        tars.append(write_tar(folder / f"train-{number:06d}.tar", members))
    return build_index(folder, "train", tars)


def overwrite(index: ShardIndex, sample_id: int, data: bytes) -> None:
    """Damage an image in its tar, in place."""
    length = int(index.length[sample_id])
    with open(index.folder / index.shards[index.shard[sample_id]].name, "r+b") as file:
        file.seek(int(index.offset[sample_id]))
        file.write(data[:length].ljust(length, b"\0"))
