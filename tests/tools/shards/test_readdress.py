"""``readdress``. Most of it is told from images that stay as they are, for which no jpegtran is needed."""

import errno
import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from jpeg_files import addressable_jpeg, encoded, needs_jpegtran, picture, pixels_of

from benchmarks.shared.photographs import write_image_folder
from benchmarks.shared.shard_files import write_shard, write_tar
from pipeline.shards.exclusion import exclusion_path, read_exclusion
from pipeline.shards.index import open_index, read_index
from pipeline.shards.units import open_units
from tools.shards.__main__ import main
from tools.shards.readdress import readdress
from tools.shards.verify import verify_folder
from tools.shards.whole_file import WholeFile


@pytest.fixture
def unneeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image of the test is transcoded, so it does not matter whether there is a jpegtran."""
    monkeypatch.setattr("tools.shards.readdress.check_jpegtran", lambda: None)


def run(folder: Path, out: Path, *options: object) -> int:
    return main([str(argument) for argument in ("readdress", folder, "--out", out, "--workers", 1, *options)])


def files_of(folder: Path) -> dict[str, bytes]:
    """All files but the sample indexes, which record when their shards were written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".index"}


def members_of(tar: Path) -> list[tuple[str, bytes, bytes | None]]:
    """Name, type and content of every member in order."""
    with tarfile.open(tar) as opened:
        return [(one.name, one.type, opened.extractfile(one).read() if one.isreg() else None) for one in opened]  # type: ignore[union-attr]


def write_foreign(path: Path, first: int = 0, count: int = 4) -> Path:
    """A shard as others write them: members of many kinds, keys with folders, labels in json."""
    members = [("README", b"no sample"), ("._hidden.jpg", b"what macOS adds")]
    for number in range(first, first + count):
        key = f"photos of {number % 2}/{number:05d}" + "-long" * (25 if number == first else 0)
        image = addressable_jpeg(number) if number % 2 else encoded(picture(number), "PNG")
        members += [
            (f"{key}.seg.png", encoded(picture(number, mode="L"), "PNG")),
            (f"{key}.json", json.dumps({"class": number % 3, "text": "é"}).encode()),
            (f"{key}.JPG" if number % 2 else f"{key}.png", image),
            (f"{key}.txt", f"number {number}".encode()),
            (f"{key}.cls.txt", b""),
        ]
    return write_tar(path, members, tarfile.GNU_FORMAT)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    folder = tmp_path / "foreign"
    for number in range(3):
        write_foreign(folder / f"imagenet-train-{number:04d}.tar", 4 * number)
    write_foreign(folder / "imagenet-validation-0000.tar", 12)
    assert main(["index", str(folder), "--label-field", "class"]) == 0
    return folder


def test_all_that_is_no_jpeg_stays_as_it_is_in_its_place(foreign: Path, tmp_path: Path, unneeded: None) -> None:
    out = tmp_path / "out"
    assert run(foreign, out) == 0
    assert sorted(path.name for path in out.glob("*.tar")) == sorted(path.name for path in foreign.glob("*.tar"))
    for tar in foreign.glob("*.tar"):
        assert members_of(out / tar.name) == members_of(tar)
        with tarfile.open(out / tar.name) as opened:
            assert {(one.mtime, one.uid, one.gid, one.uname, one.gname) for one in opened} == {(0, 0, 0, "", "")}
    for split in ("train", "val"):
        before, after = open_index(foreign, split), open_index(out, split)
        assert after.label_field == "class"
        np.testing.assert_array_equal(after.label, before.label)
        assert [after.key(i) for i in range(after.num_samples)] == [before.key(i) for i in range(before.num_samples)]
        for shard in after.shards:
            units = open_units(out, shard)
            assert units is not None
            assert units.num_addressable == 2
            assert (out / shard.name).with_suffix(".idx").is_file()
    assert verify_folder(out).faults == []


