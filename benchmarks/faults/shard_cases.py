"""Shards that change while a run reads them, and shards and indexes that are wrong from the start."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.case import Bench, Case, Checks, tool
from benchmarks.faults.photo_runs import PhotoSet, on_bad, photo_set
from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import write_tar
from benchmarks.toy_runs import settings

GROUP = "shards"
BAD_DATA = 3
_LONG = settings(train__duration="20000steps", checkpoint__every="1000steps")


def cases() -> list[Case]:
    """All of them."""
    return [*_changing(), *_wrong_at_the_start(), *_refused_by_the_index(), _escaping_name()]


def _truncate(photos: PhotoSet) -> None:
    tar = photos.tar(1)
    os.truncate(tar, tar.stat().st_size // 2)


def _other_tar(photos: PhotoSet, path: Path) -> Path:
    """A tar with the same keys and other images and labels."""
    members = [
        member
        for i in range(16, 32)
        for member in ((f"{i:05d}.jpg", jpeg_bytes(500 + i, 80, 60)), (f"{i:05d}.cls", b"0"))
    ]
    return write_tar(path, members)


def _overwrite(photos: PhotoSet) -> None:
    other = _other_tar(photos, photos.folder / "other.tmp")
    with photos.tar(1).open("r+b") as file:
        file.write(other.read_bytes())
    other.unlink()


def _replace(photos: PhotoSet) -> None:
    _other_tar(photos, photos.folder / "other.tmp").rename(photos.tar(1))


def _changing() -> list[Case]:
    """Each under fail and under skip: a shard that changes is no bad sample."""
    ends: dict[str, tuple[Callable[[PhotoSet], object], str, str]] = {
        "cut to half its length": (_truncate, "code 3 and one line that names shard, key and offset", "the shard "),
        "overwritten in place with another": (
            _overwrite,
            "code 3 and one line that names shard, key and offset",
            "no longer fits the index",
        ),
    }
    goes_on: dict[str, tuple[Callable[[PhotoSet], object], str]] = {
        "replaced by another": (_replace, "train-000001.tar"),
        "deleted": (lambda photos: photos.tar(1).unlink(), "no longer in the folder"),
    }
    found = []
    for mode in ("fail", "skip"):
        for name, (change, expected, says) in ends.items():
            how = "the second of three shards, while a run reads them"
            found.append(Case(GROUP, f"a shard {name}, {mode}", how, expected, _ending(mode, name, change, says)))
        for name, (change, says) in goes_on.items():
            found.append(
                Case(
                    GROUP,
                    f"a shard {name}, {mode}",
                    "the second of three shards, by a change in the folder, while a run has it open",
                    "the run goes on with what it has open, so with the right samples; a new start is refused with "
                    "code 2 and one line that names the shard",
                    _going_on(mode, name, change, says),
                )
            )
    return found


def _ending(mode: str, name: str, change: Callable[[PhotoSet], object], says: str) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        photos = photo_set(bench, f"{name} {mode}")
        started = bench.one_rank.start(photos.argv(*on_bad(mode), *_LONG))
        photos.wait_for_step(5)
        change(photos)
        code, printed = started.wait()
        checks.code(BAD_DATA, code)
        checks.one_line(printed, "train-000001.tar at byte ", says)

    return run


def _going_on(mode: str, name: str, change: Callable[[PhotoSet], object], says: str) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        photos = photo_set(bench, f"{name} {mode}")
        argv = photos.argv(*on_bad(mode), *_LONG)
        started = bench.one_rank.start(argv)
        photos.wait_for_step(12)  # more than two epochs: all shards are open
        change(photos)
        before = len(photos.lines)
        photos.wait_for_step(before + 12)
        checks.equal("bad samples two epochs later", [], photos.bad_samples)
        os.kill(started.pid, signal.SIGTERM)
        code, printed = started.wait()
        checks.code(75, code)
        code, printed = bench.one_rank.run(argv)
        checks.code(2, code)
        checks.one_line(printed, "train-000001.tar", says)

    return run


def _wrong_at_the_start() -> list[Case]:
    def stale(photos: PhotoSet) -> None:
        _replace(photos)

    def same_size(photos: PhotoSet) -> None:
        tar = photos.tar(1)
        content = tar.read_bytes()
        label = b"20".ljust(512, b"\0")
        assert content.count(label) == 1
        tar.write_bytes(content.replace(label, b"21".ljust(512, b"\0")))

    def damaged_index(photos: PhotoSet) -> None:
        path = photos.folder / "train.index"
        path.write_bytes(path.read_bytes()[:-100])

    def stale_list(photos: PhotoSet) -> None:
        (photos.folder / "train.exclude").write_text(
            '{"format_version": 1, "fingerprint": "of other shards", "samples": []}'
        )

    ways: dict[str, tuple[Callable[[PhotoSet], object], list[str], str]] = {
        "a stale index: a shard of another size": (stale, [], "train-000001.tar"),
        "a stale index: a label changed in place": (same_size, [], "was changed after it was indexed"),
        "no index": (lambda photos: (photos.folder / "train.index").unlink(), [], "no split 'train'"),
        "a damaged index": (damaged_index, [], "not a readable sample index"),
        "a shard missing": (lambda photos: photos.tar(2).unlink(), [], "train-000002.tar"),
        "a list of excluded samples for other shards": (stale_list, [], "train.exclude"),
        "a label outside the classes": (lambda _: None, ["--set", "data.num_classes=40"], "labels are 0 to 39"),
        "no such folder": (lambda _: None, ["--set", "data.train=/nowhere/shards"], "/nowhere/shards"),
    }

    def case(name: str, change: Callable[[PhotoSet], object], more: list[str], says: str) -> Case:
        def run(bench: Bench, checks: Checks) -> None:
            photos = photo_set(bench, name)
            change(photos)
            code, printed = bench.one_rank.run(photos.argv(*more))
            checks.code(2, code)
            checks.one_line(printed, says)
            checks.equal("run folder made", False, photos.out.exists())

        return Case(
            GROUP, name, "before the start", "code 2, one line that names what is wrong, nothing is written", run
        )

    return [case(name, *way) for name, way in ways.items()]


def _refused_by_the_index() -> list[Case]:
    image = jpeg_bytes(0, 64, 48)
    members: dict[str, tuple[list[tuple[str, bytes]], str]] = {
        "an empty image": ([("bad.jpg", b""), ("bad.cls", b"1")], "the image's header cannot be read"),
        "an image that is text": ([("bad.jpg", b"no image"), ("bad.cls", b"1")], "the image's header cannot be read"),
        "a sample without an image": ([("bad.cls", b"1")], "no image"),
        "a sample without a label": ([("bad.jpg", image)], "no label"),
        "a label that is no integer": ([("bad.jpg", image), ("bad.cls", b"cat")], "not an integer"),
        "a label that is a fraction": ([("bad.jpg", image), ("bad.json", b'{"label": 1.5}')], "not an integer"),
    }

    def case(name: str, bad: list[tuple[str, bytes]], says: str) -> Case:
        def run(bench: Bench, checks: Checks) -> None:
            folder = bench.out(name)
            good = [("good.jpg", image), ("good.cls", b"1")]
            write_tar(folder / "train-000000.tar", [*good, *bad])
            done = tool("tools.shards", "index", folder)
            checks.code(2, done.returncode)
            checks.one_line(done.stdout.replace("\r", "\n"), "'bad'" if "'bad'" in done.stdout else "bad", says)
            checks.equal("index made", False, (folder / "train.index").exists())

        return Case(
            GROUP,
            f"{name}, when the shards are indexed",
            "one of two samples of a tar",
            "tools.shards index ends with code 2, names shard, key and cause, and writes no index",
            run,
        )

    return [case(name, *way) for name, way in members.items()]


def _escaping_name() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        folder = bench.out("escaping name")
        members = [("../../escaped.jpg", jpeg_bytes(0, 64, 48)), ("../../escaped.cls", b"1")]
        write_tar(folder / "train-000000.tar", members)
        done = tool("tools.shards", "index", folder)
        checks.code(0, done.returncode)
        escaped = [str(path) for path in bench.folder.parent.rglob("*escaped*")]
        checks.equal("files of that name", [], escaped)

    return Case(
        GROUP,
        "a tar member whose name climbs out of the folder",
        "members ../../escaped.jpg and .cls, indexed",
        "a name is a key and nothing else: no file of that name appears anywhere",
        run,
    )
