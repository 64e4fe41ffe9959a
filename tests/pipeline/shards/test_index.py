import gzip
import io
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.shared.shard_files import image_bytes, write_shard, write_tar
from pipeline.shards.index import (
    BadShardsError,
    ShardIndex,
    StaleIndexError,
    build_index,
    group_tars,
    index_path,
    open_index,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard(tmp_path / "train-000000.tar", [3, 1, 4])
    write_shard(tmp_path / "train-000001.tar", [1, 5], first=3)
    return tmp_path


def build(folder: Path, split: str = "train") -> ShardIndex:
    return build_index(folder, split, folder.glob("*.tar"))


def faults_of(folder: Path, label_field: str | None = None) -> list[str]:
    with pytest.raises(BadShardsError) as caught:
        build_index(folder, "train", folder.glob("*.tar"), label_field=label_field)
    assert not index_path(folder, "train").exists()
    return [str(fault) for fault in caught.value.faults]


def test_the_index_states_what_a_slow_reading_of_the_tars_finds(folder: Path) -> None:
    build(folder)
    index = open_index(folder, "train")
    row = 0
    for number, name in enumerate(["train-000000.tar", "train-000001.tar"]):
        content = (folder / name).read_bytes()
        with tarfile.open(folder / name) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for image_name in [name for name in members if name.endswith(".png")]:
            key = image_name.removesuffix(".png")
            start, end = index.offset[row], index.offset[row] + index.length[row]
            assert content[start:end] == members[image_name]
            assert (index.shard[row], index.key(row), index.extension(row)) == (number, key, "png")
            assert index.label[row] == int(members[f"{key}.cls"])
            assert (index.width[row], index.height[row]) == Image.open(io.BytesIO(members[image_name])).size
            row += 1
    assert index.num_samples == row == 5
    assert (index.min_label, index.max_label) == (1, 5)
    assert index.shard_sizes.tolist() == [3, 2]
    assert index.describe(3) == f"sample 'sample00003' in train-000001.tar at byte {index.offset[3]}"


def test_columns_are_read_only_views_of_the_mapped_file(folder: Path) -> None:
    build(folder)
    before = pa.total_allocated_bytes()
    index = open_index(folder, "train")
    assert pa.total_allocated_bytes() - before < 1024
    for column in (index.shard, index.offset, index.length, index.label, index.width, index.height):
        assert not column.flags.owndata
        assert not column.flags.writeable


@settings(max_examples=20, deadline=None)
@given(
    shards=st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_any_labels_in_any_division_into_shards_come_back(
    shards: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    for number, labels in enumerate(shards):
        write_shard(folder / f"{number:03d}.tar", labels)
    index = build(folder, "all")
    assert index.label.tolist() == [label for labels in shards for label in labels]
    assert index.shard.tolist() == [number for number, labels in enumerate(shards) for _ in labels]


def test_fingerprint_ignores_folder_and_times_but_not_labels_names_or_order(tmp_path: Path) -> None:
    def fingerprint(name: str, shards: dict[str, list[int]]) -> str:
        for shard, labels in shards.items():
            write_shard(tmp_path / name / shard, labels)
            os.utime(tmp_path / name / shard, ns=(len(name), len(name)))
        return build(tmp_path / name).fingerprint

    first = fingerprint("a", {"0.tar": [1, 2], "1.tar": [3]})
    assert fingerprint("another", {"1.tar": [3], "0.tar": [1, 2]}) == first
    assert fingerprint("labels", {"0.tar": [2, 1], "1.tar": [3]}) != first
    assert fingerprint("names", {"0.tar": [1, 2], "2.tar": [3]}) != first


def test_a_label_rewritten_in_place_makes_the_index_stale(folder: Path) -> None:
    build(folder)
    path = folder / "train-000000.tar"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"3".ljust(512, b"\0"), b"7".ljust(512, b"\0"), 1))
    os.utime(path, ns=(1, 1))
    assert path.stat().st_size == len(content)
    with pytest.raises(StaleIndexError, match=r"train-000000\.tar: was changed .* tools\.shards index"):
        open_index(folder, "train")


def test_a_shard_of_another_size_is_named_with_both_sizes(folder: Path) -> None:
    build(folder)
    with open(folder / "train-000001.tar", "ab") as file:
        file.write(bytes(10240))
    with pytest.raises(StaleIndexError, match=r"train-000001\.tar: has 20480 bytes, but had 10240 .*index"):
        open_index(folder, "train")


def test_a_shard_that_has_gone_is_named(folder: Path) -> None:
    build(folder)
    (folder / "train-000001.tar").unlink()
    with pytest.raises(StaleIndexError, match=r"train-000001\.tar.* no longer in the folder"):
        open_index(folder, "train")


def test_a_copied_folder_opens_with_one_line_that_says_how_to_be_rid_of_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = build(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.glob("train*"):
        shutil.copyfile(path, copy / path.name)
        os.utime(copy / path.name, ns=(5, 5))
    assert open_index(copy, "train").fingerprint == original.fingerprint
    with monkeypatch.context() as reading:  # its shards are not read a second time
        reading.setattr("pipeline.shards.index.scan_shard", None)
        assert open_index(copy, "train").fingerprint == original.fingerprint
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{copy}: shards carry other modification times than in their index")
    assert line.endswith(f"at every start: python -m tools.shards index {copy}")
    build(copy)
    assert open_index(copy, "train").fingerprint == original.fingerprint
    assert capsys.readouterr().err == ""


def test_an_index_of_tars_that_were_selected_is_made_anew_by_selecting_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(folder, "mine")
    os.utime(folder / "train-000000.tar", ns=(5, 5))
    open_index(folder, "mine")
    assert capsys.readouterr().err.endswith(f"index {folder} --split mine --pattern 'GLOB'\n")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_index(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match="neither tars nor an index"):
        open_index(tmp_path, "train")
    tar = write_shard(tmp_path / "train-0.tar", [0])
    with pytest.raises(FileNotFoundError, match=r"is a file; name the folder"):
        open_index(tar, "train")
    with pytest.raises(FileNotFoundError, match=r"tars without an index.*python -m tools\.shards index"):
        open_index(tmp_path, "train")
    build(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no split 'val'; the indexes there are for: train"):
        open_index(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match=r"no \.tar to index"):
        build_index(tmp_path, "val", [])


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "foreign", "version"])
def test_a_corrupt_index_is_named(folder: Path, damage: str) -> None:
    build(folder)
    path = index_path(folder, "train")
    content = path.read_bytes()
    if damage == "foreign":
        batch = pa.record_batch({"x": [1]})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
    else:
        version = content.replace(b'"format_version": 1', b'"format_version": 9')
        damaged = {"empty": b"", "half": content[: len(content) // 2], "garbage": b"x" * 500, "version": version}
        path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"train\.index.*make it again with: python -m tools\.shards index"):
        open_index(folder, "train")


def test_a_folder_without_split_names_serves_as_any_split(tmp_path: Path) -> None:
    write_shard(tmp_path / "00000.tar", [0, 1])
    (split,) = group_tars(tmp_path)
    build(tmp_path, split)
    assert index_path(tmp_path, "all").is_file()
    assert open_index(tmp_path, "train").num_samples == open_index(tmp_path, "val").num_samples == 2


def test_tars_are_grouped_by_the_split_in_their_names(tmp_path: Path) -> None:
    for name in ("imagenet1k-train-0000", "imagenet1k-validation-00", "val_1", "test-0", "train-1"):
        (tmp_path / f"{name}.tar").touch()
    names = {split: [path.stem for path in paths] for split, paths in group_tars(tmp_path).items()}
    assert names == {
        "train": ["imagenet1k-train-0000", "train-1"],
        "val": ["imagenet1k-validation-00", "val_1"],
        "test": ["test-0"],
    }
    (tmp_path / "more.tar").touch()
    with pytest.raises(ValueError, match=r"more\.tar is not; say which"):
        group_tars(tmp_path)


def test_no_tar_of_validation_is_taken_for_one_of_training(tmp_path: Path) -> None:
    for name in ("Train-0", "Training1", "dev-0", "VALID0", "eval-0", "._Train-0"):
        (tmp_path / f"{name}.tar").touch()
    names = {split: [path.stem for path in paths] for split, paths in group_tars(tmp_path).items()}
    assert names == {"train": ["Train-0", "Training1"], "val": ["VALID0", "dev-0"], "test": ["eval-0"]}
    (tmp_path / "holdout-0.tar").touch()
    with pytest.raises(ValueError, match=r"not clear to which split holdout-0.tar belongs; .*--split NAME"):
        group_tars(tmp_path)


def test_keys_with_folders_long_names_dots_and_capitals_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    long = "n0144/" + "x" * 150
    members = [
        (f"{long}.JPG", image_bytes(0, format="JPEG")),
        (f"{long}.Cls", b"5\n"),
        ("n0144/b.jpeg", image_bytes(1, format="JPEG")),
        ("n0144/b.seg.png", b"not the image"),
        ("n0144/b.json", b'{"label": 7, "other": 1}'),
        ("n0144/._b.jpg", b"what macOS adds"),
        ("README", b"no sample"),
    ]
    for name, format in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        folder = tmp_path / name
        tar = write_tar(folder / "train-0.tar", members, format)
        with tarfile.open(tar, "a") as file:
            directory = tarfile.TarInfo("n0144")
            directory.type = tarfile.DIRTYPE
            file.addfile(directory)
        index = build(folder)
        assert [index.key(i) for i in range(2)] == [long, "n0144/b"]
        assert [index.extension(i) for i in range(2)] == ["jpg", "jpeg"]
        assert index.label.tolist() == [5, 7]


def test_labels_come_from_the_named_json_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [("a.png", image_bytes(0)), ("a.json", b'{"label": 1, "fine": 2}'), ("a.cls", b"3")]
    tar = write_tar(tmp_path / "train-0.tar", members)
    assert build_index(tmp_path, "train", [tar]).label.tolist() == [3]
    assert build_index(tmp_path, "train", [tar], label_field="fine").label.tolist() == [2]
    os.utime(tar, ns=(9, 9))
    assert open_index(tmp_path, "train").label.tolist() == [2]
    assert capsys.readouterr().err.endswith(f"index {tmp_path} --label-field fine\n")


def test_every_bad_sample_is_named_with_its_reason(tmp_path: Path) -> None:
    png = image_bytes(0)
    write_tar(
        tmp_path / "train-0.tar",
        [
            ("good.png", png), ("good.cls", b"1"),
            ("nolabel.png", png),
            ("noimage.cls", b"1"),
            ("two.png", png), ("two.jpg", png), ("two.cls", b"1"),
            ("word.png", png), ("word.cls", b"cat"),
            ("negative.png", png), ("negative.cls", b"-1"),
            ("huge.png", png), ("huge.cls", b"99999999999"),
            ("broken.png", b"no header"), ("broken.cls", b"1"),
            ("cut.png", png[:20]), ("cut.cls", b"1"),
            ("field.png", png), ("field.json", b'{"class": 3}'),
            ("float.png", png), ("float.json", b'{"label": 3.5}'),
            ("list.png", png), ("list.json", b"[1]"),
            ("text.png", png), ("text.json", b"{"),
            ("tiff.tif", png), ("tiff.cls", b"1"),
        ],
    )  # fmt: skip
    faults = faults_of(tmp_path)
    expected = {
        "nolabel": r"no label \(cls or json\)",
        "noimage": "no image .* its members are: cls",
        "two": "2 images",
        "word": "b'cat', not an integer",
        "negative": "its label is -1",
        "huge": "its label is 99999999999",
        "broken": "header cannot be read",
        "cut": "header cannot be read",
        "field": "no field 'label', but: class; name one with --label-field",
        "float": "3.5, not an integer",
        "list": "no field 'label', but: list",
        "text": "json member cannot be read",
        "tiff": "no image .* its members are: tif, cls",
    }
    assert len(faults) == len(expected)
    for fault, (key, reason) in zip(faults, expected.items(), strict=True):
        assert re.search(f"^train-0.tar: '{key}': .*{reason}", fault), fault


def test_links_are_refused_because_they_hold_no_bytes(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name, data in (("a.png", image_bytes(0)), ("a.cls", b"1"), ("b.cls", b"1")):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        link = tarfile.TarInfo("b.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a.png"
        tar.addfile(link)
    (fault,) = faults_of(tmp_path)
    assert "'b': b.png is a link" in fault


def test_a_tar_cut_anywhere_is_named(tmp_path: Path) -> None:
    whole = write_shard(tmp_path / "whole.tar", [1, 2]).read_bytes()
    end = whole.rfind(b"2".ljust(512, b"\0")) + 512
    for cut in (0, 100, 700, end - 512, end - 100, end):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "train-7.tar").write_bytes(whole[:cut])
        faults = faults_of(folder)
        assert any(fault.startswith("train-7.tar: ") for fault in faults), (cut, faults)


def test_a_damaged_header_in_the_middle_does_not_end_the_tar_silently(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "train-0.tar", [1, 2, 3])
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        start = tar.getmember("sample00001.png").offset
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    assert faults_of(tmp_path) == [f"train-0.tar: damaged header at byte {start}"]


def test_tars_put_together_and_compressed_or_empty_ones_are_refused(tmp_path: Path) -> None:
    one = write_shard(tmp_path / "one.tar", [1]).read_bytes()
    for name, content, reason in (
        ("joined", one + one, "data follows the mark"),
        ("zipped", gzip.compress(one), "not a whole, uncompressed tar"),
        ("bare", bytes(10240), "holds no samples"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-0.tar").write_bytes(content)
        assert any(reason in fault for fault in faults_of(tmp_path / name)), name


def test_orientation_tags_are_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sink = io.BytesIO()
    Image.new("RGB", (40, 20)).save(sink, "JPEG", exif=exif)
    tar = write_tar(tmp_path / "train-0.tar", [("a.jpg", sink.getvalue()), ("a.cls", b"0")])
    index = build_index(tmp_path, "train", [tar])
    assert (int(index.width[0]), int(index.height[0])) == (40, 20)


def test_an_image_whose_size_is_stated_late_is_read_whole(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    sink = io.BytesIO()
    Image.new("RGB", (33, 22)).save(sink, "JPEG", exif=exif)
    tar = write_tar(tmp_path / "train-0.tar", [("a.jpg", sink.getvalue()), ("a.cls", b"0")])
    assert build_index(tmp_path, "train", [tar]).width.tolist() == [33]


def test_an_index_that_fails_leaves_the_old_one_in_place(folder: Path) -> None:
    build(folder)
    before = index_path(folder, "train").read_bytes()
    write_tar(folder / "train-000002.tar", [("a.png", b"")])
    with pytest.raises(BadShardsError):
        build(folder)
    assert index_path(folder, "train").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_mapped_columns_outlive_the_index_object(folder: Path) -> None:
    labels = build(folder).label
    np.testing.assert_array_equal(labels, [3, 1, 4, 1, 5])
