import gzip
import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_reading import read_all

from tools.shards import fashion_mnist_files
from tools.shards.fashion_mnist_files import FILES, find_fashion_mnist, read_fashion_mnist
from tools.shards.images import Encoding, prepare


def idx_file(magic: int, values: np.ndarray) -> bytes:
    header = np.array([magic, *values.shape], dtype=">u4").tobytes()
    return gzip.compress(header + values.astype(np.uint8).tobytes(), compresslevel=1)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Writes a Fashion-MNIST of 5 and 3 images, and lets nothing on this machine stand in for it."""
    small = {split: (*names[:2], count) for (split, names), count in zip(FILES.items(), (5, 3), strict=True)}
    monkeypatch.setattr(fashion_mnist_files, "FILES", small)
    monkeypatch.setattr("tools.shards.sources.fashion_mnist.FILES", small)
    monkeypatch.setattr(fashion_mnist_files, "DEBIAN_FOLDER", Path("/nowhere"))

    def write(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for images, labels, count in small.values():
            pixels = np.arange(count * 784).reshape(count, 28, 28) % 256
            (folder / images).write_bytes(idx_file(0x803, pixels))
            (folder / labels).write_bytes(idx_file(0x801, np.arange(count)))
        return folder

    return write


def test_fashion_mnist_is_read_from_a_folder(tmp_path: Path, small_files: Callable[[Path], Path]) -> None:
    folder = small_files(tmp_path / "here")
    images, labels = read_fashion_mnist(folder, "train")
    assert images.shape == (5, 28, 28)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    rows = read_all(f"fashion-mnist:{folder}", tmp_path, "val")
    assert [label for _, _, label in rows] == [0, 1, 2]
    stored = prepare(rows[1][1], Encoding())
    assert stored.extension == "png"
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(stored.data))), read_fashion_mnist(folder, "val")[0][1]
    )


def test_damaged_fashion_mnist_files_are_named(tmp_path: Path, small_files: Callable[[Path], Path]) -> None:
    folder = small_files(tmp_path)
    labels = folder / FILES["train"][1]
    for content, message in (
        (labels.read_bytes()[:20], "cannot be read"),
        (idx_file(0x802, np.arange(5)), "begins with"),
        (idx_file(0x801, np.arange(4)), "begins with"),
        (gzip.compress(gzip.decompress(labels.read_bytes())[:-1]), "holds 4 values"),
        (idx_file(0x801, np.full(5, 10)), "holds label 10; there are 10 classes"),
    ):
        labels.write_bytes(content)
        with pytest.raises(ValueError, match=rf"train-labels-idx1-ubyte\.gz: {message}"):
            read_fashion_mnist(folder, "train")


def test_a_named_folder_without_the_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="it lacks train-images"):
        find_fashion_mnist(tmp_path, tmp_path)


def test_fashion_mnist_is_looked_for_on_the_machine_before_it_is_fetched(
    tmp_path: Path, small_files: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(name: str) -> Callable[[Path], Path]:
        def one(cache: Path) -> Path:
            fetched.append(name)
            if name == "apt":
                raise subprocess.CalledProcessError(100, ["apt-get"], stderr="W: x\nE: Unable to locate package\n")
            return small_files(cache / "FashionMNIST" / "raw")

        return one

    monkeypatch.setattr(fashion_mnist_files, "_fetch_with_apt", fetch("apt"))
    monkeypatch.setattr(fashion_mnist_files, "_fetch_with_torchvision", fetch("torchvision"))
    first = find_fashion_mnist(None, tmp_path)
    assert fetched == ["apt", "torchvision"]
    assert find_fashion_mnist(None, tmp_path) == first
    assert fetched == ["apt", "torchvision"]
    monkeypatch.setattr(fashion_mnist_files, "DEBIAN_FOLDER", small_files(tmp_path / "debian"))
    assert find_fashion_mnist(None, tmp_path / "elsewhere") == tmp_path / "debian"


def test_when_nothing_serves_the_error_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(cache: Path) -> Path:
        raise RuntimeError("Error downloading\nno route to host")

    monkeypatch.setattr(fashion_mnist_files, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist_files.shutil, "which", lambda name: None)
    monkeypatch.setattr(fashion_mnist_files, "_fetch_with_torchvision", no_network)
    with pytest.raises(FileNotFoundError) as caught:
        find_fashion_mnist(None, tmp_path / "cache")
    message = str(caught.value)
    assert f"{tmp_path / 'debian'}: no such folder" in message
    assert "apt-get download: this machine has no apt-get" in message
    assert "torchvision: no route to host" in message
    assert "--source fashion-mnist:FOLDER" in message
