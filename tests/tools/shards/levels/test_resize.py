"""``resize-levels``, ``convert --levels``, and what ``verify`` says of levels."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import encoded, needs_jpegtran, picture, pixels_of, profiled_jpeg
from PIL import Image

from benchmarks.shared.photographs import write_image_folder
from benchmarks.shared.shard_files import write_tar
from pipeline.shards.exclusion import exclusion_path, read_exclusion
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.levels import open_with_levels
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import open_units
from tools.shards.__main__ import main
from tools.shards.levels.resize import resize_levels
from tools.shards.verify import verify_folder

# In turn; the third is small enough for level 40, the fourth cannot be decoded, the last one has an orientation tag.
IMAGES = [
    encoded(picture(0, 120, 90), quality=95),
    encoded(picture(1, 90, 121), "PNG"),
    encoded(picture(2, 40, 70)),
    encoded(picture(3, 120, 90), "PNG")[:200],
    encoded(picture(4, 120, 90, "L")),
    profiled_jpeg(),
]


def run(folder: Path, *options: object) -> int:
    return main([str(one) for one in ("resize-levels", folder, "--workers", 1, *options)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in range(2):
        members = []
        for number, image in enumerate(IMAGES):
            extension = "png" if image[1:4] == b"PNG" else "jpg"
            name = f"photos/{shard}{number:04d}"
            members += [(f"{name}.{extension}", image), (f"{name}.cls", b"%d" % number), (f"{name}.txt", b"beside")]
        write_tar(tmp_path / f"shards/train-{shard}.tar", members)
    write_tar(tmp_path / "shards/val-0.tar", [("a.jpg", IMAGES[0]), ("a.cls", b"0")])
    assert main(["index", str(tmp_path / "shards")]) == 0
    return tmp_path / "shards"


def stored(index: ShardIndex, sample_id: int) -> bytes:
    with SampleReader(index) as reader:
        return reader.read(np.array([sample_id]))[0].tobytes()


def files_of(folder: Path) -> dict[str, str]:
    """All files but the sample indexes, which record when their shards were written."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".index"
    }


def test_the_same_samples_stand_in_the_same_order_with_smaller_images(folder: Path) -> None:
    assert run(folder, "--levels", "40,60") == 0
    index = open_with_levels(folder, "train", (60, 40))
    for level, pixels in zip(index.levels, (60, 40), strict=True):
        np.testing.assert_array_equal(level.label, index.label)
        np.testing.assert_array_equal(level.shard, index.shard)
        assert [level.key(i) for i in range(12)] == [index.key(i) for i in range(12)]
        assert [level.extension(i) for i in range(12)] == [index.extension(i) for i in range(12)]
        shorter = np.minimum(index.height, index.width)
        unread = np.arange(12) % 6 == 3
        np.testing.assert_array_equal(
            np.minimum(level.height, level.width), np.where(unread, shorter, np.minimum(shorter, pixels))
        )
        for sample_id in range(12):
            image, original = stored(level, sample_id), stored(index, sample_id)
            if shorter[sample_id] <= pixels or unread[sample_id]:
                assert image == original
                continue
            opened, whole = Image.open(io.BytesIO(image)), Image.open(io.BytesIO(original))
            assert (opened.format, opened.mode) == (whole.format, whole.mode)
            expected = whole.resize(opened.size, Image.Resampling.BICUBIC)
            assert whole.format is not None
            np.testing.assert_array_equal(pixels_of(image), pixels_of(encoded(expected, whole.format, quality=90)))
    with (folder / "level-40/train-0.tar").open("rb") as file:
        assert b"beside" in file.read()
    assert not (folder / "level-40/val.index").exists()


def test_what_became_of_the_images_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--levels", "40", "--json") == 0
    level = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))["levels"]["40"]
    assert (level["num_samples"], level["num_shrunk"], level["num_copied"]) == (12, 8, 2)
    [(reason, count)] = level["unread"].items()
    assert count == 2
    assert "cannot be decoded" in reason
    dataset = json.loads((folder / "level-40/dataset.json").read_text())
    assert dataset["job"]["level"] == {"pixels": 40, "made_from": open_index(folder, "train").fingerprint}
    assert dataset["job"]["quality"] == 90


