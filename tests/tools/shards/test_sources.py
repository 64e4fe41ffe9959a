import gzip
import io
import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision
from PIL import Image

from benchmarks.shared.shard_files import image_bytes
from tools.shards import fashion_mnist
from tools.shards.fashion_mnist import FILES, find_fashion_mnist, read_fashion_mnist
from tools.shards.images import Encoding, prepare
from tools.shards.sources import open_source


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def read_all(spec: str, root: Path, split: str = "train") -> list[tuple[str, Any, int]]:
    content = pickle.loads(pickle.dumps(open_source(spec, root).splits[split]))  # as a worker process gets it
    return [(name, *content.read(position)) for position, name in enumerate(content.names)]


def test_unknown_sources_are_told_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown source 'folder:x'; allowed are fashion-mnist"):
        open_source("folder:x", tmp_path)
    with pytest.raises(ValueError, match="'csv' needs a place after a colon"):
        open_source("csv", tmp_path)


def test_an_image_folder_has_its_classes_in_name_order(tmp_path: Path) -> None:
    for name in ("dog/2.jpg", "dog/1.jpg", "cat/deep/er/a.jpg", "cat/.hidden.jpg", ".git/x.jpg"):
        put(tmp_path / name, name.encode())
    assert open_source(f"imagefolder:{tmp_path}", tmp_path).classes == ["cat", "dog"]
    assert read_all(f"imagefolder:{tmp_path}", tmp_path) == [
        ("cat/deep/er/a.jpg", b"cat/deep/er/a.jpg", 0),
        ("dog/1.jpg", b"dog/1.jpg", 1),
        ("dog/2.jpg", b"dog/2.jpg", 1),
    ]


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "val"], ["train", "val"]),
        (["train", "validation"], ["train", "val"]),
        (["train", "test"], ["train", "val"]),
        (["train", "valid", "test"], ["train", "test", "val"]),
        (["val", "test"], ["train"]),
    ],
)
def test_split_folders_become_splits(tmp_path: Path, folders: list[str], splits: list[str]) -> None:
    for folder in folders:
        put(tmp_path / folder / "a" / f"{folder}.png", b"x")
    assert sorted(open_source(f"imagefolder:{tmp_path}", tmp_path).splits) == sorted(splits)


