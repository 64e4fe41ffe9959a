import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.shard_files import image_bytes, write_shard, write_tar
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader
from tools.shards.__main__ import main


def index(folder: Path, *options: str) -> int:
    return main(["index", str(folder), *options])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards with other names for images and labels, one of them empty."""
    for number in range(2):
        members = [("0.input.png", image_bytes(number)), ("0.label.txt", b"%d" % number)]
        write_tar(tmp_path / f"train-{number}.tar", members)
    write_tar(tmp_path / "train-2.tar", [])
    return tmp_path


def test_members_of_other_names_are_indexed_and_verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index(folder) == 2
    assert "--image-member input.png" in capsys.readouterr().err
    assert index(folder, "--image-member", ".Input.PNG", "--label-member", "label.txt") == 0
    assert "passed over: train-2.tar: holds no samples" in capsys.readouterr().out
    assert open_index(folder, "train").label.tolist() == [0, 1]
    for arguments in (["verify", "--workers", "1"], ["units", "--workers", "1"], ["stats"]):
        assert main([arguments[0], str(folder), *arguments[1:]]) == 0, arguments
    capsys.readouterr()
    assert index(folder, "--image-member", "input.png", "--label-member", "label.txt", "--json") == 0
    told = json.loads("{" + capsys.readouterr().out.partition("{")[2])
    assert told["splits"]["train"]["empty_shards"] == ["train-2.tar"]


def test_a_field_of_a_member_that_has_none_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert index(folder, "--label-member", "label.txt", "--label-field", "fine") == 2
    assert "--label-field is a field of a json member, but --label-member is label.txt" in capsys.readouterr().err


def test_a_pattern_selects_tars_of_the_folder_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "a-0.tar", [0])
    write_shard(tmp_path / "sub/b-0.tar", [1])
    for pattern in ("sub/*.tar", str(tmp_path / "sub/*.tar"), "**/*.tar", "../*.tar"):
        assert index(tmp_path, "--split", "train", "--pattern", pattern) == 2
        error = capsys.readouterr().err
        assert f"--pattern {pattern} selects tars in" in error
        assert "index that folder: python -m tools.shards index" in error
    for pattern in ("a-*.tar", "./a-*.tar", str(tmp_path / "a-*.tar")):
        assert index(tmp_path, "--split", "train", "--pattern", pattern) == 0
        assert open_index(tmp_path, "train").label.tolist() == [0]


def test_a_folder_that_cannot_be_written_is_indexed_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, out = tmp_path / "tars", tmp_path / "made/index"
    for number in range(2):
        write_shard(tars / f"train-{number}.tar", [number, 3])
    before = sorted(path.name for path in tars.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: False)
        assert index(tars) == 2
    assert f"{tars}: cannot be written; --out DIR puts the index" in capsys.readouterr().err
    for _ in range(2):
        assert index(tars, "--out", str(out)) == 0
    assert f"the shards are now in {out}" in capsys.readouterr().err
    for arguments in (["verify", "--workers", "1", "--exclude"], ["units", "--workers", "1"], ["stats"]):
        assert main([arguments[0], str(out), *arguments[1:]]) == 0, arguments
    assert sorted(path.name for path in tars.iterdir()) == before
    opened = open_index(out, "train")
    with SampleReader(opened) as reader:
        images = reader.read(np.arange(4))
    content = (tars / "train-1.tar").read_bytes()
    assert images[2].tobytes() == content[opened.offset[2] : opened.offset[2] + opened.length[2]]
    (tars / "train-1.tar").unlink()
    assert index(tars, "--out", str(out)) == 0
    assert open_index(out, "train").label.tolist() == [0, 3]


def test_other_files_are_not_taken_for_links(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "tars/train-0.tar", [0])
    write_shard(tmp_path / "other/train-0.tar", [0])
    assert index(tmp_path / "tars", "--out", str(tmp_path / "other")) == 2
    assert "train-0.tar: is there already, and no link to" in capsys.readouterr().err
    assert index(tmp_path / "tars", "--out", str(tmp_path / "tars")) == 2
    assert "is the folder of the tars; leave it out" in capsys.readouterr().err
