"""What can be wrong with addressable JPEGs alone: their units, and the files that say where these lie."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.faults.case import Bench, Case, Checks, tool
from benchmarks.faults.data_cases import BAD_DATA
from benchmarks.faults.photo_runs import BAD_ID, PhotoSet, on_bad, photo_set
from benchmarks.shared.bad_images import HEIGHT, WIDTH
from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.toy_runs import settings
from pipeline.jpeg.addressable import units_of
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import units_path, write_units

GROUP = "addressable shards"
_LONG = settings(train__duration="20000steps", checkpoint__every="1000steps")
_digests: dict[str, str] = {}  # of the run on whose data nothing is wrong


def cases() -> list[Case]:
    """All of them."""
    return [*_no_harm(), *_refused(), *_cut_off(), _replaced_in_a_run(), _cut_in_a_run(), _verified()]


def _sound_digest(bench: Bench) -> str:
    """The weights of a run on the same photographs in ordinary JPEGs."""
    if "sound" not in _digests:
        photos = photo_set(replace(bench, addressable=False), "ordinary JPEGs")
        bench.one_rank.run(photos.argv(*on_bad("fail")))
        _digests["sound"] = photos.digest
    return _digests["sound"]


def _lie(photos: PhotoSet) -> None:
    """Every boundary between two units of the second shard is moved."""
    index, shard = photos.index, photos.index.shards[1]
    random, told = np.random.default_rng(0), []
    with SampleReader(index) as reader:
        for image in reader.read(np.flatnonzero(index.shard == 1)):
            units = units_of(image.tobytes())
            moved = units.lengths.ravel().astype(np.int64)
            for number in range(0, len(moved) - 1, 2):
                more = int(random.integers(-moved[number] + 3, moved[number + 1] - 2))
                moved[number], moved[number + 1] = moved[number] + more, moved[number + 1] - more
            told.append(replace(units, lengths=moved.astype(np.uint16).reshape(units.lengths.shape)))
    write_units(photos.tar(1), shard.digest, told)


def _no_harm() -> list[Case]:
    def nothing(photos: PhotoSet) -> None: ...

    def stale(photos: PhotoSet) -> None:
        shutil.copy(units_path(photos.tar(0)), units_path(photos.tar(1)))

    def absent(photos: PhotoSet) -> None:
        units_path(photos.tar(1)).unlink()

    ways: dict[str, Callable[[PhotoSet], None]] = {
        "nothing is wrong": nothing,
        "a file of units of another shard": stale,
        "no file of units": absent,
        "a file of units whose lengths are not the image's": _lie,
    }

    def case(name: str, change: Callable[[PhotoSet], None]) -> Case:
        def run(bench: Bench, checks: Checks) -> None:
            photos = photo_set(bench, name)
            change(photos)
            code, _ = bench.one_rank.run(photos.argv(*on_bad("fail")))
            checks.code(0, code)
            checks.equal("weights", _sound_digest(bench)[:16], photos.digest[:16])

        return Case(
            GROUP,
            name,
            "of the second of three shards, before the start"
            if change is not nothing
            else "shards and units as they are",
            "the run ends well, with the weights of a run on the same photographs in ordinary JPEGs",
            run,
        )

    return [case(name, change) for name, change in ways.items()]


def _refused() -> list[Case]:
    def cut(photos: PhotoSet) -> None:
        path = units_path(photos.tar(1))
        path.write_bytes(path.read_bytes()[:-100])

    def garbage(photos: PhotoSet) -> None:
        units_path(photos.tar(1)).write_bytes(np.random.default_rng(0).bytes(4000))

    def case(name: str, change: Callable[[PhotoSet], None], mode: str) -> Case:
        def run(bench: Bench, checks: Checks) -> None:
            photos = photo_set(bench, f"{name} {mode}")
            change(photos)
            code, printed = bench.one_rank.run(photos.argv(*on_bad(mode)))
            checks.code(BAD_DATA, code)
            checks.one_line(printed, "train-000001.units: not a readable file of units", "remove it, or make it again")

        return Case(
            GROUP,
            f"{name}, {mode}",
            "of the second of three shards, before the start",
            "code 3 when the shard is first read, and one line that names the file and says what to do",
            run,
        )

    ways = {"a file of units that is cut off": cut, "a file of units that is garbage": garbage}
    return [case(name, change, mode) for name, change in ways.items() for mode in ("fail", "skip")]


def _cut_off() -> list[Case]:
    """A JPEG that ends too early: its units are missing where they should lie."""
    whole = jpeg_bytes(BAD_ID, WIDTH, HEIGHT, addressable=True)
    data = whole[: len(whole) // 2]

    def failing(bench: Bench, checks: Checks) -> None:
        photos = photo_set(bench, "cut off fail")
        photos.damage(data)
        code, printed = bench.one_rank.run(photos.argv(*on_bad("fail")))
        checks.code(BAD_DATA, code)
        index = photos.index
        checks.one_line(printed, f"sample '{index.key(BAD_ID)}' in train-000001.tar at byte {index.offset[BAD_ID]}: ")

    def skipping(bench: Bench, checks: Checks) -> None:
        photos = photo_set(bench, "cut off skip")
        photos.damage(data)
        code, _ = bench.one_rank.run(photos.argv(*on_bad("skip")))
        checks.code(0, code)
        named = [(line["shard"], line["key"]) for line in photos.bad_samples]
        checks.equal("bad_samples.jsonl", [("train-000001.tar", photos.index.key(BAD_ID))], named)
        checks.equal("bad_samples in the metrics", 2, sum(line.get("bad_samples", 0) for line in photos.lines))

    how = "the second half of one of 48 addressable images became zeros after it was indexed"
    return [
        Case(GROUP, "an addressable JPEG cut off, fail", how, "code 3 and one line that names it", failing),
        Case(GROUP, "an addressable JPEG cut off, skip", how, "named once, and a substitute in its place", skipping),
    ]


def _replaced_in_a_run() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        photos = photo_set(bench, "units replaced")
        started = bench.one_rank.start(photos.argv(*on_bad("fail"), *_LONG))
        photos.wait_for_step(12)
        for number in range(3):
            path = units_path(photos.tar(number))
            other = path.with_suffix(".tmp")
            other.write_bytes(b"no file of units")
            os.replace(other, path)
        before = len(photos.lines)
        photos.wait_for_step(before + 12)
        os.kill(started.pid, 15)
        code, _ = started.wait()
        checks.code(75, code)
        checks.equal("bad samples two epochs later", [], photos.bad_samples)

    return Case(
        GROUP,
        "files of units replaced by others",
        "all three, by a change in the folder, while a run has them open",
        "the run goes on with what it has open",
        run,
    )


def _cut_in_a_run() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        photos = photo_set(bench, "units cut in a run")
        started = bench.one_rank.start(photos.argv(*on_bad("skip"), *_LONG))
        photos.wait_for_step(12)
        os.truncate(units_path(photos.tar(1)), 100)
        code, printed = started.wait()
        checks.code(BAD_DATA, code)
        checks.one_line(printed, "train-000001.units: was cut short while it was open", "make it again")

    return Case(
        GROUP,
        "a file of units cut short, skip",
        "of the second of three shards, in place, while a run has it open",
        "code 3 and one line that names the file and says what to do",
        run,
    )


def _verified() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        photos = photo_set(bench, "units verified")
        _lie(photos)
        done = tool("tools.shards", "verify", photos.folder, "--workers", "1")
        checks.add("exit code", "not 0", done.returncode, done.returncode != 0)
        checks.says(done.stdout, "train-000001.units")

    return Case(
        GROUP,
        "a file of units whose lengths are not the image's, verified",
        "of the second of three shards",
        "tools.shards verify names it",
        run,
    )
