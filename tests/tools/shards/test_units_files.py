"""``units``, and what ``index``, ``verify`` and ``stats`` make of the files that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import addressable_jpeg, encoded, picture

from benchmarks.shared.shard_files import write_tar
from pipeline.jpeg.addressable import units_of
from pipeline.shards.index import open_index
from pipeline.shards.units import open_units, units_path, write_units
from tools.shards.__main__ import main
from tools.shards.verify import verify_folder


def write_photographs(path: Path, first: int) -> Path:
    """Two addressable JPEGs, and one that is not between them."""
    images = [addressable_jpeg(first), encoded(picture(first + 1)), addressable_jpeg(first + 2, 33, 70)]
    members = [(f"{number:05d}", image) for number, image in enumerate(images, first)]
    return write_tar(path, [part for key, image in members for part in ((f"{key}.jpg", image), (f"{key}.cls", b"1"))])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards of somebody else: two of train, one of val."""
    for name, first in (("train-0.tar", 0), ("train-1.tar", 3), ("val-0.tar", 6)):
        write_photographs(tmp_path / name, first)
    assert main(["index", str(tmp_path)]) == 0
    return tmp_path


def test_units_writes_a_file_beside_every_shard_and_writes_it_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not list(folder.glob("*.units"))  # indexing alone stays cheap
    assert main(["units", str(folder), "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "train: 4 of 6 images are addressable",
        "val: 2 of 3 images are addressable",
    ]
    before = {path.name: path.read_bytes() for path in folder.glob("*.units")}
    assert len(before) == 3
    shard = open_index(folder, "train").shards[1]
    units = open_units(folder, shard)
    assert units is not None
    assert (units.header_bytes > 0).tolist() == [True, False, True]
    np.testing.assert_array_equal(
        units.lengths[units.starts[2] :], units_of(addressable_jpeg(5, 33, 70)).lengths.ravel()
    )
    (folder / "train-1.units").write_bytes(b"damaged")
    assert main(["units", str(folder), "--json", "--workers", "2"]) == 0
    told = json.loads(capsys.readouterr().out)["splits"]
    assert told["train"] == {"num_samples": 6, "num_addressable": 4}
    assert {path.name: path.read_bytes() for path in folder.glob("*.units")} == before


def test_units_of_shards_that_were_changed_are_not_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train-1.tar").write_bytes((folder / "train-0.tar").read_bytes()[:-512])
    assert main(["units", str(folder)]) == 2
    assert "python -m tools.shards index" in capsys.readouterr().err
    assert main(["units", str(folder / "nowhere")]) == 2
    assert main(["units", str(folder), "--workers", "0"]) == 2
    assert "workers 0; allowed is 1 or more" in capsys.readouterr().err


def test_indexing_anew_removes_units_of_other_shards_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["units", str(folder), "--workers", "1"]) == 0
    assert main(["index", str(folder)]) == 0
    assert len(list(folder.glob("*.units"))) == 3
    write_photographs(folder / "train-1.tar", 100)
    units_path(folder / "val-0.tar").write_bytes(b"damaged")
    capsys.readouterr()
    assert main(["index", str(folder)]) == 0
    assert "removed train-1.units and 1 more, made for other shards than these" in capsys.readouterr().err
    assert [path.name for path in folder.glob("*.units")] == ["train-0.units"]


def test_verify_names_what_is_wrong_in_a_file_of_units(folder: Path) -> None:
    assert main(["units", str(folder), "--workers", "1"]) == 0
    assert verify_folder(folder).faults == []
    train, val = open_index(folder, "train"), open_index(folder, "val")
    first = [units_of(addressable_jpeg(0)), None, units_of(addressable_jpeg(2, 33, 70))]
    first[2].lengths[0, 0] += 1  # type: ignore[union-attr]
    write_units(folder / "train-0.tar", train.shards[0].digest, first)
    write_units(folder / "train-1.tar", train.shards[1].digest, [None, units_of(addressable_jpeg(4)), None])
    write_units(folder / "val-0.tar", train.shards[0].digest, first)
    faults = [str(fault) for fault in verify_folder(folder).faults]
    assert faults[:4] == [
        "train-0.units: '00002': the image's units do not lie where this file says",
        "train-1.units: '00003': the image is addressable, but not by this file",
        "train-1.units: '00004': the image is addressable by this file, but it has no restart marker behind every unit",
        "train-1.units: '00005': the image is addressable, but not by this file",
    ]
    assert faults[4].startswith("val-0.units: was made for another shard, so it is not used; make it again with")
    write_units(folder / "val-0.tar", val.shards[0].digest, first[:2])
    assert "it has 2 rows, but should have 3" in str(verify_folder(folder).faults[-1])


def test_stats_count_what_is_addressable_where_files_of_units_say_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stats(*options: str) -> str:
        capsys.readouterr()
        assert main(["stats", str(folder), *options]) == 0
        return capsys.readouterr().out

    assert "addressable" not in stats()
    assert json.loads(stats("--json"))["splits"]["val"]["addressable"] is None
    assert main(["units", str(folder), "--workers", "1"]) == 0
    assert "  addressable        4 of 6 images\n" in stats()
    assert json.loads(stats("--json"))["splits"]["val"]["addressable"] == {"num_addressable": 2}


def test_stats_of_a_conversion_tell_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.shards.convert.check_jpegtran", lambda: None)  # nothing here is transcoded
    (tmp_path / "images/a").mkdir(parents=True)
    for number, image in enumerate([addressable_jpeg(0), encoded(picture(), "PNG")]):
        (tmp_path / f"images/a/{number}.jpg").write_bytes(image)
    arguments = ["--source", f"imagefolder:{tmp_path / 'images'}", "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["convert", *arguments, "--addressable"]) == 0
    capsys.readouterr()
    assert main(["stats", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "  addressable        1 of 2 images\n  not addressable    1: it is PNG, not JPEG\n" in told
