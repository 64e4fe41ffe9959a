from pathlib import Path

import pytest
from source_reading import put, read_all

from tools.shards.sources.table import open_source


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
