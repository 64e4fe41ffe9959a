from pathlib import Path

import pytest
from source_reading import put, read_all

from tools.shards.sources.source import Source, SourceOptions
from tools.shards.sources.split_map import SplitMap
from tools.shards.sources.table import open_source


def mapped(folder: Path, split_map: str) -> Source:
    return open_source(f"imagefolder:{folder}", folder, SourceOptions(SplitMap.parse(split_map)))


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
        (["train", "dev"], ["train", "val"]),
        (["Training", "Testing"], ["train", "val"]),
        (["TRAIN_2017", "val2017", "eval"], ["train", "val", "test"]),
        (["val", "test"], ["val", "test"]),
        (["validation"], ["val"]),
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
    refused("one", ["train/a/1.jpg", "holdout/a/1.jpg"], "but also holdout; .*--split-map 'NAME=SPLIT'")
    refused("alike", ["trainset/a/1.jpg", "testset/a/1.jpg"], "also testset, trainset; .*--split-map")
    refused("flat", ["train/1.jpg", "test/1.jpg"], "holds no class folders; .*--split-map '.=train'")
    refused("unlabelled", ["train/a/1.jpg", "test/1.jpg"], "test: is called like a split, but holds no class folders")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_source(f"imagefolder:{tmp_path / 'nowhere'}", tmp_path)


def test_a_split_map_says_what_folders_are(tmp_path: Path) -> None:
    for name in ("part-1/a/1.jpg", "part-2/a/2.jpg", "holdout/b/3.jpg", "part-1/b/4.jpg"):
        put(tmp_path / name, b"x")
    assert open_source(f"imagefolder:{tmp_path / 'part-1'}", tmp_path).classes == ["a", "b"]
    source = mapped(tmp_path, "holdout=test,part-*=train")
    assert source.classes == ["a", "b"]
    assert {split: content.names for split, content in source.splits.items()} == {
        "train": ["part-1/a/1.jpg", "part-1/b/4.jpg", "part-2/a/2.jpg"],
        "test": ["holdout/b/3.jpg"],
    }
    assert [source.splits["test"].read(0)[1], source.splits["train"].read(2)[1]] == [1, 0]
    with pytest.raises(ValueError, match=r"nothing in .* is called hold-out$"):
        mapped(tmp_path, "hold-out=test,part-*=train,holdout=val")


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    for name in ("bus", "train", "contest"):  # CIFAR-100 has the class train
        put(tmp_path / "some" / name / "1.jpg", b"x")
        put(tmp_path / "alone" / "train" / "1.jpg", b"x")
    assert open_source(f"imagefolder:{tmp_path / 'some'}", tmp_path).classes == ["bus", "contest", "train"]
    assert mapped(tmp_path / "alone", ".=train").classes == ["train"]


def test_what_is_no_image_and_no_class_is_passed_over_and_counted(tmp_path: Path) -> None:
    for name in ("train/b/1.jpg", "train/c/2.jpg", "val/c/3.jpg", "val/d/4.jpg"):
        put(tmp_path / name, b"x")
    for name in ("__MACOSX/a/._1.jpg", ".git/x", "train/.DS_Store", "train/b/Thumbs.db", "val/c/desktop.ini"):
        put(tmp_path / name, b"x")
    for name in ("train/b/.ipynb_checkpoints/1.jpg", "train/b/._1.jpg", "train/b/deep/@eaDir/1.jpg"):
        put(tmp_path / name, b"x")
    for name in ("train/a", "train/d", "val/e"):
        (tmp_path / name).mkdir()
    source = open_source(f"imagefolder:{tmp_path}", tmp_path)
    assert source.classes == ["b", "c", "d"]  # d has images to be validated on, so it is a class
    assert source.splits["train"].names == ["train/b/1.jpg", "train/c/2.jpg"]
    assert source.splits["val"].names == ["val/c/3.jpg", "val/d/4.jpg"]
    assert source.splits["val"].read(1)[1] == 2
    assert source.passed_over == {
        "__MACOSX": 1,
        "hidden": 4,
        "Thumbs.db": 1,
        "desktop.ini": 1,
        "@eaDir": 1,
        "empty class folder": 2,
    }
