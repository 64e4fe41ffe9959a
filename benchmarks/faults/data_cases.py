"""Images that cannot be decoded, or are not what the index says: each kind under fail and under skip."""

import os
import signal
from collections.abc import Callable

from benchmarks.faults.case import Bench, Case, Checks, tool
from benchmarks.faults.photo_runs import BAD_ID, NUM_VAL, PhotoSet, on_bad, photo_set
from benchmarks.shared.bad_images import LATER_DAMAGE, SOUND_OUTSIDE

GROUP = "bad data"
BAD_DATA = 3
_digests: dict[str, str] = {}  # of the runs under skip: all end alike, whatever was wrong with the sample


def cases() -> list[Case]:
    """All of them."""
    kinds = {name: (data, True) for name, data in SOUND_OUTSIDE.items()}
    kinds |= {f"{name} in the place of an image": (data, False) for name, data in LATER_DAMAGE.items()}
    found = []
    for name, (data, indexed) in kinds.items():
        how = "one of 48 training images, indexed as it is" if indexed else "written into the tar after it was indexed"
        found += [
            Case(
                GROUP,
                f"{name}, fail",
                how,
                "code 3 and one line that names shard, key, byte offset and cause",
                _failing(name, data, indexed),
            ),
            Case(
                GROUP,
                f"{name}, skip",
                how,
                "the run ends well; bad_samples.jsonl names the sample once, with its substitute; metrics count it; "
                "the weights are those of every other run that lacks this sample",
                _skipping(name, data, indexed),
            ),
        ]
    return [*found, _killed_under_skip(), _too_many(), *_validation(), _excluded()]


def _set_with(bench: Bench, name: str, data: bytes, indexed: bool) -> PhotoSet:
    photos = photo_set(bench, name, {BAD_ID: data} if indexed else None)
    if not indexed:
        photos.damage(data)
    return photos


def _failing(name: str, data: bytes, indexed: bool) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        photos = _set_with(bench, f"{name} fail", data, indexed)
        code, printed = bench.one_rank.run(photos.argv(*on_bad("fail")))
        checks.code(BAD_DATA, code)
        index = photos.index
        checks.one_line(printed, f"sample '{index.key(BAD_ID)}' in train-000001.tar at byte {index.offset[BAD_ID]}: ")

    return run


def _skipping(name: str, data: bytes, indexed: bool) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        photos = _set_with(bench, f"{name} skip", data, indexed)
        code, printed = bench.one_rank.run(photos.argv(*on_bad("skip")))
        checks.code(0, code)
        if code != 0:
            checks.says(printed, "run folder:", what="end of the run")
        _check_skipped(checks, photos)

    return run


def _check_skipped(checks: Checks, photos: PhotoSet) -> None:
    index, bad = photos.index, photos.bad_samples
    named = [(line["shard"], line["key"], line["offset"]) for line in bad]
    checks.equal("bad_samples.jsonl", [("train-000001.tar", index.key(BAD_ID), int(index.offset[BAD_ID]))], named)
    checks.add("cause", "said", *(bad[0]["cause"], True) if bad else ("nothing", False))
    checks.add("substitute", "named", *(bad[0]["substitute_key"], True) if bad else ("nothing", False))
    # Two epochs of 48 samples.
    checks.equal("bad_samples in the metrics", 2, sum(line.get("bad_samples", 0) for line in photos.lines))
    expected = _digests.setdefault("skip", photos.digest)
    checks.equal("weights", expected[:16], photos.digest[:16])


def _killed_under_skip() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        photos = _set_with(bench, "killed under skip", SOUND_OUTSIDE["a GIF"], True)
        argv = photos.argv(*on_bad("skip"))
        started = bench.one_rank.start(argv)
        photos.wait_for_step(7)
        os.kill(started.pid, signal.SIGKILL)
        checks.code(128 + signal.SIGKILL, started.wait()[0])
        code, _ = bench.one_rank.run(argv)
        checks.code(0, code)
        _check_skipped(checks, photos)

    return Case(
        GROUP,
        "kill -9 of a run under skip",
        "SIGKILL after step 7 of a run that lacks a sample; started again",
        "the same substitutes, each bad sample named once, the weights of a run left in peace",
        run,
    )


def _too_many() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        bad = dict(zip((3, 20, 40), SOUND_OUTSIDE.values(), strict=False))
        photos = photo_set(bench, "too many", bad)
        code, printed = bench.one_rank.run(photos.argv(*on_bad("skip", 0.05)))
        checks.code(BAD_DATA, code)
        checks.one_line(printed, "3 of the 48 samples", "data.max_bad_share is 0.05", "bad_samples.jsonl")

    return Case(
        GROUP,
        "more bad samples than data.max_bad_share, skip",
        "three of 48 images damaged, where 0.05 are allowed",
        "code 3 and one line with the share, the limit and the file that names them all",
        run,
    )


def _validation() -> list[Case]:
    def prepare(bench: Bench, name: str) -> PhotoSet:
        photos = photo_set(bench, name)
        tar = photos.folder / "val-000000.tar"
        content = tar.read_bytes()
        before = tar.stat()
        at = content.index(b"\xff\xd8\xff")  # the first image
        tar.write_bytes(content[: at + 200] + bytes(200) + content[at + 400 :])
        os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))
        return photos

    def failing(bench: Bench, checks: Checks) -> None:
        code, printed = bench.one_rank.run(prepare(bench, "val fail").argv(*on_bad("fail")))
        checks.code(BAD_DATA, code)
        checks.one_line(printed, "sample '00000' in val-000000.tar at byte ")

    def skipping(bench: Bench, checks: Checks) -> None:
        photos = prepare(bench, "val skip")
        code, _ = bench.one_rank.run(photos.argv(*on_bad("skip", 0.1)))
        checks.code(0, code)
        found = [(line["num_samples"], line["bad_samples"]) for line in photos.lines if line["event"] == "eval"]
        checks.equal("samples counted, bad ones", [(NUM_VAL - 1, 1)], found)

    how = "the header of one of 16 validation images zeroed after it was indexed"
    return [
        Case(GROUP, "a bad validation image, fail", how, "code 3 and one line that names it", failing),
        Case(GROUP, "a bad validation image, skip", how, "left out of the counts, and said so", skipping),
    ]


def _excluded() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        photos = _set_with(bench, "excluded", SOUND_OUTSIDE["a truncated JPEG"], True)
        before = [photos.tar(number).read_bytes() for number in range(3)]
        done = tool("tools.shards", "verify", photos.folder, "--exclude", "--workers", "1")
        checks.code(0, done.returncode)
        checks.says(done.stdout, "train.exclude lists 1 sample(s)")
        checks.add("tars", "as they were", "as they were", before == [photos.tar(i).read_bytes() for i in range(3)])
        code, _ = bench.one_rank.run(photos.argv(*on_bad("fail"), "--max-steps", "5"))
        checks.code(0, code)

    return Case(
        GROUP,
        "a bad sample left out by list",
        "verify --exclude over shards with a truncated JPEG, then a run under fail",
        "the list names it, no tar is written to, and an epoch of the run meets no bad sample",
        run,
    )
