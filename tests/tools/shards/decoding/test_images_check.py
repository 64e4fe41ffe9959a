"""Files that Pillow reads and the loader does not, or not alike: conversion, index, verify and loader, one by one."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.damaged_images.files import FILES, png_chunk
from benchmarks.damaged_images.loading import LoaderJudge
from benchmarks.damaged_images.shards import NUM_SOUND
from benchmarks.shared.photographs import jpeg_bytes, photograph
from benchmarks.shared.shard_files import write_tar
from pipeline.shards.index import ShardIndex, open_index
from pipeline.shards.reader import SampleReader
from tools.shards.__main__ import main
from tools.shards.convert import Settings, convert
from tools.shards.images import pixels_of
from tools.shards.sources.table import open_source


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_of_missing_rows() -> bytes:
    [header, *_, end] = png_chunks(FILES["PNG"](0))
    height, width = struct.unpack(">II", header[1][:8])[::-1]
    rows = zlib.compress(bytes((height - 5) * (1 + 3 * width)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in (header, (b"IDAT", rows), end))


def png_of_a_broken_checksum() -> bytes:
    data = FILES["PNG"](0)
    return data[:-13] + bytes([data[-13] ^ 1]) + data[-12:]


def padded_webp() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "holiday"
    for seed in range(20):
        sink = io.BytesIO()
        Image.fromarray(photograph(seed, 24, 16)).save(sink, "WEBP", lossless=True, exif=exif)
        if sink.getvalue()[34] & 1:
            return sink.getvalue()
    raise AssertionError("none of 20 has a padded chunk")


ODD = {
    "a.png": FILES["PNG"](0)[:-12],
    "b.png": png_of_missing_rows(),
    "c.png": png_of_a_broken_checksum(),
    "d.jpg": FILES["JPEG, lossless"](0),
    "e.jpg": FILES["JPEG, CMYK without Adobe marker"](0),
    "f.webp": padded_webp(),
    "g.bmp": FILES["BMP, 16 bits"](0),
    "h.jpg": FILES["JPEG"](0)[:2] + b"\xff\0" + FILES["JPEG"](0)[2:],
}


def loader_causes(index: ShardIndex) -> list[str]:
    with SampleReader(index) as reader:
        kept = np.setdiff1d(np.arange(len(index.label)), index.excluded)
        return LoaderJudge(index, reader).judge(kept.tolist())


def sound_members(first: int) -> list[tuple[str, bytes]]:
    """Members of sound samples, of which the loader takes substitutes."""
    members = []
    for number in range(first, first + NUM_SOUND):
        members += [(f"s{number:03d}.jpg", jpeg_bytes(number, 40, 30)), (f"s{number:03d}.cls", b"1")]
    return members


def test_what_the_loader_cannot_use_is_stored_as_png_counted_and_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in ODD.items():
        (tmp_path / "images/odd").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images/odd" / name).write_bytes(data)
    for number in range(NUM_SOUND):
        (tmp_path / "images/odd" / f"s{number:03d}.jpg").write_bytes(jpeg_bytes(number, 40, 30))
    out = tmp_path / "out"
    command = ["convert", "--source", f"imagefolder:{tmp_path / 'images'}", "--out", str(out), "--workers", "1"]
    assert main(command) == 0
    told = capsys.readouterr().out
    reencoded = json.loads((out / "dataset.json").read_text())["reencoded"]
    assert sum(reencoded.values()) == len(ODD)
    for reason in (
        "its negative",
        "odd length",
        "16 bits and compression 0",
        "kind of JPEG image",
        "kind of PNG image",
    ):
        assert sum(reason in one for one in reencoded) == 1
    assert all(f"encoded anew: {count:,}: {reason}\n" in told for reason, count in reencoded.items())
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reencoded"] == reencoded

    index = open_index(out, "train")
    with SampleReader(index) as reader:
        stored = {image.tobytes() for image in reader.read(np.arange(index.num_samples))}
    expected = {pixels_of(data).tobytes() for data in ODD.values()}
    assert expected <= {pixels_of(image).tobytes() for image in stored if image[:4] == b"\x89PNG"}
    assert not stored & set(ODD.values())
    assert main(["verify", str(out), "--workers", "1"]) == 0
    assert loader_causes(index) == [""] * index.num_samples


def test_a_conversion_that_was_stopped_counts_what_was_encoded_anew_before(tmp_path: Path) -> None:
    (tmp_path / "images/odd").mkdir(parents=True)
    for number in range(12):
        Image.new("P", (20, 10 + number)).save(tmp_path / "images/odd" / f"{number:02d}.gif")
    spec, settings = f"imagefolder:{tmp_path / 'images'}", Settings(shard_samples=4)
    done = 0

    def stop(count: int) -> None:
        nonlocal done
        done += count
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(open_source(spec, tmp_path), spec, tmp_path / "out", settings, on_images=stop)
    finished = convert(open_source(spec, tmp_path), spec, tmp_path / "out", settings).dataset
    assert finished["reencoded"] == {"GIF, a format that the loader does not take": 12}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """The same files in a tar that another program wrote, with sound ones behind them."""
    members = []
    for name, data in ODD.items():
        members += [(name, data), (f"{name[0]}.cls", b"0")]
    write_tar(tmp_path / "train-000000.tar", [*members, *sound_members(0)])
    return tmp_path


def test_verify_names_in_foreign_shards_what_the_loader_does_and_excludes_it(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(foreign)]) == 0
    index = open_index(foreign, "train")
    bad = {index.key(i) for i, cause in enumerate(loader_causes(index)) if cause}
    assert bad == {name[0] for name in ODD}
    capsys.readouterr()
    assert main(["verify", str(foreign), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert {line.split("'")[1] for line in lines[:-1]} == bad
    assert all("a conversion would encode it anew" in line for line in lines[:-1])
    negative = "a CMYK JPEG without Adobe marker: the loader would show its negative"
    assert f"train-000000.tar: 'e': {negative}; a conversion would encode it anew" in lines

    assert main(["verify", str(foreign), "--exclude", "--workers", "1"]) == 0
    assert loader_causes(open_index(foreign, "train")) == [""] * NUM_SOUND


def test_index_with_check_decodes_every_image_and_without_it_none(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["index", str(foreign), "--check", "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(ODD) + NUM_SOUND} samples in 1 shards: {len(ODD)} fault(s)"
    assert main(["index", str(foreign), "--check", "--exclude", "--workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["check"]["ok"], told["check"]["num_excluded"]) == (True, len(ODD))
    assert open_index(foreign, "train").num_samples == NUM_SOUND


def test_a_check_of_one_split_leaves_the_others_alone(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tar(foreign / "other-000000.tar", sound_members(0))
    command = ["index", str(foreign), "--split", "val", "--pattern", "other-*.tar", "--check", "--workers", "1"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{NUM_SOUND} samples in 1 shards: no fault"
