"""Shards are made for a bucket, and indexed in one, as they are in a folder."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.photographs import write_image_folder
from benchmarks.shared.shard_files import image_bytes, write_tar
from benchmarks.shared.stores import Line, put
from pipeline.addresses import Address
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.reader import SampleReader
from pipeline.storage.cache import CacheSettings
from pipeline.storage.stores import list_names, read_all
from tools.shards.__main__ import main
from tools.shards.stores import publish


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def rows(index: ShardIndex) -> list[tuple]:
    columns = (index.shard, index.offset, index.length, index.label, index.width, index.height)
    return [*zip(*(column.tolist() for column in columns), strict=True)]


def images(index: ShardIndex) -> list[bytes]:
    with SampleReader(index) as reader:
        return [bytes(image) for image in reader.read(np.arange(len(index.shard)))]


def test_a_conversion_into_a_bucket_is_the_one_into_a_folder(
    tmp_path: Path, s3_line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image_folder(tmp_path / "images", 30, 3, width=40, height=30)
    address = Address.parse("s3://made/sets/photos")
    put(tmp_path, address)  # makes the bucket
    command = ["convert", "--source", f"imagefolder:{tmp_path / 'images'}", "--shard-samples", 10, "--workers", 1]
    assert run(*command, "--out", tmp_path / "folder") == 0
    staging = ["--staging", tmp_path / "staging"]
    assert run(*command, "--out", address, *staging) == 0, capsys.readouterr().err
    assert not list((tmp_path / "staging").iterdir())
    assert list_names(address) == sorted(path.name for path in (tmp_path / "folder").iterdir())
    for path in (tmp_path / "folder").glob("*.tar"):
        assert read_all(address.join(path.name)) == path.read_bytes()
    there, here = json.loads(read_all(address.join("dataset.json"))), tmp_path / "folder" / "dataset.json"
    assert there == json.loads(here.read_text())
    remote = open_index(address, "train", CacheSettings(tmp_path / "cache"))
    local = open_index(tmp_path / "folder", "train")
    assert (remote.fingerprint, rows(remote), images(remote)) == (local.fingerprint, rows(local), images(local))
    assert remote.remote is not None
    assert all(file.sha256 for file in remote.remote.files)
    assert run(*command, "--out", address, *staging) == 2
    assert "holds a finished set already" in capsys.readouterr().err


def test_an_interrupted_upload_goes_on_and_nothing_half_sent_counts(
    tmp_path: Path, s3_line: Line, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image_folder(tmp_path / "images", 30, 3, width=40, height=30)
    address = Address.parse("s3://broken-off/set")
    put(tmp_path, address)
    command = ["convert", "--source", f"imagefolder:{tmp_path / 'images'}", "--shard-samples", 10, "--workers", 1]
    command += ["--out", address, "--staging", tmp_path / "staging"]
    sent: list[str] = []

    def break_off(path: Path, to: Address) -> None:
        if len(sent) == 3:
            raise OSError("the plug is pulled")
        sent.append(path.name)
        real(path, to)

    real = publish.upload
    monkeypatch.setattr(publish, "upload", break_off)
    assert run(*command) == 2
    assert "the plug is pulled" in capsys.readouterr().err
    assert not {"dataset.json", "train.index"} & set(list_names(address))
    monkeypatch.setattr(publish, "upload", lambda path, to: (sent.append(path.name), real(path, to)))
    assert run(*command) == 0
    assert len(sent) == len(set(sent)) == len(list_names(address))
    assert sent[-1] == "dataset.json"


def test_tars_in_a_bucket_are_indexed_by_their_headers(
    tmp_path: Path, s3_line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    """Among them long names, which stand in blocks of their own, and an image that is larger than what is asked for."""
    folder = tmp_path / "tars"
    for split, form in (("train", tarfile.GNU_FORMAT), ("val", tarfile.PAX_FORMAT)):
        members = []
        for number in range(12):
            key = f"{number:04d}" + "long" * (40 * (number % 3 == 2))
            image = image_bytes(number, *((400, 300) if number % 4 == 1 else (12, 8)))
            members += [(f"{key}.png", image), (f"{key}.cls", b"%d" % number)]
        write_tar(folder / f"{split}-0.tar", members, form)
    address = Address.parse("s3://found/tars")
    put(folder, address)
    assert run("index", address) == 0, capsys.readouterr().err
    assert run("index", folder) == 0
    assert set(list_names(address)) == {path.name for path in folder.iterdir()}
    for split in ("train", "val"):
        remote, local = open_index(address, split, CacheSettings(tmp_path / "cache")), open_index(folder, split)
        assert (remote.fingerprint, rows(remote), images(remote)) == (local.fingerprint, rows(local), images(local))
    assert read_all(address.join("train-0.idx")) == (folder / "train-0.idx").read_bytes()


def test_a_fault_in_a_bucket_is_named_as_in_a_folder(
    tmp_path: Path, s3_line: Line, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tars"
    write_tar(
        folder / "train-0.tar", [("a.png", image_bytes(0)), ("a.cls", b"0"), ("b.png", b"no image"), ("b.cls", b"1")]
    )
    address = Address.parse("s3://faulty/tars")
    put(folder, address)
    for place in (folder, address):
        assert run("index", place) == 2
        printed = capsys.readouterr()
        assert "train-0.tar: 'b': the image's header cannot be read" in printed.out
    assert list_names(address) == ["train-0.tar"]
    assert run("index", address, "--exclude") == 0
    assert open_index(address, "train", CacheSettings(tmp_path / "cache")).num_samples == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["index", "https://host/x"], "a web server does not list its files"),
        (["index", "s3://user:hush@bucket/x"], "user's name or password"),
        (["index", "s3://bucket/x", "--check"], "--check needs the tars on a disk"),
        (["convert", "--source", "imagefolder:x", "--out", "s3://bucket/x", "--levels", "8"], "leave --levels out"),
        (
            ["convert", "--source", "imagefolder:x", "--out", "s3://bucket/x", "--part", "1/2"],
            "--part needs a folder that all",
        ),
        (["convert", "--source", "imagefolder:x", "--out", "ftp://bucket/x"], "s3://, gs://"),
    ],
)
def test_what_cannot_be_done_in_a_store_is_said(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "hush" not in error
