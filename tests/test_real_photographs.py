"""Windows of large pictures as a data set, and where the pictures are looked for."""

import io
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import real_photographs
from benchmarks.real_photographs import FORMS, cut, draw_window, encode, region, write_real_photographs
from benchmarks.shared import wallpapers
from benchmarks.shared.photographs import photograph
from benchmarks.shared.wallpapers import Picture, find_photographs
from pipeline.jpeg.addressable import units_of
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader
from tools.shards import debian

WIDTH, HEIGHT = 1800, 1000
CROPS = FORMS["crops"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    """A PNG that has texture everywhere, and a JPEG that is flat in its lower half."""
    folder = tmp_path_factory.mktemp("pictures")
    half_flat = photograph(1, WIDTH, HEIGHT)
    half_flat[HEIGHT // 2 :] = 128
    Image.fromarray(photograph(0, WIDTH, HEIGHT)).save(folder / "textured.png")
    Image.fromarray(half_flat).save(folder / "half_flat.jpg", quality=95)
    return [
        Picture("package/textured", folder / "textured.png"),
        Picture("package/half_flat", folder / "half_flat.jpg"),
    ]


def images(shards: Path, split: str) -> list[tuple[bytes, int]]:
    index = open_index(shards, split)
    with SampleReader(index) as reader:
        files = [one.tobytes() for one in reader.read(np.arange(index.num_samples))]
    return list(zip(files, index.label.tolist(), strict=True))


def test_the_same_pictures_and_seed_give_the_same_shards(pictures: list[Picture], tmp_path: Path) -> None:
    for folder, seed, workers in (("one", 0, 1), ("again", 0, 2), ("other", 1, 1)):
        write_real_photographs(pictures, tmp_path / folder, 12, seed=seed, shard_samples=5, workers=workers)
    tars = {
        folder: [path.read_bytes() for path in sorted((tmp_path / folder).glob("*.tar"))] for folder in ("one", "again")
    }
    assert tars["one"] == tars["again"]
    assert len(tars["one"]) == 3 + 4  # of 12 and 20 images
    assert not {file for file, _ in images(tmp_path / "one", "train")} & {
        file for file, _ in images(tmp_path / "other", "train")
    }


def test_images_are_of_imagenets_size_and_classes_are_the_pictures(pictures: list[Picture], tmp_path: Path) -> None:
    summary = write_real_photographs(pictures, tmp_path / "shards", 24)
    assert "2 photographs, of which 2 are classes" in summary
    assert "train: 24 images" in summary
    assert "val: 20 images" in summary
    found = images(tmp_path / "shards", "train") + images(tmp_path / "shards", "val")
    assert {label for _, label in found} == {0, 1}
    opened = [Image.open(io.BytesIO(file)) for file, _ in found]
    assert {image.size for image in opened} == {(500, 375), (375, 500)}
    # Sampling factors of the luma and the two chroma planes: 4:2:0.
    assert {component[1:3] for image in opened for component in image.layer} == {(2, 2), (1, 1)}


def test_every_image_is_its_window_of_its_picture(pictures: list[Picture]) -> None:
    textured = pictures[0]
    with Image.open(textured.path) as picture:
        for split, files in cut(textured, {"train": 6, "val": 6}, seed=3).files.items():
            for number, file in files.items():
                window = draw_window(textured.name, split, number, 3, picture.size)
                assert window is not None
                left, top, right, bottom = window.box
                pixels = Image.fromarray(np.asarray(picture)[top:bottom, left:right])
                whole = encode(pixels, real_photographs.Window((0, 0, *pixels.size), window.size, window.quality))
                assert file == whole


def test_windows_for_training_and_for_validation_do_not_overlap() -> None:
    for size in ((WIDTH, HEIGHT), (1365, 1074), (2056, 3088), (1251, 503)):
        windows = {
            split: [draw_window("package/name", split, number, 0, size) for number in range(200)]
            for split in ("train", "val")
        }
        boxes = {split: np.array([one.box for one in found if one is not None]) for split, found in windows.items()}
        assert len(boxes["train"]) == len(boxes["val"]) == 200
        assert boxes["train"][:, 2].max() <= boxes["val"][:, 0].min()
        for split, found in boxes.items():
            left, top, right, bottom = region(split, *size)
            assert (found.min(0)[:2] >= (left, top)).all()
            assert (found.max(0)[2:] <= (right, bottom)).all()


def test_windows_are_of_several_scales_and_never_enlarged() -> None:
    windows = [draw_window("package/name", "train", number, 0, (6000, 4000)) for number in range(200)]
    scales = {round((one.box[2] - one.box[0]) / one.size[0], 2) for one in windows if one is not None}
    assert scales == {1, 1.5, 2, 3, 4}


def test_flat_windows_are_left_out(pictures: list[Picture]) -> None:
    found = cut(pictures[1], {"train": 40, "val": 40}, seed=0)
    assert found.unusable is None
    kept = [(split, number, file) for split, files in found.files.items() for number, file in files.items()]
    assert min(len(file) for _, _, file in kept) >= FORMS["imagenet"].min_bytes
    assert found.flat > 10
    assert len(kept) + found.flat == 80
    for split, number, _ in kept:
        window = draw_window(pictures[1].name, split, number, 0, (WIDTH, HEIGHT))
        assert window is not None
        assert window.box[1] < HEIGHT // 2  # none is of the flat half alone


def test_pictures_of_no_use_are_named(pictures: list[Picture], tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), "navy").save(tmp_path / "flat.png")
    Image.fromarray(photograph(2, 800, 600)).save(tmp_path / "small.png")
    (tmp_path / "drawing.svg").write_text("<svg/>")
    bad = [Picture(f"package/{name}", tmp_path / name) for name in ("flat.png", "small.png", "drawing.svg")]
    good = [pictures[0], Picture("package/again", pictures[0].path)]
    summary = write_real_photographs([*bad, *good], tmp_path / "shards", 12)
    assert "5 photographs, of which 2 are classes" in summary
    assert "left out: package/flat.png, because all windows of its part for train are flat" in summary
    assert "left out: package/small.png, because its 800 x 600 pixels are too few" in summary
    assert "left out: package/drawing.svg, because it cannot be read" in summary
    assert {label for _, label in images(tmp_path / "shards", "train")} == {0, 1}


def test_more_images_than_there_are_windows_are_an_error(pictures: list[Picture], tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "flat.png")
    flat = [Picture(f"package/{number}", tmp_path / "flat.png") for number in range(9)]
    with pytest.raises(ValueError, match="40 images asked for train, but only"):
        write_real_photographs([pictures[1], *flat], tmp_path / "shards", 40)


@pytest.fixture
def two_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that stands for the machine's root; two packages hold photographs."""
    monkeypatch.setattr(wallpapers, "MACHINE", tmp_path / "machine")
    monkeypatch.setattr(wallpapers, "PHOTOGRAPHS", {"first": ("share/{}.jpg", ["a", "b"]), "second": ("{}.jpg", ["c"])})
    return tmp_path / "machine"


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_photographs_are_looked_for_on_the_machine_before_they_are_fetched(
    two_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    @contextmanager
    def fetch(name: str, cache: Path):  # type: ignore[no-untyped-def]
        fetched.append(name)
        put(cache / "unpacked" / "c.jpg")
        yield cache / "unpacked"

    monkeypatch.setattr(wallpapers, "unpacked_package", fetch)
    put(two_packages / "share" / "b.jpg")  # and no "a", which another version of the package does without
    first = find_photographs(tmp_path / "cache")
    assert [picture.name for picture in first] == ["first/b", "second/c"]
    assert first[0].path == two_packages / "share" / "b.jpg"
    assert first[1].path == tmp_path / "cache" / "second" / "c.jpg"
    assert find_photographs(tmp_path / "cache") == first
    assert fetched == ["second"]


def test_a_package_that_cannot_be_had_is_named_with_what_to_do(
    two_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError) as caught:
        find_photographs(tmp_path / "cache")
    message = str(caught.value)
    assert "first: its pictures are neither on this machine" in message
    assert "this machine has no apt-get and dpkg-deb" in message
    assert "apt-get install first" in message


def test_crops_are_small_squares_whose_units_can_be_reached_alone(pictures: list[Picture], tmp_path: Path) -> None:
    write_real_photographs(pictures, tmp_path / "shards", 24, form=CROPS)
    found = images(tmp_path / "shards", "train") + images(tmp_path / "shards", "val")
    assert len(found) == 24 + 20
    for file, _ in found:
        units = units_of(file)
        assert (units.height, units.width) == (160, 160)
        assert units.lengths.shape == (10, 10)
        assert len(file) >= CROPS.min_bytes


def test_an_addressable_crop_has_the_pixels_of_a_plain_one(pictures: list[Picture]) -> None:
    plain = replace(CROPS, encoder={})
    crops, plain_crops = (cut(pictures[0], {"train": 6, "val": 2}, 0, form).files["train"] for form in (CROPS, plain))
    assert crops.keys() == plain_crops.keys()
    for number, file in crops.items():
        one, other = (np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in (file, plain_crops[number]))
        assert np.array_equal(one, other)


def test_crops_for_training_and_for_validation_do_not_overlap() -> None:
    size = (1365, 1074)
    windows = {
        split: [draw_window("package/name", split, number, 0, size, CROPS) for number in range(200)]
        for split in ("train", "val")
    }
    boxes = {split: np.array([one.box for one in found if one is not None]) for split, found in windows.items()}
    assert len(boxes["train"]) == len(boxes["val"]) == 200
    assert boxes["train"][:, 2].max() <= boxes["val"][:, 0].min()
