"""``readdress``, ``verify`` and ``score`` in parts leave and say what they do in one piece."""

import json
import shutil
from pathlib import Path

import pytest
from jpeg_files import addressable_jpeg, encoded, picture

from benchmarks.shared.photographs import write_image_folder
from benchmarks.shared.shard_files import write_shard, write_tar
from pipeline.shards.exclusion import exclusion_path, read_exclusion
from pipeline.shards.index import open_index, read_index
from tools.shards.__main__ import main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def files_of(folder: Path) -> dict[str, bytes]:
    """All files but the sample indexes, which record when their shards were written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".index"}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Shards of another program: five of train, of which one sample is left out, and one of val."""
    folder = tmp_path / "foreign"
    for number in range(5):
        image = addressable_jpeg(number) if number % 2 else encoded(picture(number), "PNG")
        members = [(f"a{number}.{'jpg' if number % 2 else 'png'}", image), (f"a{number}.cls", b"1")]
        write_tar(folder / f"train-{number}.tar", [*members, (f"b{number}.cls", b"2")] if number == 2 else members)
    write_shard(folder / "val-0.tar", [0, 1])
    assert run("index", folder, "--exclude") == 0
    return folder


def test_shards_readdressed_in_parts_are_those_of_one_call(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.shards.readdress.check_jpegtran", lambda: None)  # nothing here is transcoded
    (foreign / "rejected.jsonl").write_bytes(b'{"source": "\xff", "reason": "of old"}\n')
    options = ("--workers", 1, "--out")
    assert run("readdress", foreign, *options, tmp_path / "whole") == 0
    for part in ("3/4", "1/4", "4/4", "2/4"):
        assert run("readdress", foreign, *options, tmp_path / "parts", "--part", part) == 0
    assert "parts 2" not in capsys.readouterr().out
    assert run("merge", tmp_path / "parts") == 0
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert (tmp_path / "parts/train.exclude").is_file()
    for split in ("train", "val"):
        one, two = (read_index(tmp_path / name / f"{split}.index") for name in ("parts", "whole"))
        assert one.fingerprint == two.fingerprint
    assert run("readdress", foreign, *options, tmp_path / "parts", "--part", "2/4") == 0
    assert "with its parts merged; nothing to do" in capsys.readouterr().out


def test_shards_readdressed_and_converted_are_not_merged_into_one(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.shards.readdress.check_jpegtran", lambda: None)
    out = tmp_path / "out"
    assert run("readdress", foreign, "--out", out, "--part", "1/2", "--workers", 1) == 0
    write_image_folder(tmp_path / "images", 4, 2, width=20, height=20)
    assert run("convert", "--source", f"imagefolder:{tmp_path / 'images'}", "--out", out, "--part", "2/2") == 2
    assert "of another conversion (by readdress, now convert" in capsys.readouterr().err


@pytest.fixture(scope="module")
def with_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with a level beside them; of both an image is broken, and a tar is in no index."""
    folder = tmp_path_factory.mktemp("faults")
    write_image_folder(folder / "images", 20, 2, width=40, height=30)
    arguments = ("convert", "--source", f"imagefolder:{folder / 'images'}", "--out", folder / "out")
    assert run(*arguments, "--shard-samples", 6, "--workers", 1, "--levels", 20) == 0
    for place, number in ((folder / "out", 2), (folder / "out/level-20", 1)):
        index = open_index(place, "train")
        path = place / index.shards[number].name
        first, content = int(index.first_ids[number]), bytearray(path.read_bytes())
        start, stop = int(index.offset[first]) + 30, int(index.offset[first] + index.length[first])
        path.write_bytes(content[:start] + bytes(stop - start) + content[stop:])
    write_shard(folder / "out/train-900.tar", [0])
    return folder / "out"


@pytest.fixture
def folder(with_faults: Path, tmp_path: Path) -> Path:
    shutil.copytree(with_faults, tmp_path / "out")
    return tmp_path / "out"


def test_a_verification_in_parts_says_what_one_in_one_piece_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", folder, "--workers", 1, "--json") == 1
    whole = json.loads(capsys.readouterr().out)
    assert len(whole["faults"]) >= 3
    for part in ("2/3", "1/3"):
        assert run("verify", folder, "--workers", 1, "--part", part) == 0
    told = capsys.readouterr().out
    assert "fault(s) in 3 shards, kept in" in told
    assert "level-20/train-000001.tar: '00000006': the image's header cannot be read" in told
    assert run("merge", folder) == 2
    assert "missing: part 3/3; run with --part what is missing" in capsys.readouterr().err
    assert run("verify", folder, "--workers", 1, "--part", "3/3", "--json") == 0
    capsys.readouterr()
    assert run("merge", folder, "--json") == 1
    assert json.loads(capsys.readouterr().out) == whole
    assert not list(folder.glob("verification-*"))


def test_samples_that_parts_found_faulty_are_left_out_by_merge(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", folder, "--part", "1/1", "--exclude") == 2
    assert "--exclude with --part: it is of all parts together: give it to merge" in capsys.readouterr().err
    assert run("verify", folder, "--workers", 1, "--part", "1/1") == 0
    assert run("merge", folder, "--exclude") == 1  # for the tar that no index names
    assert "train.exclude lists 2 sample(s), which the loader leaves out" in capsys.readouterr().out
    listed = [sample.key for sample in read_exclusion(exclusion_path(folder, "train")).samples]
    assert sorted(listed) == ["00000006", "00000012"]


def test_parts_that_looked_at_other_shards_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", folder, "--workers", 1, "--part", "1/1") == 0
    shutil.copy(folder / "train-000000.tar", folder / "train-000001.tar")
    assert run("index", folder, "--split", "train", "--pattern", "train-0*.tar", "--exclude") == 0
    capsys.readouterr()
    assert run("merge", folder) == 2
    assert "part 1/1 (verification-1-of-1.json) looked at other shards than those" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_images_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.shards.parts.verification.os.access", lambda path, mode: False)
    monkeypatch.setattr("tools.shards.parts.verification.verify_shards", None)
    assert run("verify", folder, "--part", "1/2") == 2
    assert "cannot be written, but a part leaves there what it finds" in capsys.readouterr().err


def test_maps_are_scored_in_parts_and_what_is_missing_without(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("3/3", "1/3"):
        assert run("score", foreign, "--by", "contrast", "--workers", 1, "--part", part) == 0
    told = capsys.readouterr().out
    assert "part 3/3:\n" in told
    assert len(list(foreign.glob("*.maps*"))) + len(list(foreign.glob("*contrast*"))) >= 4
    assert run("score", foreign, "--by", "contrast", "--workers", 1) == 0
    told = capsys.readouterr().out
    assert "2 shard(s) scored, 3 had them already" in told
    assert "0 shard(s) scored, 1 had them already" in told
    assert run("merge", foreign) == 2
    assert "parts of score need no merge" in capsys.readouterr().err
