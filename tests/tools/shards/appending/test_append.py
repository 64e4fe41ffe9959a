"""``append``: what a set is afterwards, what comes along, what is refused, and that no kill leaves it in between."""

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import image_bytes, write_shard, write_tar
from pipeline.selection.maps import ScoreMaps
from pipeline.shards.exclusion import exclusion_path, read_exclusion
from pipeline.shards.index import index_path, open_index
from pipeline.shards.levels import open_with_levels
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import open_units
from tools.shards.__main__ import main
from tools.shards.appending import larger_folder
from tools.shards.appending.append import append
from tools.shards.appending.larger_folder import _exchange
from tools.shards.appending.new_shards import next_names
from tools.shards.verify import verify_folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def samples_of(folder: Path, split: str = "train") -> list[tuple[str, int, bytes]]:
    """Key, label and image of each sample in order."""
    index = open_index(folder, split)
    ids = index.sample_ids(np.arange(index.num_samples)).tolist()
    found = []
    for i in ids:
        with index.shard_path(int(index.shard[i])).open("rb") as file:
            image = os.pread(file.fileno(), int(index.length[i]), int(index.offset[i]))
        found.append((index.key(i), int(index.label[i]), image))
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with all that may lie beside shards, ``set``, and others of its classes: ``new`` has all of that too."""
    folder = tmp_path_factory.mktemp("append")
    for name, numbers in (("set", range(20)), ("new", range(100, 109))):
        images = folder / f"{name}-images"
        for number in numbers:
            path = images / f"class_{number % 3}" / f"{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg_bytes(number, 48, 40, addressable=True))
        options = ("--shard-samples", 6, "--workers", 1, "--val-fraction", 0.2, "--levels", 24)
        assert run("convert", "--source", f"imagefolder:{images}", "--out", folder / name, *options) == 0
        assert run("units", folder / name, "--workers", 1) == 0
        assert run("score", folder / name, "--by", "contrast", "--workers", 1) == 0
    return folder


@pytest.fixture
def sets(made: Path, tmp_path: Path) -> Path:
    """Copies that a test may change."""
    shutil.copytree(made, tmp_path / "sets")
    return tmp_path / "sets"


def test_the_new_samples_stand_behind_those_of_the_set(sets: Path) -> None:
    before = {split: samples_of(sets / "set", split) for split in ("train", "val")}
    new = {split: samples_of(sets / "new", split) for split in ("train", "val")}
    shown = files_of(sets / "new")
    assert run("append", sets / "set", sets / "new") == 0
    for split in ("train", "val"):
        assert samples_of(sets / "set", split) == before[split] + new[split]
    assert files_of(sets / "new") == shown
    assert sorted(path.name for path in sets.iterdir()) == ["new", "new-images", "set", "set-images"]


def test_a_set_that_was_appended_to_is_one_that_was_indexed_so(sets: Path) -> None:
    assert run("append", sets / "set", sets / "new", "--split", "train") == 0
    assert verify_folder(sets / "set").faults == []
    found = open_index(sets / "set", "train")
    assert [shard.name for shard in found.shards] == [f"train-{number:06d}.tar" for number in range(5)]
    described = json.loads((sets / "set/dataset.json").read_text())["splits"]["train"]
    assert (described["num_samples"], described["num_shards"]) == (found.num_samples, 5)
    assert described["class_counts"] == np.bincount(found.label).tolist()
    assert described["num_bytes"] == sum(shard.size_bytes for shard in found.shards)
    appended = index_path(sets / "set", "train").read_bytes()
    assert run("index", sets / "set") == 0
    assert index_path(sets / "set", "train").read_bytes() == appended


def test_what_lies_beside_the_shards_comes_along(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside = files_of(sets / "new")
    assert run("append", sets / "set", sets / "new") == 0
    assert "missing" not in capsys.readouterr().out
    index, own = open_with_levels(sets / "set", "train", [24]), open_index(sets / "new", "train")
    for shard, was in zip(index.shards[-len(own.shards) :], own.shards, strict=True):
        units, before = open_units(sets / "set", shard), open_units(sets / "new", was)
        assert units is not None
        assert before is not None
        assert np.array_equal(units.lengths, before.lengths)
        name = shard.name.removesuffix(".tar")
        assert (sets / f"set/{name}.idx").read_bytes() == beside[f"{was.name.removesuffix('.tar')}.idx"]
    new = np.arange(index.num_samples - own.num_samples, index.num_samples)
    maps, before_maps = ScoreMaps(index, "contrast"), ScoreMaps(own, "contrast")
    assert np.array_equal(maps.grids(new), before_maps.grids(np.arange(own.num_samples)))
    assert len(maps.facts()) == len(index.shards)
    level = index.levels[0]
    assert np.array_equal(level.length[new], open_with_levels(sets / "new", "train", [24]).levels[0].length)
    assert run("resize-levels", sets / "set", "--levels", 24, "--workers", 1) == 0  # nothing is left to do


def test_samples_that_are_left_out_stay_left_out(tmp_path: Path) -> None:
    for name, first in (("set", 0), ("new", 10)):
        image = image_bytes(first)
        members = [
            ("a.png", image),
            ("a.cls", b"1"),
            ("b.cls", b"0"),
            ("c.png", image_bytes(first + 1)),
            ("c.cls", b"0"),
        ]
        write_tar(tmp_path / name / "train-0000.tar", members)
        assert run("index", tmp_path / name, "--exclude") == 0
        bad = tmp_path / f"{name}.jsonl"
        bad.write_text(json.dumps({"shard": "train-0000.tar", "key": "c", "cause": "is dark"}) + "\n")
        assert run("verify", tmp_path / name, "--workers", 1, "--exclude", "--bad-samples", bad) in (0, 1)
    before = samples_of(tmp_path / "set") + samples_of(tmp_path / "new")
    assert len(before) == 2
    assert run("append", tmp_path / "set", tmp_path / "new") == 0
    assert samples_of(tmp_path / "set") == before
    listed = read_exclusion(exclusion_path(tmp_path / "set", "train")).samples
    assert [(one.shard, one.key, one.sample_id) for one in listed] == [
        *(("train-0000.tar", key, row) for key, row in (("b", None), ("c", 1))),
        *(("train-0001.tar", key, row) for key, row in (("b", None), ("c", 3))),
    ]


def test_what_the_new_shards_lack_is_named_with_the_command_that_makes_it(
    sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pattern in ("*.units", "*.map"):
        for path in (sets / "new").glob(pattern):
            path.unlink()
    shutil.rmtree(sets / "new/level-24")
    assert run("append", sets / "set", sets / "new", "--split", "train") == 0
    told = capsys.readouterr().out
    folder = sets / "set"
    which = "missing beside train-000003.tar and 1 more"
    assert f"{which}: units (have none); to make it: python -m tools.shards units {folder}\n" in told
    assert f"{which}: contrast (have none); to make it: python -m tools.shards score {folder} --by contrast\n" in told
    assert f"{which}: level 24; to make it: rm -r {folder}/level-24 && python -m tools.shards resize-levels" in told
    assert run("units", folder, "--workers", 1) == run("score", folder, "--by", "contrast", "--workers", 1) == 0
    assert verify_folder(folder, splits=["val"]).faults == []
    assert len(ScoreMaps(open_index(folder, "train"), "contrast").facts()) == 5


def test_maps_that_were_made_otherwise_are_not_mixed_in(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (sets / "new").glob("*.map"):
        path.unlink()
    assert run("score", sets / "new", "--by", "contrast", "--grid", 8, "--workers", 1) == 0
    assert run("append", sets / "set", sets / "new", "--split", "train") == 0
    assert "contrast (have some that were made otherwise)" in capsys.readouterr().out


def test_what_changed_is_told(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_index(sets / "set", "train")
    assert run("append", sets / "set", sets / "new/train-000001.tar", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    after = open_index(sets / "set", "train")
    assert told["splits"]["train"] == {
        "split": "train",
        "names": ["train-000003.tar"],
        "before": {"num_samples": before.num_samples, "num_shards": 3, "fingerprint": before.fingerprint},
        "after": {"num_samples": after.num_samples, "num_shards": 4, "fingerprint": after.fingerprint},
    }
    assert any("names no classes" in line for line in told["told"])


def test_shards_that_are_there_already_are_not_appended_again(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("append", sets / "set", sets / "new") == 0
    shown = files_of(sets / "set")
    assert run("append", sets / "set", sets / "new") == 2
    assert "train-000000.tar: is there already, as" in capsys.readouterr().err
    assert run("append", sets / "set", sets / "set") == 2
    assert files_of(sets / "set") == shown


def test_whoever_reads_the_set_meanwhile_goes_on_reading_it(sets: Path) -> None:
    old, index = samples_of(sets / "set"), open_index(sets / "set", "train")
    ids, reader = np.arange(index.num_samples), SampleReader(index)
    append(sets / "set", [sets / "new"])
    assert [bytes(image) for image in reader.read(ids)] == [image for _, _, image in old]


def test_other_classes_are_refused(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = files_of(sets / "set")
    write_shard(tmp_path / "train-0.tar", [0, 1, 3])
    assert run("append", sets / "set", tmp_path / "train-0.tar") == 2
    assert "sample 'sample00002' has label 3, but the classes of" in capsys.readouterr().err
    for classes, what in (
        (["class_0", "class_2", "class_1"], "class 1 is class_2, not class_1"),
        (["a"], "class 0 is"),
    ):
        dataset = json.loads((sets / "new/dataset.json").read_text())
        (sets / "new/dataset.json").write_text(json.dumps(dataset | {"classes": classes}))
        assert run("append", sets / "set", sets / "new") == 2
        assert what in capsys.readouterr().err
    assert files_of(sets / "set") == shown
    assert not [path for path in sets.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_appended_is_refused_in_a_line(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "test-0.tar", [0])
    write_shard(tmp_path / "strange.tar", [0])
    for arguments, what in {
        ("s3://bucket/set", sets / "new"): "s3://bucket/set: shards are appended to a set on a disk",
        (sets / "set", "s3://bucket/new"): "s3://bucket/new: shards are appended from a disk",
        (sets / "set", tmp_path / "nowhere"): "neither a folder of shards nor a .tar",
        (sets / "set", tmp_path / "test-0.tar"): "of the split 'test', and the set has none of that name; --split says",
        (sets / "set", tmp_path / "strange.tar"): "of the split 'all', and the set has none",
        (sets / "set", sets / "new", "--split", "test"): "holds no split 'test'; those there are: train, val",
        (sets / "set/level-24", sets / "new"): "is level 24 of",
        (sets / "set", sets / "new/level-24"): "holds smaller images, a level; name the folder that it lies in",
        (tmp_path, sets / "new"): "no index; make one with",
    }.items():
        assert run("append", *arguments) == 2
        assert what in capsys.readouterr().err
    (sets / "set/conversion.jsonl").touch()
    assert run("append", sets / "set", sets / "new") == 2
    assert "holds an unfinished conversion" in capsys.readouterr().err


def test_a_split_may_be_named_for_tars_whose_names_do_not_say_it(sets: Path, tmp_path: Path) -> None:
    write_shard(tmp_path / "strange.tar", [0, 2])
    assert run("append", sets / "set", tmp_path / "strange.tar", "--split", "val") == 0
    assert [label for _, label, _ in samples_of(sets / "set", "val")][-2:] == [0, 2]


class Killed(BaseException):
    """What no code of the command catches for long."""


def append_until(folder: Path, place: Path, moment: int) -> int:
    """Append, and be killed at a moment: files are linked, renamed and exchanged there. Returns how many there were."""
    moments, real, exchange, rmtree = (
        0,
        {name: getattr(os, name) for name in ("link", "replace")},
        _exchange,
        shutil.rmtree,
    )

    def pass_a_moment() -> None:
        nonlocal moments
        moments += 1
        if moments == moment:
            raise Killed

    def before(name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            pass_a_moment()
            return real[name](*arguments, **options)

        return call

    def exchanged(first: Path, second: Path) -> None:
        pass_a_moment()
        exchange(first, second)
        pass_a_moment()

    def removed(*arguments: Path, **options: bool) -> None:
        if moments < moment:  # a process that was killed clears nothing away
            rmtree(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        for name in real:
            patched.setattr(os, name, before(name))
        patched.setattr(larger_folder, "_exchange", exchanged)
        patched.setattr(shutil, "rmtree", removed)
        with suppress(Killed):
            append(folder, [place])
    return moments


def test_a_kill_at_any_moment_leaves_the_old_set_or_the_new_one(sets: Path) -> None:
    shutil.copytree(sets / "set", sets / "whole")
    last = append_until(sets / "whole", sets / "new", moment=10**9)
    old, shown, new = samples_of(sets / "set"), files_of(sets / "set"), samples_of(sets / "whole")
    for moment in (*range(1, last, 9), last - 1):
        assert append_until(sets / "set", sets / "new", moment) == moment
        assert files_of(sets / "set") == shown
        assert samples_of(sets / "set") == old
    append_until(sets / "set", sets / "new", last)
    assert (sets / ".set.append").exists()
    assert samples_of(sets / "set") == new
    assert verify_folder(sets / "set").faults == []
    with pytest.raises(ValueError, match="is there already"):
        append(sets / "set", [sets / "new"])
    assert not (sets / ".set.append").exists()


def test_where_folders_cannot_be_exchanged_a_killed_call_is_made_good_by_the_next(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoExchange:
        def __init__(self, *_: object, **__: object) -> None: ...

        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(larger_folder.ctypes, "CDLL", NoExchange)
    old = samples_of(sets / "set")
    rename, renamed = os.rename, []

    def killed_at_the_second(*names: object) -> None:
        renamed.append(names)
        if len(renamed) == 2:
            raise Killed
        rename(*names)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed_at_the_second)
        with pytest.raises(Killed):
            append(sets / "set", [sets / "new"])
    assert not (sets / "set").exists()
    append(sets / "set", [sets / "new"])
    assert samples_of(sets / "set") == old + samples_of(sets / "new")
    assert sorted(path.name for path in sets.iterdir()) == ["new", "new-images", "set", "set-images"]


def test_two_calls_do_not_append_at_once(sets: Path) -> None:
    index = index_path(sets / "set", "train")
    with larger_folder.held(sets / "set", index), pytest.raises(ValueError, match="another call"):
        append(sets / "set", [sets / "new"])


@pytest.mark.parametrize(
    ("last", "names"),
    [
        ("train-000009.tar", ["train-000010.tar", "train-000011.tar"]),
        ("imagenet1k-train-0041.tar", ["imagenet1k-train-0042.tar", "imagenet1k-train-0043.tar"]),
        ("7-train.tar", ["8-train.tar", "9-train.tar"]),
    ],
)
def test_new_shards_are_counted_on_from_the_last_one(last: str, names: list[str]) -> None:
    assert next_names(last, 2) == names
    assert sorted([last, *names]) == [last, *names]


def test_names_that_cannot_be_counted_on_are_refused() -> None:
    with pytest.raises(ValueError, match="has no number in its name"):
        next_names("train.tar", 1)
    assert next_names("train-7.tar", 2) == ["train-8.tar", "train-9.tar"]
    with pytest.raises(ValueError, match="3 more shards do not fit into the 1 digits"):
        next_names("train-7.tar", 3)