def test_links_folders_and_names_that_are_not_utf8_stay_too(tmp_path: Path, unneeded: None) -> None:
    write_shard(tmp_path / "in/train-0.tar", [1])
    with tarfile.open(tmp_path / "in/train-0.tar", "a") as tar:
        for name, type in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("\udcff", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = type, "somewhere" if name == "link" else "", 0o755
            tar.addfile(member)
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert members_of(tmp_path / "out/train-0.tar") == members_of(tmp_path / "in/train-0.tar")
    with tarfile.open(tmp_path / "out/train-0.tar") as tar:
        assert tar.getmember("link").linkname == "somewhere"
        assert tar.getmember("folder").mode == 0o755


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    write_image_folder(folder / "images", 20, 2, width=40, height=30)
    (folder / "images/class_0/broken.jpg").write_bytes(b"")
    arguments = ["--source", f"imagefolder:{folder / 'images'}", "--out", str(folder / "out"), "--max-rejected", "1"]
    assert main(["convert", *arguments, "--shard-samples", "6", "--val-fraction", "0.3", "--workers", "1"]) == 0
    return folder / "out"


@needs_jpegtran
def test_shards_of_a_conversion_are_transcoded_and_described(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(converted, out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    before, after = (json.loads((folder / "dataset.json").read_text()) for folder in (converted, out))
    for name in ("source", "classes", "rejected"):
        assert after[name] == before[name]
    assert (out / "rejected.jsonl").read_bytes() == (converted / "rejected.jsonl").read_bytes()
    fingerprints = {split: facts["fingerprint"] for split, facts in before["splits"].items()}
    assert after["job"] == {**before["job"], "readdressed": fingerprints}
    assert told["was_finished"] is False
    for split, facts in after["splits"].items():
        index = read_index(out / f"{split}.index")
        assert facts["fingerprint"] == index.fingerprint != fingerprints[split]
        assert facts["class_counts"] == before["splits"][split]["class_counts"]
        assert facts["num_bytes"] == sum(shard.size_bytes for shard in index.shards)
        for name, sha256 in facts["sha256"].items():
            assert sha256 == hashlib.sha256((out / name).read_bytes()).hexdigest()
        tally = facts["addressable"]
        assert told["splits"][split]["addressable"] == tally
        assert tally["num_addressable"] == tally["num_transcoded"] == index.num_samples
        assert tally["bytes_before"] == open_index(converted, split).length.sum()
        assert tally["bytes_after"] == index.length.sum()
        for tar in converted.glob(f"{split}-*.tar"):
            for (name, _, old), (new_name, _, new) in zip(members_of(tar), members_of(out / tar.name), strict=True):
                assert name == new_name
                assert old is not None
                assert new is not None
                assert old == new if name.endswith("cls") else np.array_equal(pixels_of(old), pixels_of(new))
    assert verify_folder(out).faults == []


@needs_jpegtran
def test_bytes_do_not_depend_on_the_number_of_workers(converted: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        readdress(converted, tmp_path / str(workers), workers=workers)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_addressable_shards_come_out_as_they_were(tmp_path: Path, unneeded: None) -> None:
    write_image_folder(tmp_path / "images", 6, 2, width=40, height=30)
    arguments = ["--source", f"imagefolder:{tmp_path / 'images'}", "--out", str(tmp_path / "in"), "--workers", "1"]
    assert main(["convert", *arguments, "--addressable", "--format", "jpeg", "--quality", "90"]) == 0
    assert run(tmp_path / "in", tmp_path / "out") == 0
    for name, content in files_of(tmp_path / "in").items():
        assert name == "dataset.json" or (tmp_path / "out" / name).read_bytes() == content


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_what_was_interrupted_goes_on_and_gives_the_same_bytes(
    foreign: Path, tmp_path: Path, unneeded: None, stop_after: int
) -> None:
    readdress(foreign, tmp_path / "whole")
    seen = []

    def stop(count: int) -> None:
        seen.append(count)
        if len(seen) == stop_after:
            raise Killed

    out = tmp_path / "halves"
    with pytest.raises(Killed):
        readdress(foreign, out, on_images=stop)
    (out / ".imagenet-train-0002.tar.tmp").write_bytes(b"what a kill leaves behind")
    if stop_after == 1:  # the kill came behind the shard and before the rest
        shutil.copy(foreign / "imagenet-train-0001.tar", out / "imagenet-train-0001.tar")
        (out / "imagenet-train-0001.units").write_bytes(b"of something else")
    totals = []
    _, was_finished = readdress(foreign, out, on_total=lambda total, done: totals.append((total, done)))
    assert (was_finished, totals) == (False, [(16, 4 * stop_after)])
    assert files_of(out) == files_of(tmp_path / "whole")
    assert not list(out.glob(".*"))


def test_what_is_finished_is_not_done_again(
    foreign: Path, tmp_path: Path, unneeded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(foreign, out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(foreign, out) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    write_foreign(foreign / "imagenet-train-0001.tar", 100)
    assert main(["index", str(foreign), "--label-field", "class"]) == 0
    assert run(foreign, out) == 2
    assert "holds the shards of another conversion (readdressed: " in capsys.readouterr().err


def test_a_full_disk_ends_it_by_name_and_the_finished_shards_stay(
    foreign: Path, tmp_path: Path, unneeded: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = WholeFile.write

    def refuse(file: WholeFile, data: bytes) -> int:
        if "train-0001" in file.path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(WholeFile, "write", refuse)
        assert run(foreign, out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "imagenet-train-0001.tar could not be written anew as" in error
    assert "No space left on device; the finished shards are kept, and the same command goes on from there" in error
    assert [path.name for path in out.glob("*.tar")] == ["imagenet-train-0000.tar"]
    assert not list(out.glob(".*"))
    assert run(foreign, out) == 0
    assert verify_folder(out).faults == []


def test_lists_of_what_is_left_out_come_along(tmp_path: Path, unneeded: None) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    members = [("a.png", encoded(picture(), "PNG")), ("a.cls", b"1"), ("b.cls", b"2")]
    broken = addressable_jpeg(3)[:600]
    write_tar(folder / "train-0.tar", [*members, ("c.jpg", broken), ("c.cls", b"0")])
    write_shard(folder / "val-0.tar", [0, 1])
    assert main(["index", str(folder), "--exclude"]) == 0
    assert main(["verify", str(folder), "--exclude", "--workers", "1"]) == 0
    assert run(folder, out) == 0
    before, after = (read_exclusion(exclusion_path(place, "train")) for place in (folder, out))
    assert sorted(after.samples, key=str) == sorted(before.samples, key=str)
    assert {sample.key for sample in after.samples} == {"b", "c"}
    assert after.fingerprint == read_index(out / "train.index").fingerprint
    assert not exclusion_path(out, "val").exists()
    assert open_index(out, "train").num_samples == 1
    assert verify_folder(out).faults == []


def test_shards_without_an_index_are_grouped_as_index_does(
    tmp_path: Path, unneeded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    write_shard(folder / "x-train-0.tar", [1, 2])
    write_shard(folder / "x-validation-0.tar", [3])
    before = files_of(folder)
    assert run(folder, tmp_path / "out") == 0
    assert open_index(tmp_path / "out", "val").label.tolist() == [3]
    assert json.loads((tmp_path / "out/dataset.json").read_text())["classes"] is None
    assert files_of(folder) == before
    write_tar(folder / "x-train-1.tar", [("a.png", encoded(picture(), "PNG"))])
    assert run(folder, tmp_path / "other") == 2
    error = capsys.readouterr().err
    assert "has no index, and 1 sample(s) or shard(s) cannot be indexed, the first being x-train-1.tar: 'a'" in error
    assert not (tmp_path / "other").exists()


def test_places_that_do_not_fit_are_refused_in_one_line(
    foreign: Path, tmp_path: Path, unneeded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path, out: Path, message: str, *options: object) -> None:
        before = files_of(foreign)
        assert run(folder, out, *options) == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert message in error
        assert files_of(foreign) == before

    refused(foreign, foreign, "or lies in it; the shards there stay as they are; name another place")
    refused(foreign, foreign / "new", "or lies in it")
    refused(tmp_path / "nowhere", tmp_path / "out", "shard folder", "--workers", 2)
    refused(foreign, tmp_path / "out", "workers 0; allowed is 1 or more", "--workers", 0)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "out", "neither tars nor an index")
    write_shard(foreign / "imagenet-train-0009.tar", [0])
    refused(foreign, tmp_path / "out", "no index names imagenet-train-0009.tar; index all shards first")
    assert not (tmp_path / "out").exists()


def test_a_shard_that_is_written_to_meanwhile_is_named(
    foreign: Path, tmp_path: Path, unneeded: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        write_foreign(foreign / "imagenet-train-0000.tar", 50)

    monkeypatch.setattr("tools.shards.readdress.check_jpegtran", change)
    assert run(foreign, tmp_path / "out") == 2
    assert "imagenet-train-0000.tar: was changed after it was looked at first" in capsys.readouterr().err


def test_a_missing_jpegtran_is_told_before_anything_is_written(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(foreign, tmp_path / "out") == 2
    assert "apt-get install libjpeg-turbo-progs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
