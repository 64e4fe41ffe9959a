import json
from pathlib import Path

import pytest

from benchmarks.shared.bad_images import LATER_DAMAGE, SOUND_OUTSIDE, write_photo_shards
from benchmarks.shared.shard_files import image_bytes, write_tar
from pipeline.shards.exclusion import read_exclusion
from pipeline.shards.index import open_index
from tools.shards.__main__ import main


def verify(folder: Path, *options: str) -> int:
    return main(["verify", str(folder), "--workers", "1", *options])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 3, 20, 21 and 40 of 48 are damaged, where an index does not see it."""
    write_photo_shards(tmp_path, dict(zip((3, 20, 21, 40), SOUND_OUTSIDE.values(), strict=True)))
    return tmp_path


def test_verify_lists_what_it_finds_and_the_loader_leaves_it_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars = {path: path.read_bytes() for path in folder.glob("*.tar")}
    assert verify(folder) == 1
    assert open_index(folder, "train").num_samples == 48
    capsys.readouterr()
    assert verify(folder, "--exclude") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("does not decode" in line for line in lines) == 2
    assert lines[-2:] == [
        f"{folder}/train.exclude lists 4 sample(s), which the loader leaves out",
        "48 samples in 3 shards: no fault besides 4 excluded sample(s)",
    ]
    index = open_index(folder, "train")
    assert index.excluded.tolist() == [3, 20, 21, 40]
    assert index.num_samples == 44
    assert tars == {path: path.read_bytes() for path in folder.glob("*.tar")}

    assert verify(folder) == 0
    assert verify(folder, "--json") == 0
    assert '"num_excluded": 4' in capsys.readouterr().out


def test_a_fault_of_a_whole_shard_is_not_excluded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(folder / "train-000009.tar", [("a.png", image_bytes(0)), ("a.cls", b"1")])
    assert verify(folder, "--exclude") == 1
    assert "48 samples in 3 shards: 1 fault(s) besides 4 excluded sample(s)" in capsys.readouterr().out


def test_nothing_is_written_where_nothing_is_wrong(tmp_path: Path) -> None:
    write_photo_shards(tmp_path)
    assert verify(tmp_path, "--exclude") == 0
    assert not (tmp_path / "train.exclude").exists()


def test_what_a_run_found_can_be_excluded_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photo_shards(tmp_path)
    found = {"event": "train", "step": 7, "shard": "train-000001.tar", "key": "00020", "offset": 9, "cause": "odd"}
    log = tmp_path / "bad_samples.jsonl"
    log.write_text(json.dumps(found) + "\n")
    assert verify(tmp_path, "--bad-samples", str(log)) == 2
    assert "give --exclude with it" in capsys.readouterr().err
    assert verify(tmp_path, "--exclude", "--bad-samples", str(log)) == 0
    assert open_index(tmp_path, "train").excluded.tolist() == [20]
    log.write_text("something else\n")
    assert verify(tmp_path, "--exclude", "--bad-samples", str(log)) == 2
    assert "line 1: not a line of a run's bad_samples.jsonl" in capsys.readouterr().err


def test_index_leaves_out_what_it_cannot_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("a.png", image_bytes(0)), ("a.cls", b"1"), ("b.png", LATER_DAMAGE["garbage"]), ("b.cls", b"1")]
    write_tar(tmp_path / "train-0.tar", members)
    assert main(["index", str(tmp_path)]) == 2
    capsys.readouterr()
    assert main(["index", str(tmp_path), "--exclude"]) == 0
    assert "left out: train-0.tar: 'b': the image's header cannot be read" in capsys.readouterr().out
    assert open_index(tmp_path, "train").num_samples == 1
    assert verify(tmp_path) == 0
    assert "1 samples in 1 shards: no fault besides 1 excluded sample(s)" in capsys.readouterr().out
    assert verify(tmp_path, "--exclude") == 0
    assert [sample.key for sample in read_exclusion(tmp_path / "train.exclude").samples] == ["b"]


@pytest.mark.parametrize("name", ["a JPEG bomb", "a PNG bomb"])
def test_a_decompression_bomb_is_refused_by_the_index(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tar(tmp_path / "train-0.tar", [("a.png", LATER_DAMAGE[name]), ("a.cls", b"1")])
    assert main(["index", str(tmp_path)]) == 2
    assert "the image's header cannot be read" in capsys.readouterr().out
