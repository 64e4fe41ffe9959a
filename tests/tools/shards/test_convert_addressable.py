"""``convert --addressable``."""

import json
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import addressable_jpeg, damaged_jpeg, encoded, needs_jpegtran, picture, pixels_of, several_pictures

from pipeline.jpeg.addressable import units_of
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import open_units
from tools.shards.__main__ import main
from tools.shards.convert import Settings, convert
from tools.shards.images import Encoding
from tools.shards.sources.table import open_source


def write_images(folder: Path, images: dict[str, bytes]) -> Path:
    for name, data in images.items():
        path = folder / f"class_{len(name) % 2}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def run(images: Path, out: Path, *options: object) -> int:
    arguments = ["convert", "--source", f"imagefolder:{images}", "--out", out, "--workers", 1, *options]
    return main([str(argument) for argument in arguments])


def files_of(folder: Path) -> dict[str, bytes]:
    """All files but the sample indexes, which record when their shards were written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".index"}


def images_of(index: ShardIndex) -> list[bytes]:
    with SampleReader(index) as reader:
        return [image.tobytes() for image in reader.read(np.arange(index.num_samples))]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing here needs jpegtran: addressable JPEGs, and TIFFs."""
    images = {f"{number}.jpg": addressable_jpeg(number) for number in range(8)}
    images |= {f"1{number}.tif": encoded(picture(number, 40, 40), "TIFF") for number in range(4)}
    return write_images(tmp_path_factory.mktemp("photographs"), images)


@needs_jpegtran
def test_every_image_arrives_with_its_pixels_and_every_reason_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, grey = encoded(picture(1)), encoded(picture(2, mode="L"), progressive=True)
    kept = [damaged_jpeg(), several_pictures(), encoded(picture(3, mode="CMYK")), encoded(picture(4), "PNG")]
    ready = addressable_jpeg(5)
    names = ["1.jpg", "22.jpg", "3.jpg", "44.jpg", "5.jpg", "66.png", "7.jpg"]
    images = write_images(tmp_path / "images", dict(zip(names, [plain, grey, *kept, ready], strict=True)))
    assert run(images, tmp_path / "out", "--addressable") == 0
    told = capsys.readouterr().out
    index = open_index(tmp_path / "out", "train")
    stored = images_of(index)
    assert set(stored) > {*kept, ready}
    assert {pixels_of(data).tobytes() for data in stored} == {
        pixels_of(data).tobytes() for data in (plain, grey, *kept, ready)
    }
    tally = json.loads((tmp_path / "out/dataset.json").read_text())["splits"]["train"]["addressable"]
    assert tally == {
        "num_addressable": 3,
        "not_addressable": {
            "it has neither one nor three colour components": 1,
            "it holds further pictures behind the first (MPO)": 1,
            "it is PNG, not JPEG": 1,
            "jpegtran finds it damaged": 1,
        },
        "num_transcoded": 2,
        "bytes_before": len(plain) + len(grey),
        "bytes_after": sum(len(data) for data in set(stored) - {*kept, ready}),
    }
    assert "addressable        3 of 7 images; 2 of them transcoded, 0.0 MB before and 0.0 MB after (" in told
    assert "not addressable    1: jpegtran finds it damaged" in told


def test_units_lie_beside_the_shards_and_only_where_they_were_asked_for(photographs: Path, tmp_path: Path) -> None:
    options = ("--format", "jpeg", "--quality", 90, "--shard-samples", 5)
    assert run(photographs, tmp_path / "plain", *options) == 0
    assert not list((tmp_path / "plain").glob("*.units"))
    assert run(photographs, tmp_path / "out", *options, "--addressable") == 0
    index = open_index(tmp_path / "out", "train")
    images, first = images_of(index), 0
    for shard in index.shards:
        units = open_units(tmp_path / "out", shard)
        assert units is not None
        for row in range(shard.num_samples):
            found = units_of(images[first + row])
            assert units.header_bytes[row] == found.header_bytes
            lengths = units.lengths[units.starts[row] : units.starts[row + 1]]
            np.testing.assert_array_equal(lengths, found.lengths.reshape(-1))
        first += shard.num_samples
    assert first == 12


