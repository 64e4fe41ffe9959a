import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.photographs import jpeg_bytes, write_image_folder
from benchmarks.shared.shard_files import write_shard, write_tar
from pipeline.shards.index import build_index, open_index
from tools.shards.__main__ import main
from tools.shards.verify import verify_folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    write_image_folder(folder / "images", 20, 2, width=40, height=30)
    arguments = ["--source", f"imagefolder:{folder / 'images'}", "--out", str(folder / "out")]
    assert main(["convert", *arguments, "--shard-samples", "6", "--val-fraction", "0.3", "--workers", "1"]) == 0
    return folder / "out"


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    for path in converted.iterdir():
        shutil.copy2(path, tmp_path / path.name)
    return tmp_path


def faults_of(folder: Path) -> list[str]:
    return [str(fault) for fault in verify_folder(folder).faults]


def test_a_sound_folder_has_no_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--workers", "2"]) == 0
    assert "20 samples in" in capsys.readouterr().out
    assert main(["verify", str(folder), "--json", "--workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["num_samples"], report["faults"]) == (True, 20, [])


def test_an_image_that_no_longer_decodes_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = open_index(folder, "train")
    path = folder / index.shards[0].name
    content = bytearray(path.read_bytes())
    content[index.offset[2] + 2 : index.offset[2] + index.length[2]] = bytes(int(index.length[2]) - 2)
    path.write_bytes(content)
    assert main(["verify", str(folder), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{path.name}: '{index.key(2)}': the image's header cannot be read") for line in lines)
    assert any("SHA-256" in line for line in lines)


def test_a_label_changed_in_place_is_named_with_both_values(folder: Path) -> None:
    index = open_index(folder, "train")
    path = folder / index.shards[0].name
    content = path.read_bytes()
    old = str(index.label[0]).encode().ljust(512, b"\0")
    start = content.index(old)  # keys are in order and ``cls`` sorts before ``jpg``, so this is the first label
    path.write_bytes(content[:start] + b"7" + content[start + 1 :])
    faults = faults_of(folder)
    assert f"{path.name}: '{index.key(0)}': label {index.label[0]} in the index, 7 in the tar" in faults


def test_samples_that_moved_vanished_or_joined_are_named(tmp_path: Path) -> None:
    tar = write_shard(tmp_path / "train-0.tar", [0, 1, 2])
    build_index(tmp_path, "train", [tar])
    write_shard(tar, [1, 2, 0], first=1)
    faults = faults_of(tmp_path)
    assert any("'sample00000': is in the index at byte 512, but not so in the tar" in fault for fault in faults)
    assert any("'sample00003': is in the tar at byte" in fault for fault in faults)


def test_missing_unindexed_and_truncated_tars_are_named(folder: Path) -> None:
    write_shard(folder / "train-000900.tar", [0])
    (folder / "val-000000.tar").unlink()
    cut = folder / "train-000001.tar"
    cut.write_bytes(cut.read_bytes()[:5000])
    faults = "\n".join(faults_of(folder))
    assert "train-000900.tar: no index names this tar" in faults
    assert "val-000000.tar: is in val.index, but not in the folder" in faults
    assert "train-000001.tar: not a whole, uncompressed tar" in faults or "train-000001.tar: truncated" in faults


def test_dataset_json_and_dali_indexes_are_held_against_the_shards(folder: Path) -> None:
    (folder / "train-000000.idx").write_text("v1.2 0\n")
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["splits"]["train"]["fingerprint"] = "0"
    dataset["splits"]["train"]["class_counts"] = [1]
    (folder / "dataset.json").write_text(json.dumps(dataset))
    assert faults_of(folder) == [
        "train.index: its fingerprint is not the one in dataset.json",
        "train.index: holds label 1, but dataset.json has 1 classes",
        "train-000000.idx: does not fit its tar",
    ]


def test_a_folder_without_an_index_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "stats"):
        assert main([command, str(tmp_path)]) == 2
        assert "no index; make one with" in capsys.readouterr().err
        assert main([command, str(tmp_path / "nowhere")]) == 2
        assert "does not exist" in capsys.readouterr().err


def test_ctrl_c_says_what_verify_has_left_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tools.shards.commands.verify_folder", interrupt)
    assert main(["verify", str(folder)]) == 130
    message = "error: interrupted; nothing was changed or listed; the same command begins anew\n"
    assert capsys.readouterr().err == message


def test_index_serves_shards_that_somebody_else_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "validation"):
        members = [("a/x.jpg", jpeg_bytes(0, 30, 20)), ("a/x.json", b'{"class": 4}')]
        write_tar(tmp_path / f"imagenet1k-{split}-0000.tar", members)
    assert main(["index", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert "no field 'label', but: class; name one with --label-field" in output.out
    assert output.err.splitlines()[-1].startswith("error: 1 fault(s) in the shards")
    assert main(["index", str(tmp_path), "--label-field", "class"]) == 0
    assert "train: 1 samples in 1 shards, labels 4 to 4" in capsys.readouterr().out
    assert open_index(tmp_path, "val").label.tolist() == [4]
    assert (tmp_path / "imagenet1k-train-0000.idx").read_text().startswith("v1.2 1\njpg ")
    assert faults_of(tmp_path) == []


def test_index_takes_a_split_by_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "first-0.tar", [0, 1])
    write_shard(tmp_path / "second-0.tar", [2])
    assert main(["index", str(tmp_path), "--split", "val", "--pattern", "second-*.tar"]) == 0
    assert open_index(tmp_path, "val").label.tolist() == [2]
    assert main(["index", str(tmp_path), "--split", "val", "--pattern", "second-*.tar", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.partition("\n")[2])["splits"]["val"]
    assert (told["num_samples"], told["min_label"], told["max_label"], told["excluded"]) == (1, 2, 2, [])
    assert main(["index", str(tmp_path), "--split", "val"]) == 2
    assert main(["index", str(tmp_path), "--split", "val", "--pattern", "third*"]) == 2
    assert "no tar third*" in capsys.readouterr().err
    assert main(["index", str(tmp_path / "nowhere")]) == 2


def test_stats_count_what_is_there(converted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", str(converted), "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["classes"] == ["class_0", "class_1"]
    index = open_index(converted, "train")
    train = stats["splits"]["train"]
    assert train["num_samples"] == index.num_samples
    assert train["class_counts"] == np.bincount(index.label).tolist()
    assert train["width"] == {"min": 40, "median": 40, "max": 40}
    assert train["image_bytes"]["max"] == index.length.max()
    assert main(["stats", str(converted)]) == 0
    assert "class_1" in capsys.readouterr().out


def test_stats_say_how_the_images_were_stored(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image_folder(tmp_path / "images", 2, 1, width=40, height=30)
    write_image_folder(tmp_path / "images", 1, 1, width=20, height=15)
    arguments = ["--source", f"imagefolder:{tmp_path / 'images'}", "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(["convert", *arguments, "--resize", "24"]) == 0
    capsys.readouterr()
    assert main(["stats", str(converted)]) == 0
    assert capsys.readouterr().out.startswith("images are stored as they were\n")
    assert main(["stats", str(tmp_path / "out")]) == 0
    told = "images are stored as they were, shrunk to at most 24 px on the shorter side; quality 90 where JPEG"
    assert capsys.readouterr().out.startswith(told)
    assert main(["stats", str(tmp_path / "out"), "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["encoding"] == {"format": "keep", "quality": None, "resize_shorter": 24}
    assert stats["splits"]["train"]["height"] == {
        "min": 15,
        "median": 19,
        "max": 24,
    }


def test_stats_of_labels_that_number_no_classes_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "train-0.tar", [0, 2**31 - 1, 7, 7])
    assert main(["index", str(tmp_path)]) == 0
    assert main(["stats", str(tmp_path)]) == 0
    assert "labels go up to 2,147,483,647 for 4 images, so they number no classes" in capsys.readouterr().out
    assert main(["stats", str(tmp_path), "--json"]) == 0
    train = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert (train["class_counts"], train["max_label"]) == (None, 2**31 - 1)
    assert train["samples_per_class"] == {"min": 1, "median": 1, "max": 2}


def test_score_maps_that_changed_or_are_of_other_images_are_named(folder: Path) -> None:
    assert main(["score", str(folder), "--by", "contrast", "--workers", "1"]) == 0
    assert faults_of(folder) == []
    first, second, third = sorted(folder.glob("train-*.contrast.map"))[:3]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(bytes(content))
    shutil.copy2(third, second)
    found = faults_of(folder)
    assert [fault.partition(":")[0] for fault in found] == [first.name, second.name]
    assert "changed on the disk" in found[0]
    assert "was made of other images; make it again with: python -m tools.shards score" in found[1]
