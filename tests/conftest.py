"""Shard folders that many tests read. No test may change them."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.shared.photographs import photograph
from benchmarks.shared.shard_files import write_tar
from benchmarks.shared.stores import Line, s3_at, s3_server, web_server
from pipeline.shards.index import build_index


def pytest_configure(config: pytest.Config) -> None:
    """Tests are for the CPU, also on a machine with a GPU, and so is what they start: only ``-m gpu`` shows it."""
    chosen = config.option.markexpr
    if "gpu" not in chosen or "not gpu" in chosen:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


@pytest.fixture(autouse=True)
def _process_is_left_as_found() -> Iterator[None]:
    """What a program sets that is tried in this process is not the next test's: its rank, its cores, its threads."""
    found, cores, threads = dict(os.environ), os.sched_getaffinity(0), torch.get_num_threads()
    yield
    if os.sched_getaffinity(0) != cores:
        os.sched_setaffinity(0, cores)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    for name in os.environ.keys() - found.keys():  # one by one, for other threads may be reading
        del os.environ[name]
    os.environ |= {name: value for name, value in found.items() if os.environ.get(name) != value}


# (width, height): landscape, portrait, odd, square, smaller than 64 pixels, long and thin.
PHOTO_SIZES = [(120, 90), (90, 120), (97, 65), (67, 101), (64, 64), (128, 128), (40, 33), (200, 50)]
# Extension, format and mode that photographs are stored in, in turn.
PHOTO_KINDS = [("jpg", "JPEG", "RGB"), ("png", "PNG", "RGB"), ("webp", "WEBP", "RGB"), ("jpeg", "JPEG", "L")]


def _encoded(image: Image.Image, format: str) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format)
    return sink.getvalue()


def _photos(first: int, count: int) -> list[tuple[str, bytes]]:
    members = []
    for number in range(first, first + count):
        extension, format, mode = PHOTO_KINDS[number // len(PHOTO_SIZES) % len(PHOTO_KINDS)]
        image = Image.fromarray(photograph(number, *PHOTO_SIZES[number % len(PHOTO_SIZES)])).convert(mode)
        members.append((f"{number:05d}.{extension}", _encoded(image, format)))
        members.append((f"{number:05d}.cls", str(number % 5).encode()))
    return members


def _garments(first: int, count: int) -> list[tuple[str, bytes]]:
    """Grayscale, 28 x 28, a textured box on black: many patches of such an image have the same score."""
    members = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        pixels = np.zeros((28, 28), dtype=np.uint8)
        top, left = rng.integers(2, 9, 2)
        pixels[top : top + 14, left : left + 11] = rng.integers(40, 256, (14, 11))
        members.append((f"{number:05d}.png", _encoded(Image.fromarray(pixels), "PNG")))
        members.append((f"{number:05d}.cls", str(number % 10).encode()))
    return members


@pytest.fixture(scope="session")
def photo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in 5 classes, of all PHOTO_SIZES and PHOTO_KINDS: 32 train in two shards, 11 val in one."""
    folder = tmp_path_factory.mktemp("photos")
    train = [write_tar(folder / f"train-{i:06d}.tar", _photos(16 * i, 16)) for i in range(2)]
    val = [write_tar(folder / "val-000000.tar", _photos(32, 11))]
    build_index(folder, "train", train)
    build_index(folder, "val", val)
    return folder


@pytest.fixture(scope="session")
def garment_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images like Fashion-MNIST's in 10 classes: 96 train in three shards, 20 val in one."""
    folder = tmp_path_factory.mktemp("garments")
    train = [write_tar(folder / f"train-{i:06d}.tar", _garments(32 * i, 32)) for i in range(3)]
    val = [write_tar(folder / "val-000000.tar", _garments(96, 20))]
    build_index(folder, "train", train)
    build_index(folder, "val", val)
    return folder


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """An S3 server of this session's."""
    pytest.importorskip("moto.server", reason="the S3 server of the group dev is not installed")
    pytest.importorskip("s3fs", reason="the group storage is not installed")
    with s3_server() as url:
        yield url


@pytest.fixture
def s3_line(s3_url: str) -> Iterator[Line]:
    """A line to it, over which this process speaks S3."""
    line = Line(s3_url)
    with s3_at(line.url):
        yield line
    line.close()


@pytest.fixture(scope="session")
def web(garment_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A web server over ``garment_shards``: its URL, and the one under which it knows no ranges."""
    pytest.importorskip("aiohttp", reason="the group storage is not installed")
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    with web_server(garment_shards, tmp_path_factory.mktemp("nginx")) as urls:
        yield urls