def test_image_folders_that_would_lose_images_are_refused(tmp_path: Path) -> None:
    def refused(name: str, files: list[str], message: str) -> None:
        (tmp_path / name).mkdir()
        for file in files:
            put(tmp_path / name / file, b"x")
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_source(f"imagefolder:{tmp_path / name}", tmp_path)

    refused("empty", [], "holds no class folders")
    refused("hollow", ["a/.x"], "no images in split 'train'")
    refused("stray", ["a/1.jpg", "lost.JPG"], "1 image.* outside of the class folders, such as lost.JPG")
    refused("unknown", ["train/a/1.jpg", "val/b/1.jpg"], "class folders that train does not have: b")
    refused("mixed", ["train/a/1.jpg", "val/a/1.jpg", "more/a/1.jpg"], "but also more")
    refused("twice", ["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], "two of these name the same split")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_source(f"imagefolder:{tmp_path / 'nowhere'}", tmp_path)


def test_csv_labels_are_numbers_or_names(tmp_path: Path) -> None:
    put(tmp_path / "images/a.png", b"a")
    put(tmp_path / "images/b c.png", b"b")
    numbers = put(tmp_path / "n.csv", b"\xef\xbb\xbfpath,label,more\nimages/a.png,2,x\nimages/b c.png,0,y\n")
    assert open_source(f"csv:{numbers}", tmp_path).classes == ["0", "1", "2"]
    assert [row[1:] for row in read_all(f"csv:{numbers}", tmp_path)] == [(b"a", 2), (b"b", 0)]
    names = put(tmp_path / "w.csv", b'path,label\nimages/a.png,zebra\n"images/b c.png",ant\n')
    assert open_source(f"csv:{names}", tmp_path).classes == ["ant", "zebra"]
    assert [row[2] for row in read_all(f"csv:{names}", tmp_path)] == [1, 0]
    other = put(tmp_path / "o.csv", b"path,label\nimages/a.png,1\nimages/b c.png,0\n")
    assert open_source(f"csv:{other}", tmp_path).fingerprint != open_source(f"csv:{numbers}", tmp_path).fingerprint


def test_faulty_csv_files_are_named(tmp_path: Path) -> None:
    for content, message in (
        (b"file,class\na,1\n", "needs the columns path and label"),
        (b"path,label\na.png,1\nb.png\n", "line 3: path or label is empty"),
        (b"path,label\n", "no images in split 'train'"),
        (b"", "needs the columns path and label"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(f"csv:{put(tmp_path / 'x.csv', content)}", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_source(f"csv:{tmp_path / 'nowhere.csv'}", tmp_path)


def write_parquet(path: Path, images: list[bytes], labels: list[int], names: list[str] | None, plain: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    column = pa.array(images if plain else [{"bytes": image, "path": None} for image in images])
    table = pa.table({"image": column, "label": pa.array(labels, pa.int64()), "extra": labels})
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path, row_group_size=3)


@pytest.mark.parametrize("plain", [False, True])
def test_parquet_files_of_the_hugging_face_layout_are_read(tmp_path: Path, plain: bool) -> None:
    names = ["cat", "dog"]
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", [b"a", b"b", b"c", b"d"], [0, 1, 1, 0], names, plain)
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", [b"e"], [1], names, plain)
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", [b"f"], [0], names, plain)
    source = open_source(f"parquet:{tmp_path}", tmp_path)
    assert source.classes == names
    assert source.splits["train"].blocks == [0, 0, 0, 1, 2]
    rows = read_all(f"parquet:{tmp_path}", tmp_path)
    assert [row[1:] for row in rows] == [(b"a", 0), (b"b", 1), (b"c", 1), (b"d", 0), (b"e", 1)]
    assert [row[0] for row in rows][3:] == [
        "data/train-00000-of-00002.parquet:3",
        "data/train-00001-of-00002.parquet:0",
    ]
    assert read_all(f"parquet:{tmp_path}", tmp_path, "val") == [("data/validation-00000-of-00001.parquet:0", b"f", 0)]


def test_parquet_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.parquet file"):
        open_source(f"parquet:{tmp_path}", tmp_path)
    path = tmp_path / "train.parquet"
    for table, message in (
        (pa.table({"img": [b"x"], "label": [1]}), r"needs a column `image` .* holds img \(binary\)"),
        (pa.table({"image": ["x"], "label": [1]}), "needs a column `image`"),
        (pa.table({"image": [b"x"], "label": ["cat"]}), r"`label` of integers; it holds .*label \(string\)"),
        (pa.table({"image": [b"x"], "label": [-1]}), "holds label -1; move this file away"),
    ):
        pq.write_table(table, path)
        with pytest.raises(ValueError, match=message):
            open_source(f"parquet:{tmp_path}", tmp_path)


class InMemory:
    """A data set as torchvision's are: made with root, train and download."""

    classes = ("up", ["down", "below"])

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        assert download
        assert root
        self.count = 3 if train else 2

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        return Image.new("L", (4, 4), position), position % 2


def test_torchvision_data_sets_are_read_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "InMemory", InMemory, raising=False)
    source = open_source("torchvision:InMemory", tmp_path)
    assert source.classes == ["up", "down, below"]
    assert {split: len(content.names) for split, content in source.splits.items()} == {"train": 3, "val": 2}
    image, label = source.splits["train"].read(1)
    assert isinstance(image, Image.Image)
    assert (image.getpixel((0, 0)), label) == (1, 1)
    with pytest.raises(ValueError, match=r"torchvision\.datasets has no 'Nothing'"):
        open_source("torchvision:Nothing", tmp_path)


def test_torchvision_data_sets_of_files_give_the_files_bytes(tmp_path: Path) -> None:
    data = image_bytes(3, format="JPEG")
    put(tmp_path / "a/1.jpg", data)
    source = open_source("torchvision:ImageFolder", tmp_path)
    assert source.splits["train"].read(0) == (data, 0)


def idx_file(magic: int, values: np.ndarray) -> bytes:
    header = np.array([magic, *values.shape], dtype=">u4").tobytes()
    return gzip.compress(header + values.astype(np.uint8).tobytes(), compresslevel=1)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Writes a Fashion-MNIST of 5 and 3 images, and lets nothing on this machine stand in for it."""
    small = {split: (*names[:2], count) for (split, names), count in zip(FILES.items(), (5, 3), strict=True)}
    monkeypatch.setattr(fashion_mnist, "FILES", small)
    monkeypatch.setattr("tools.shards.sources.FILES", small)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", Path("/nowhere"))

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
    stored, extension = prepare(rows[1][1], Encoding())
    assert extension == "png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(stored))), read_fashion_mnist(folder, "val")[0][1])


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

    monkeypatch.setattr(fashion_mnist, "_fetch_with_apt", fetch("apt"))
    monkeypatch.setattr(fashion_mnist, "_fetch_with_torchvision", fetch("torchvision"))
    first = find_fashion_mnist(None, tmp_path)
    assert fetched == ["apt", "torchvision"]
    assert find_fashion_mnist(None, tmp_path) == first
    assert fetched == ["apt", "torchvision"]
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", small_files(tmp_path / "debian"))
    assert find_fashion_mnist(None, tmp_path / "elsewhere") == tmp_path / "debian"


def test_when_nothing_serves_the_error_says_what_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(cache: Path) -> Path:
        raise RuntimeError("Error downloading\nno route to host")

    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist.shutil, "which", lambda name: None)
    monkeypatch.setattr(fashion_mnist, "_fetch_with_torchvision", no_network)
    with pytest.raises(FileNotFoundError) as caught:
        find_fashion_mnist(None, tmp_path / "cache")
    message = str(caught.value)
    assert f"{tmp_path / 'debian'}: no such folder" in message
    assert "apt-get download: this machine has no apt-get" in message
    assert "torchvision: no route to host" in message
    assert "--source fashion-mnist:FOLDER" in message