def test_a_call_that_was_stopped_goes_on_and_writes_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tools.shards.levels import shard as one_shard

    whole = one_shard.write_like

    def stopped(path: Path, *others: object) -> object:
        if path.name == "train-1.tar":
            raise KeyboardInterrupt
        return whole(path, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(one_shard, "write_like", stopped)
    assert run(folder, "--levels", "60") == 130
    assert (folder / "level-60/conversion.jsonl").is_file()
    monkeypatch.setattr(one_shard, "write_like", whole)
    assert run(folder, "--levels", "60") == 0
    first = files_of(folder / "level-60")
    assert run(folder, "--levels", "60") == 0, "nothing is left to do"
    (folder / "level-60").rename(tmp_path / "before")
    resize_levels(folder, [60])
    assert files_of(folder / "level-60") == first


def test_a_level_of_other_shards_or_made_otherwise_is_not_taken_for_the_one_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--levels", "60") == 0
    assert run(folder, "--levels", "60", "--addressable") == 2
    assert "in another way than is asked for now; make it anew: rm -r" in capsys.readouterr().err
    (folder / "level-50").mkdir()
    (folder / "level-50/notes.txt").write_text("mine")
    assert run(folder, "--levels", "50") == 2
    assert "is none that was made here" in capsys.readouterr().err
    assert run(folder / "level-60", "--levels", "30") == 2
    assert "is level 60 of" in capsys.readouterr().err


@pytest.mark.parametrize("levels", ["", "a", "0", "256,256", "1.5", "-4"])
def test_levels_are_whole_numbers_of_pixels(folder: Path, capsys: pytest.CaptureFixture[str], levels: str) -> None:
    assert run(folder, f"--levels={levels}") == 2
    assert "such as 256,128" in capsys.readouterr().err


def test_units_of_addressable_levels_lie_beside_them(folder: Path) -> None:
    assert run(folder, "--levels", "60", "--addressable") == 0
    [level] = open_with_levels(folder, "train", (60,)).levels
    for shard in level.shards:
        units = open_units(level.folder, shard)
        assert units is not None
        assert units.header_bytes.astype(bool).tolist() == [True, False, False, False, True, False]


def test_verify_looks_at_levels_too_and_leaves_their_samples_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--levels", "60") == 0
    expected = {(shard, f"photos/{number}0003") for number, shard in enumerate(("train-0.tar", "train-1.tar"))}
    report = verify_folder(folder)
    assert report.num_samples == 12 + 1 + 12
    assert {(fault.shard, fault.key) for fault in report.faults} == {
        (place + shard, key) for shard, key in expected for place in ("", "level-60/")
    }
    tar = folder / "level-60/train-0.tar"
    level = open_index(folder / "level-60", "train")
    content, at = bytearray(tar.read_bytes()), int(level.offset[0]) + 200
    content[at : at + 400] = bytes(400)
    tar.write_bytes(bytes(content))
    capsys.readouterr()
    assert main(["verify", str(folder), "--exclude", "--workers", "1"]) == 1
    assert "level-60/train-0.tar: 'photos/00000'" in capsys.readouterr().out
    excluded = {(one.shard, one.key) for one in read_exclusion(exclusion_path(folder, "train")).samples}
    assert excluded == expected | {("train-0.tar", "photos/00000")}
    assert open_with_levels(folder, "train", (60,)).num_samples == 9
    (folder / "train-1.tar").unlink()
    main(["index", str(folder)])
    assert any("was made from other shards" in fault.reason for fault in verify_folder(folder).faults)


def test_conversions_write_levels_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image_folder(tmp_path / "images", 8, 2, width=80, height=60)
    arguments = ["--source", f"imagefolder:{tmp_path / 'images'}", "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["convert", *arguments, "--levels", "30"]) == 0
    assert "level 30: 8 images shrunk, 0 small enough" in capsys.readouterr().out
    index = open_with_levels(tmp_path / "out", "train", (30,))
    assert index.levels[0].height.tolist() == [30] * 8
    assert index.levels[0].width.tolist() == [40] * 8
    assert verify_folder(tmp_path / "out").faults == []


def test_stats_lists_the_levels_of_each_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--levels", "60,40") == 0
    capsys.readouterr()
    assert main(["stats", str(folder), "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert (list(splits["train"]["levels"]), splits["val"]["levels"]) == (["60", "40"], {})
    small, index = splits["train"]["levels"]["40"], open_index(folder / "level-40", "train")
    tally = json.loads((folder / "level-40/dataset.json").read_text())["splits"]["train"]["level"]
    assert small == {
        "num_samples": 12,
        "num_bytes": sum(tar.stat().st_size for tar in (folder / "level-40").glob("*.tar")),
        "image_bytes_median": int(np.median(index.length)),
        **tally,
        "refused": None,
    }
    assert main(["stats", str(folder)]) == 0
    said = f"{tally['num_shrunk']} shrunk, {tally['num_copied']} small enough, 2 that cannot be decoded"
    assert f"level 40           12 images, {small['num_bytes'] / 1e6:,.1f} MB, image bytes" in (
        printed := capsys.readouterr().out
    )
    assert said in printed
    (folder / "train-1.tar").unlink()
    main(["index", str(folder)])
    capsys.readouterr()
    assert main(["stats", str(folder)]) == 0
    assert "level 60           training would refuse it: " in capsys.readouterr().out


@needs_jpegtran
def test_levels_of_an_addressable_conversion_are_addressable(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "images", 4, 2, width=80, height=60)
    arguments = ["--source", f"imagefolder:{tmp_path / 'images'}", "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["convert", *arguments, "--addressable", "--levels", "30"]) == 0
    [level] = open_with_levels(tmp_path / "out", "train", (30,)).levels
    units = open_units(level.folder, level.shards[0])
    assert units is not None
    assert units.num_addressable == 4
