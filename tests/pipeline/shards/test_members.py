"""Samples whose images and labels lie in other members than the usual, or in more of them than there should be."""

import os
import re
from pathlib import Path

import pytest

from benchmarks.shared.shard_files import image_bytes, write_shard, write_tar
from pipeline.shards.index import BadShardsError, build_index, open_index, read_index
from pipeline.shards.tars import Members, scan_shard

PNG = image_bytes(0)


def faults_of(tmp_path: Path, members: list[tuple[str, bytes]], *wanted: str | None) -> list[str]:
    return [str(fault) for fault in scan_shard(write_tar(tmp_path / "train-0.tar", members), *wanted).faults]


@pytest.mark.parametrize("label", ["cls", "json", "Cls"])
def test_two_labels_of_one_key_are_a_fault(tmp_path: Path, label: str) -> None:
    members = [("0.png", PNG), (f"0.{label.lower()}", b"0"), (f"0.{label}", b"1"), ("1.png", PNG), ("1.cls", b"1")]
    (fault,) = faults_of(tmp_path, members)
    assert fault.startswith("train-0.tar: '0': more than one member for one label (0.")


def test_images_and_labels_of_other_names_are_found_and_remembered(tmp_path: Path) -> None:
    members = []
    for number in range(3):
        members += [(f"{number}.input.png", image_bytes(number)), (f"{number}.target.png", PNG)]
        members += [(f"{number}.label.txt", b" %d\n" % (5 + number)), (f"{number}.cls", b"0")]
    tar = write_tar(tmp_path / "train-0.tar", members)
    index = build_index(tmp_path, "train", [tar], image_member="input.png", label_member="label.txt")
    assert index.label.tolist() == [5, 6, 7]
    assert [index.key(number) for number in range(3)] == ["0", "1", "2"]
    assert index.members == Members(None, "input.png", "label.txt")
    os.utime(tar, ns=(9, 9))  # so that it is scanned again, by what the index remembers
    assert open_index(tmp_path, "train").label.tolist() == [5, 6, 7]


def test_a_label_member_may_be_json(tmp_path: Path) -> None:
    members = [("0.png", PNG), ("0.meta.json", b'{"label": 2, "fine": 7}'), ("0.cls", b"1")]
    tar = write_tar(tmp_path / "train-0.tar", members)
    assert build_index(tmp_path, "train", [tar], label_member="meta.json").label.tolist() == [2]
    assert build_index(tmp_path, "train", [tar], label_member="meta.json", label_field="fine").label.tolist() == [7]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("0.input.png", PNG), ("0.cls", b"0")], "of each sample is input.png, say --image-member input.png"),
        ([("0.png", PNG), ("0.cls.txt", b"0")], "of each sample is cls.txt, say --label-member cls.txt"),
        ([("a.v1.png", PNG), ("a.v1.cls", b"0")], "where dots belong to the keys, write the tars with others"),
        ([("0.png", PNG), ("0.jpg", PNG), ("0.cls", b"0")], "2 images .*, not one; .* --image-member says which"),
        ([("0.png", PNG), ("0.cls", b"cat")], "its cls member holds b'cat', not an integer"),
    ],
)
def test_what_is_not_found_comes_with_a_way_on(tmp_path: Path, members: list[tuple[str, bytes]], told: str) -> None:
    (fault,) = faults_of(tmp_path, members)
    assert re.search(told, fault), fault


def test_a_named_member_that_is_missing_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, [("0.tif", PNG), ("0.cls", b"0")], None, "input.png")
    assert fault.endswith("no image (input.png); its members are: tif, cls")


def test_samples_whose_members_lie_apart_are_told_how_to_be_sorted(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, [("0.png", PNG), ("1.png", PNG), ("1.cls", b"1"), ("0.cls", b"0")])
    assert len(faults) == 2
    assert all("write it anew, such as with tar --sort=name" in fault for fault in faults)
    assert "tar --sort=name" not in faults_of(tmp_path, [("0.png", PNG), ("1.png", PNG), ("1.cls", b"1")])[0]


def test_an_empty_tar_has_no_sample_and_no_fault(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", [3, 1])
    write_tar(tmp_path / "train-1.tar", [])
    write_shard(tmp_path / "train-2.tar", [2])
    index = build_index(tmp_path, "train", tmp_path.glob("*.tar"))
    assert index.shard_sizes.tolist() == [2, 0, 1]
    assert open_index(tmp_path, "train").label.tolist() == [3, 1, 2]
    write_tar(tmp_path / "train-3.tar", [("README", b"x")])
    with pytest.raises(BadShardsError, match=r"train-3.tar: holds no samples, but 1 file\(s\) whose names"):
        build_index(tmp_path, "train", tmp_path.glob("*.tar"))


def test_an_index_of_the_usual_members_is_as_it_was_before_there_were_others(tmp_path: Path) -> None:
    index = build_index(tmp_path, "train", [write_shard(tmp_path / "train-0.tar", [3, 1])])
    assert b"_member" not in (tmp_path / "train.index").read_bytes()
    assert read_index(tmp_path / "train.index").members == index.members == Members()