def test_a_folder_converted_otherwise_is_refused_by_name(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--format", "jpeg", "--quality", 90)
    assert run(photographs, tmp_path / "plain", *options) == 0
    job = json.loads((tmp_path / "plain/dataset.json").read_text())["job"]
    assert "addressable" not in job  # a folder from before there was the choice is finished still
    assert run(photographs, tmp_path / "plain", *options) == 0
    assert run(photographs, tmp_path / "plain", *options, "--addressable") == 2
    assert "holds the shards of another conversion (addressable: None, now True)" in capsys.readouterr().err
    assert run(photographs, tmp_path / "out", *options, "--addressable") == 0
    assert run(photographs, tmp_path / "out", *options) == 2
    assert "another conversion (addressable: True, now None)" in capsys.readouterr().err


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stop_after", [3, 4, 11])
def test_an_interrupted_conversion_goes_on_and_gives_the_same_bytes(
    photographs: Path, tmp_path: Path, stop_after: int
) -> None:
    settings = Settings(shard_samples=4, encoding=Encoding("jpeg", 90, addressable=True))
    source = open_source(f"imagefolder:{photographs}", tmp_path)
    convert(source, "x", tmp_path / "whole", settings)
    seen = 0

    def stop(count: int) -> None:
        nonlocal seen
        seen += count
        if seen == stop_after:
            raise Killed

    with pytest.raises(Killed):
        convert(source, "x", tmp_path / "halves", settings, on_images=stop)
    convert(source, "x", tmp_path / "halves", settings)
    assert files_of(tmp_path / "halves") == files_of(tmp_path / "whole")


def test_one_that_is_interrupted_at_its_end_goes_on_there(photographs: Path, tmp_path: Path) -> None:
    settings = Settings(shard_samples=4, encoding=Encoding("jpeg", 90, addressable=True))
    source = open_source(f"imagefolder:{photographs}", tmp_path)
    convert(source, "x", tmp_path / "whole", settings)

    def stop(phase: str) -> None:
        assert phase == "writing the indexes"
        raise Killed

    with pytest.raises(Killed):
        convert(source, "x", tmp_path / "halves", settings, on_phase=stop)
    assert len(list((tmp_path / "halves").glob("*.units"))) == 3  # each is there as soon as its shard is
    convert(source, "x", tmp_path / "halves", settings)
    assert files_of(tmp_path / "halves") == files_of(tmp_path / "whole")


def test_a_missing_jpegtran_is_told_before_anything_is_written(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for options in ((), ("--resize", 20), ("--format", "jpeg")):
        assert run(photographs, tmp_path / "out", "--addressable", *options) == 2
        assert "apt-get install libjpeg-turbo-progs" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_where_all_images_are_encoded_anew_no_jpegtran_is_needed(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(photographs, tmp_path / "out", "--addressable", "--format", "jpeg", "--quality", 80) == 0
    tally = json.loads((tmp_path / "out/dataset.json").read_text())["splits"]["train"]["addressable"]
    assert (tally["num_addressable"], tally["num_transcoded"]) == (12, 0)


def test_a_jpegtran_that_vanishes_ends_the_conversion_and_rejects_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", {"1.jpg": encoded(picture())})
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tools.shards.convert.check_jpegtran", lambda: None)
    assert run(images, tmp_path / "out", "--addressable") == 2
    assert "the finished shards are kept, and the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "out/rejected.jsonl").exists()


def test_formats_that_cannot_be_addressable_are_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(photographs, tmp_path / "out", "--addressable", "--format", "webp") == 2
    assert "only JPEGs are addressable, but format is 'webp'; allowed are keep and jpeg" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_units_in_a_folder_that_no_conversion_made_are_left_alone(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train-000000.units").write_bytes(b"mine")
    assert run(photographs, tmp_path, "--format", "jpeg") == 2
    assert "holds train-000000.units and 0 more file(s)" in capsys.readouterr().err
