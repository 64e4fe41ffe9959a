from pathlib import Path

import pytest
import torchvision
from PIL import Image
from source_reading import put

from benchmarks.shared.shard_files import image_bytes
from tools.shards.sources.table import open_source


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
