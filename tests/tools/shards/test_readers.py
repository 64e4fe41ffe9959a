"""Shards with addressable JPEGs are ordinary ones for whoever reads them."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import webdataset
from jpeg_files import addressable_jpeg, encoded, needs_jpegtran, picture, pixels_of, profiled_jpeg
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.shared.shard_files import write_tar
from tools.shards.readdress import readdress

Pixels = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One shard as it was, and as it is readdressed."""
    folder = tmp_path_factory.mktemp("readers")
    images = [
        encoded(picture(0, 97, 65)),
        encoded(picture(1, 64, 48), subsampling=0),
        encoded(picture(2, 50, 70, "L")),
        encoded(picture(3, 67, 101), progressive=True),
        profiled_jpeg(),
        addressable_jpeg(4),
    ]
    numbered = list(enumerate(images))
    members = [part for i, image in numbered for part in ((f"{i:04d}.jpg", image), (f"{i:04d}.cls", b"%d" % i))]
    before = write_tar(folder / "before/train-0.tar", members)
    readdress(before.parent, folder / "after")
    return before, folder / "after/train-0.tar"


def _files(tar: Path) -> list[bytes]:
    with tarfile.open(tar) as opened:
        return [opened.extractfile(one).read() for one in opened if one.name.endswith("jpg")]  # type: ignore[union-attr]


def by_pillow(tar: Path) -> Pixels:
    return [pixels_of(data) for data in _files(tar)]


def by_torchvision(tar: Path) -> Pixels:
    files = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in _files(tar)]
    return [decode_jpeg(file, ImageReadMode.RGB).numpy() for file in files]


def by_webdataset(tar: Path) -> Pixels:
    samples = webdataset.WebDataset(str(tar), shardshuffle=False).decode("rgb8").to_tuple("jpg", "cls")
    found = list(samples)
    assert [label for _, label in found] == list(range(len(found)))
    return [image for image, _ in found]


def by_dali(tar: Path) -> Pixels:
    """DALI's own reader of webdataset's shards, and its decoder."""
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read() -> tuple:
        index = [str(tar.with_suffix(".idx"))] if tar.with_suffix(".idx").exists() else []
        options = {"index_paths": index} if index else {}
        files, labels = fn.readers.webdataset(paths=[str(tar)], ext=["jpg", "cls"], **options)
        return fn.decoders.image(files, device="cpu"), labels

    pipe = read()
    pipe.build()
    found = []
    for number in range(len(_files(tar))):
        image, label = (np.asarray(output.as_array())[0] for output in pipe.run())
        assert int(label.tobytes()) == number
        found.append(image)
    return found


@needs_jpegtran
@pytest.mark.parametrize("read", [by_pillow, by_torchvision, by_webdataset, by_dali])
def test_every_reader_finds_the_same_pixels_in_both(shards: tuple[Path, Path], read: Callable[[Path], Pixels]) -> None:
    before, after = shards
    files = zip(_files(before), _files(after), strict=True)
    assert [old == new for old, new in files] == [False] * 5 + [True]
    pixels = read(before)
    assert len(pixels) == 6
    for old, new in zip(pixels, read(after), strict=True):
        np.testing.assert_array_equal(new, old)
