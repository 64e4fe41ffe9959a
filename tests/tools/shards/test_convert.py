import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from benchmarks.shared.photographs import jpeg_bytes, write_image_folder
from benchmarks.shared.shard_files import image_bytes
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader
from tools.shards.__main__ import main
from tools.shards.convert import Settings, convert, divide
from tools.shards.images import Encoding
from tools.shards.sources.source import Source, SourceSplit
from tools.shards.sources.table import open_source

ROOT = Path(__file__).parents[3]
NUM_IMAGES = 50


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_image_folder(folder, NUM_IMAGES, 3, width=40, height=30)
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def to_shards(images: Path, out: Path, *options: object) -> int:
    return run("convert", "--source", f"imagefolder:{images}", "--out", out, "--workers", 1, *options)


def files_of(folder: Path) -> dict[str, bytes]:
    """All files but the sample indexes, which record when their shards were written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".index"}


def test_every_image_and_label_arrives_once_under_any_sharding(images: Path, tmp_path: Path) -> None:
    assert to_shards(images, tmp_path, "--shard-samples", 8, "--val-fraction", 0.2) == 0
    found = []
    for split in ("train", "val"):
        index = open_index(tmp_path, split)
        assert index.shard_sizes.max() == 8
        with SampleReader(index) as reader:
            data = reader.read(np.arange(index.num_samples))
        found += [(image.tobytes(), int(label)) for image, label in zip(data, index.label, strict=True)]
    expected = [
        (path.read_bytes(), label) for label, folder in enumerate(sorted(images.iterdir())) for path in folder.iterdir()
    ]
    assert sorted(found) == sorted(expected)


def test_json_tells_what_the_shards_hold(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for was_finished in (False, True):
        to_shards(images, tmp_path, "--val-fraction", 0.2, "--json")
        told = json.loads(capsys.readouterr().out)
        assert (told["was_finished"], told["rejected"], list(told["splits"])) == (was_finished, 0, ["train", "val"])
        for split, facts in told["splits"].items():
            index = open_index(tmp_path, split)
            assert (facts["num_samples"], facts["num_shards"]) == (index.num_samples, 1)


def test_dataset_json_holds_classes_and_counts(images: Path, tmp_path: Path) -> None:
    to_shards(images, tmp_path, "--val-fraction", 0.2)
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    assert dataset["classes"] == ["class_0", "class_1", "class_2"]
    assert dataset["rejected"] == 0
    counts = np.zeros(3, dtype=int)
    for split in ("train", "val"):
        facts = dataset["splits"][split]
        index = open_index(tmp_path, split)
        assert facts["num_samples"] == index.num_samples == sum(facts["class_counts"])
        assert facts["num_shards"] == len(index.shards) == 1
        assert facts["num_bytes"] == index.shards[0].size_bytes
        content = (tmp_path / f"{split}-000000.tar").read_bytes()
        assert facts["sha256"] == {f"{split}-000000.tar": hashlib.sha256(content).hexdigest()}
        counts += facts["class_counts"]
    assert counts.tolist() == [17, 17, 16]


def test_webdataset_itself_reads_the_shards(images: Path, tmp_path: Path) -> None:
    to_shards(images, tmp_path)
    urls = [str(path) for path in tmp_path.glob("train-*.tar")]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "cls"))
    assert len(samples) == NUM_IMAGES
    assert samples[0][0].size == (40, 30)
    assert sorted({label for _, label in samples}) == [0, 1, 2]


@pytest.mark.parametrize("spaces", [False, True])
def test_dalis_own_reader_reads_the_shards_with_the_idx_files(images: Path, tmp_path: Path, spaces: bool) -> None:
    from nvidia.dali import fn, pipeline_def

    to_shards(images, tmp_path, "--shard-samples", 20)
    tars = sorted(tmp_path.glob("train-*.tar"))
    if spaces:  # shards of other people may have names with spaces
        with webdataset.TarWriter(str(tars[0]), encoder=False) as writer:
            for number in range(20):
                writer.write({"__key__": f"a b/{number}", "jpg": jpeg_bytes(number, 40, 30), "cls": b"%d" % number})
        assert run("index", tmp_path) == 0
    index = open_index(tmp_path, "train")

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read() -> tuple:
        return tuple(
            fn.readers.webdataset(
                paths=[str(tar) for tar in tars],
                index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
                ext=["jpg", "cls"],
            )
        )

    pipe = read()
    pipe.build()
    with SampleReader(index) as reader:
        for sample_id, expected in enumerate(reader.read(np.arange(NUM_IMAGES))):
            image, label = (np.asarray(output.as_array())[0] for output in pipe.run())
            np.testing.assert_array_equal(image, expected)
            assert int(label.tobytes()) == index.label[sample_id]


def test_bytes_do_not_depend_on_the_number_of_workers(images: Path, tmp_path: Path) -> None:
    many = [image for number in range(3) for image in write_image_folder(tmp_path / "more", 90, number + 1, 20, 20)]
    assert many
    results = []
    for workers in (1, 3):
        out = tmp_path / str(workers)
        assert to_shards(tmp_path / "more", out, "--workers", workers, "--resize-shorter", 16) == 0
        results.append(files_of(out))
    assert results[0] == results[1]


def test_the_seed_changes_the_order_and_what_is_held_out(images: Path) -> None:
    source = open_source(f"imagefolder:{images}", images)

    def names(seed: int, split: str) -> list[str]:
        content, positions = divide(source, Settings(val_fraction=0.3, seed=seed))[split]
        return [content.names[position] for position in positions]

    assert names(0, "train") != names(1, "train")
    assert sorted(names(0, "val")) != sorted(names(1, "val"))
    assert set(names(0, "train")).isdisjoint(names(0, "val"))
    assert len(names(0, "train")) + len(names(0, "val")) == NUM_IMAGES
    assert 5 <= len(names(0, "val")) <= 25


def test_an_image_that_joins_moves_no_other_between_splits() -> None:
    def held_out(names: list[str]) -> set[str]:
        source = Source(["a"], {"train": SourceSplit(names, lambda position: (b"", 0))})
        content, positions = divide(source, Settings(val_fraction=0.25))["val"]
        return {content.names[position] for position in positions}

    names = [f"image {number}" for number in range(1000)]
    first = held_out(names)
    assert 200 < len(first) < 300
    later = held_out(["new", *reversed(names)])
    assert later - {"new"} == first


def test_images_of_a_block_stay_together_and_are_shuffled_within_it() -> None:
    blocks = [number // 10 for number in range(50)]
    names = [str(number) for number in range(50)]
    source = Source(["a"], {"train": SourceSplit(names, lambda position: (b"", 0), blocks)})
    _, positions = divide(source, Settings())["train"]
    assert sorted(positions.tolist()) == list(range(50))
    groups = (positions // 10).reshape(5, 10)
    assert all(len(set(group)) == 1 for group in groups.tolist())
    assert groups[:, 0].tolist() != [0, 1, 2, 3, 4]
    assert positions[:10].tolist() != sorted(positions[:10].tolist())


def test_shards_end_at_the_byte_limit(images: Path, tmp_path: Path) -> None:
    to_shards(images, tmp_path, "--shard-bytes", 12_000)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.tar"))]
    assert len(sizes) > 3
    assert all(12_000 <= size <= 12_000 + 20_480 for size in sizes[:-1])


@pytest.fixture
def broken(images: Path, tmp_path: Path) -> Path:
    """The images, with four that are broken and a GIF."""
    folder = tmp_path / "broken"
    shutil.copytree(images, folder)
    (folder / "class_0/0000.jpg").write_bytes(b"")
    (folder / "class_1/0001.jpg").write_bytes(jpeg_bytes(1)[:5000])
    (folder / "class_2/0002.jpg").write_bytes(b"no image")
    Image.new("P", (30, 30)).save(folder / "class_0/0003.gif")
    (folder / "class_1/notes.txt").write_text("not an image either")
    return folder


def test_a_truncated_jpeg_and_its_like_are_named_in_rejected_jsonl(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert to_shards(broken, out, "--shard-samples", 10) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: 4 image(s) were rejected and --max-rejected is 0.")
    rejected = {
        entry["source"]: entry["reason"] for entry in map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    }
    assert rejected.keys() == {
        "class_0/0000.jpg",
        "class_1/0001.jpg",
        "class_2/0002.jpg",
        "class_1/notes.txt",
    }
    assert rejected["class_0/0000.jpg"] == "the file is empty"
    assert "truncated" in rejected["class_1/0001.jpg"]
    assert open_index(out, "train").num_samples == NUM_IMAGES - 3 + 1

    before = files_of(out)
    assert to_shards(broken, out, "--shard-samples", 10, "--max-rejected", 4) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert files_of(out) == before


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stop_after", [1, 9, 10, 11, 37, 51, 52])
def test_an_interrupted_conversion_goes_on_and_gives_the_same_bytes(
    broken: Path, tmp_path: Path, stop_after: int
) -> None:
    settings = Settings(val_fraction=0.3, shard_samples=5)
    source = open_source(f"imagefolder:{broken}", tmp_path)
    convert(source, "x", tmp_path / "whole", settings)
    seen = 0

    def stop(count: int) -> None:
        nonlocal seen
        seen += count
        if seen == stop_after:
            raise Killed

    with pytest.raises(Killed):
        convert(source, "x", tmp_path / "halves", settings, on_images=stop)
    (tmp_path / "halves" / ".train-000009.tar.tmp").write_bytes(b"what a kill leaves behind")
    with open(tmp_path / "halves" / "conversion.jsonl", "ab") as journal:
        journal.write(b'{"split": "tra')
    done = []
    convert(source, "x", tmp_path / "halves", settings, on_total=lambda total, before: done.append((total, before)))
    assert done[0][1] == 0 or done[0][1] > stop_after - 9
    assert files_of(tmp_path / "halves") == files_of(tmp_path / "whole")
    assert not list((tmp_path / "halves").glob(".*"))


def test_a_killed_conversion_goes_on_and_leaves_no_process_behind(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "images", 400, 2, width=60, height=60)
    arguments = ["convert", "--source", f"imagefolder:{tmp_path / 'images'}", "--shard-samples", "20"]
    arguments += ["--resize-shorter", "50", "--format", "png", "--workers", "2"]
    out = tmp_path / "killed"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.shards", *arguments, "--out", str(out)], cwd=ROOT, stdout=log, stderr=log
        )
    wait_for(lambda: process.poll() is not None or len(list(out.glob("*.tar"))) >= 3)
    workers = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    assert main([*arguments, "--out", str(out)]) == 0
    assert main([*arguments, "--out", str(tmp_path / "whole"), "--workers", "1"]) == 0
    assert files_of(out) == files_of(tmp_path / "whole")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if int(parent) == pid:
            found.append(int(path.parent.name))
    return found


def test_going_on_with_other_settings_is_refused(images: Path, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise Killed

    source = open_source(f"imagefolder:{images}", tmp_path)
    with pytest.raises(Killed):
        convert(source, "x", tmp_path / "out", Settings(), on_images=stop)
    with pytest.raises(ValueError, match=r"unfinished conversion with other settings .seed: 0, now 1"):
        convert(source, "x", tmp_path / "out", Settings(seed=1))


def test_a_folder_of_something_else_is_left_alone(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(out: Path, message: str, *options: object) -> None:
        before = files_of(out) if out.is_dir() else None
        assert to_shards(images, out, *options) == 2
        (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert message in error
        assert (files_of(out) if out.is_dir() else None) == before

    done = tmp_path / "done"
    assert to_shards(images, done) == 0
    refused(done, "another conversion (resize_shorter: None, now 20)", "--resize-shorter", 20)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "a.tar").write_bytes(b"mine")
    refused(foreign, "holds a.tar and 0 more file(s) that no conversion")
    refused(foreign / "a.tar", "is a file; --out names a folder")
    (done / "dataset.json").write_text("{")
    refused(done, "dataset.json: cannot be read")


def test_two_conversions_do_not_write_into_one_folder(images: Path, tmp_path: Path) -> None:
    source = open_source(f"imagefolder:{images}", tmp_path)
    messages = []

    def start_another(total: int, done: int) -> None:
        with pytest.raises(ValueError, match="another conversion is writing here") as caught:
            convert(source, "x", tmp_path / "out", Settings())
        messages.append(str(caught.value))

    convert(source, "x", tmp_path / "out", Settings(), on_total=start_another)
    assert messages


def test_a_source_without_a_usable_image_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images/a").mkdir(parents=True)
    (tmp_path / "images/a/x.jpg").write_bytes(b"nothing")
    assert to_shards(tmp_path / "images", tmp_path / "out") == 2
    assert "no usable image: all 1 were rejected, the first because no known" in capsys.readouterr().err
    assert "x.jpg" in (tmp_path / "out/rejected.jsonl").read_text()


def test_options_that_do_not_fit_are_refused_in_one_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, message in (
        (("--val-fraction", 1), "val-fraction 1.0; allowed is 0 up to"),
        (("--val-fraction", 1e-9), "leaves no image for split 'val'"),
        (("--shard-samples", 0), "shard-samples 0"),
        (("--workers", 0), "workers 0"),
        (("--quality", 101), "quality 101"),
    ):
        assert to_shards(images, tmp_path / "out", *options) == 2
        assert re.search(f"^error: .*{message}", capsys.readouterr().err, re.MULTILINE)
    for split in ("train", "val"):
        (tmp_path / "split" / split / "a").mkdir(parents=True)
        (tmp_path / "split" / split / "a" / "1.png").write_bytes(image_bytes(1))
    assert to_shards(tmp_path / "split", tmp_path / "out", "--val-fraction", 0.1) == 2
    assert "splits of its own (train, val); leave --val-fraction out" in capsys.readouterr().err
    assert to_shards(tmp_path / "nowhere", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_files_that_are_listed_but_missing_are_rejected_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_bytes(1))
    (tmp_path / "list.csv").write_text("path,label\na.png,0\ngone.png,1\n")
    out = tmp_path / "out"
    arguments = ("convert", "--source", f"csv:{tmp_path / 'list.csv'}", "--out", out, "--max-rejected", 1)
    assert run(*arguments) == 0
    assert json.loads((out / "rejected.jsonl").read_text()) == {
        "source": "gone.png",
        "reason": "cannot be read: No such file or directory",
    }


def test_the_format_and_size_that_were_asked_for_are_what_is_stored(images: Path, tmp_path: Path) -> None:
    settings = Settings(encoding=Encoding("webp", resize_shorter=15))
    convert(open_source(f"imagefolder:{images}", tmp_path), "x", tmp_path / "out", settings)
    index = open_index(tmp_path / "out", "train")
    assert {index.extension(i) for i in range(index.num_samples)} == {"webp"}
    assert set(index.width.tolist()) == {20}
    assert set(index.height.tolist()) == {15}


def test_what_is_passed_over_and_classes_without_training_images_are_told(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "in/train")
    shutil.copytree(images, tmp_path / "in/val")
    shutil.rmtree(tmp_path / "in/train/class_1")
    (tmp_path / "in/train/class_1").mkdir()
    (tmp_path / "in/train/class_0/Thumbs.db").write_bytes(b"x")
    (tmp_path / "in/train/class_0/.DS_Store").write_bytes(b"x")
    assert to_shards(tmp_path / "in", tmp_path / "out") == 0
    told = capsys.readouterr().out
    gap = "1 class (1 class_1) of 3 in val (17 image(s)), but never in training"
    assert gap in told
    assert "passed over: 1 Thumbs.db, 1 hidden\n" in told
    assert json.loads((tmp_path / "out/dataset.json").read_text())["passed_over"] == {"Thumbs.db": 1, "hidden": 1}
    assert to_shards(tmp_path / "in", tmp_path / "out", "--json") == 0
    assert json.loads(capsys.readouterr().out)["passed_over"] == {"Thumbs.db": 1, "hidden": 1}
    assert run("stats", tmp_path / "out") == 0
    assert gap in capsys.readouterr().out


def test_shards_are_not_written_into_the_folder_that_they_are_made_from(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (images, images / "shards", images / "class_0" / ".." / "shards"):
        assert to_shards(images, out) == 2
        assert f"--out {out} is the source's folder {images} or lies in it" in capsys.readouterr().err
    assert not (images / "shards").exists()


def test_options_of_one_source_are_refused_for_another(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert to_shards(images, tmp_path / "out", "--label-column", "x") == 2
    assert "--label-column says nothing about source 'imagefolder'; it is for csv, parquet" in capsys.readouterr().err
    assert to_shards(images, tmp_path / "out", "--split-map", "class_9=val") == 2
    assert "nothing in" in capsys.readouterr().err
    assert to_shards(images, tmp_path / "out", "--split-map", ".=val") == 0
    assert open_index(tmp_path / "out", "val").num_samples == NUM_IMAGES


def test_a_home_folder_is_written_as_a_tilde(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(images.parent))
    assert run("convert", f"--source=imagefolder:~/{images.name}", f"--out={tmp_path / 'out'}", "--workers=1") == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("verify", "~/out") == 0
