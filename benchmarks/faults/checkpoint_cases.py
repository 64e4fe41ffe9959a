"""Full disks, folders that cannot be written, damaged checkpoints and those of other runs."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.case import Bench, Case, Checks, check_checkpoint, check_end, last_step
from engine.checkpoints.manifest import newest_valid, step_folder, steps_in

GROUP = "checkpoints"
_AT_STEP = 34
_SAVE_FAILED = 74


def cases() -> list[Case]:
    """All of them."""
    return [*_full_disks(), _read_only(), *_damaged(), *_other_runs()]


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system in memory at a folder, for a while. Needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _full_disks() -> list[Case]:
    resumed = "the earlier checkpoint holds; with room made, the same command goes on to the weights of a run in peace"
    found = [
        Case(
            GROUP,
            f"disk full on rank {rank} in a save",
            "a killed run is started again with its checkpoints on a tmpfs of 16 MiB; before the rank writes its part "
            "of the next one, the rest of the tmpfs is filled up",
            f"every rank ends with code 74 and one line that names rank {rank}, the file and the cause; {resumed}",
            _full_disk(rank),
        )
        for rank in (0, 1)
    ]
    found.append(
        Case(
            GROUP,
            "file size limit on rank 1 in a save",
            "RLIMIT_FSIZE of 4,096 bytes on rank 1 from its second checkpoint on, as a quota on one host",
            f"every rank ends with code 74 and one line that names rank 1, the file and the cause; {resumed}",
            _limited,
        )
    )
    found.append(
        Case(
            GROUP,
            "disk full under the whole run folder",
            "the run folder is a tmpfs of 16 MiB, which is filled up in a step",
            f"every rank ends, with a message that names the cause; {resumed}",
            _no_room_at_all,
        )
    )
    return found


def _full_disk(rank: int) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        out = bench.out(f"disk full on rank {rank}")
        disk = bench.folder / f"disk-{rank}"
        shutil.copytree(_trained(bench), out)
        newest = last_step(out)
        with mounted(disk, "-o", "size=16m"):
            shutil.move(out / "checkpoints", disk / "checkpoints")
            (out / "checkpoints").symlink_to(disk / "checkpoints")
            ballast = disk / "ballast"
            fault = {
                **{"rank": rank, "at": "before a rank writes its part", "number": 1},
                **{"do": "fill disk", "ballast": str(ballast)},
            }
            with bench.start(out, fault=fault) as run:
                check_end(checks, run, _SAVE_FAILED)
                checks.one_line(run.printed, f"rank {rank} (", "No space left on device", "step-000000")
                check_checkpoint(checks, out, newest)
            ballast.unlink()
            (out / "checkpoints").unlink()
            shutil.copytree(disk / "checkpoints", out / "checkpoints")
        bench.resume(checks, out)

    return run


def _no_room_at_all(bench: Bench, checks: Checks) -> None:
    out = bench.out("no room at all")
    disk = bench.folder / "whole-disk"
    with mounted(disk, "-o", "size=16m"):
        ballast = disk / "ballast"
        fault = {"rank": 0, "at": "in a step", "number": 15, "do": "fill disk", "ballast": str(ballast)}
        with bench.start(disk / "run", fault=fault) as run:
            run.wait(300)
            code = run.process.returncode
            check_end(checks, run, code if code in (1, _SAVE_FAILED) else 1, "No space left on device")
            check_checkpoint(checks, disk / "run", 10)
        ballast.unlink()
        shutil.copytree(disk / "run", out)
    bench.resume(checks, out)


def _limited(bench: Bench, checks: Checks) -> None:
    out = bench.out("file size limit")
    fault = {"rank": 1, "at": "before a rank writes its part", "number": 2, "do": "limit files", "num_bytes": 4096}
    with bench.start(out, fault=fault) as run:
        run.wait(300)
        check_end(checks, run, _SAVE_FAILED)
        checks.one_line(run.printed, "rank 1 (", "File too large", "step-000000")
        check_checkpoint(checks, out, 10)
    bench.resume(checks, out)


def _read_only() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        out = bench.out("read-only")
        with mounted(out, "-o", "ro"), bench.start(out) as run:
            check_end(checks, run, 2)
            checks.one_line(run.printed, "Read-only file system", str(out))

    return Case(
        GROUP,
        "the run folder cannot be written",
        "a tmpfs mounted read-only in its place",
        "code 2 and one line that names the folder, before training starts",
        run,
    )


def _trained(bench: Bench) -> Path:
    """A run killed after some steps, its checkpoints of steps 20 and 30 whole. Made once."""
    out = bench.folder / "trained"
    if not (out / "checkpoints").exists():
        with bench.start(out) as run:
            run.wait_for_step(_AT_STEP)
            run.wait_until(lambda _: newest_valid(out / "checkpoints")[0] == step_folder(out / "checkpoints", 30), 30)
            run.kill_everything()
            run.wait()
    return out


def _damaged() -> list[Case]:
    ways: dict[str, tuple[Callable[[Path], object], str]] = {
        "a flipped bit": (flip_a_bit, "SHA-256 differs"),
        "a file cut short": (cut_short, "bytes, but"),
        "a file missing": (lambda folder: largest_file(folder).unlink(), "is missing"),
        "a file too many": (lambda folder: (folder / "extra.pt").touch(), "is not in the manifest"),
        "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
        "a flipped bit in the manifest": (lambda folder: flip(folder / "manifest.json"), "manifest.json is damaged"),
    }
    found = [
        Case(
            GROUP,
            f"newest checkpoint damaged: {way}",
            "done to the newest of two checkpoints of a killed run",
            "it is passed over by name and with the reason; the one before is taken up; the weights at the end are "
            "those of a run in peace",
            _damage(way, damage, says),
        )
        for way, (damage, says) in ways.items()
    ]

    def all_damaged(bench: Bench, checks: Checks) -> None:
        out = bench.out("all damaged")
        shutil.copytree(_trained(bench), out)
        steps = steps_in(out / "checkpoints")
        for step in steps:
            flip_a_bit(step_folder(out / "checkpoints", step))
        code, printed = bench.one_rank.run(["--config", str(bench.config), "--out", str(out), *bench.arguments()])
        checks.code(2, code)
        names = [step_folder(out / "checkpoints", step).name for step in steps]
        checks.one_line(printed, "none of the checkpoints", *names)

    found.append(
        Case(
            GROUP,
            "all checkpoints damaged",
            "a bit flipped in each checkpoint of a killed run",
            "code 2 and one line that names each with its reason; nothing is started anew without being asked for",
            all_damaged,
        )
    )
    return found


def _damage(way: str, damage: Callable[[Path], object], says: str) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        out = bench.out(way)
        shutil.copytree(_trained(bench), out)
        newest, _ = newest_valid(out / "checkpoints")
        assert newest is not None
        damage(newest)
        bench.resume(checks, out, says=(f"passed over {newest}", says, "step-00000020 at step 20"))

    return run


def largest_file(folder: Path) -> Path:
    """The largest file of a checkpoint: weights."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_a_bit(folder: Path) -> None:
    """Flip one bit of a checkpoint's weights."""
    flip(largest_file(folder))


def cut_short(folder: Path) -> None:
    """Take the last byte of a checkpoint's weights."""
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[:-1])


def _other_runs() -> list[Case]:
    changes = {
        "another model": (["model.options.depth=3"], "model.options"),
        "another seed": (["seed=7"], "seed"),
        "another global batch": (["train.global_batch_size=32"], "train.global_batch_size"),
        "another schedule": (["schedule.keep_rate=[0.4,1.0]"], "schedule"),
        "another data set": ([], "data.train.fingerprint"),
    }
    return [
        Case(
            GROUP,
            f"a checkpoint of {name}",
            "a killed run is started again with " + (f"--set {overrides[0]}" if overrides else "other shards"),
            f"code 2 and one line that names {key} and both values",
            _other_run(name, overrides, key),
        )
        for name, (overrides, key) in changes.items()
    ]


def _other_run(name: str, overrides: list[str], key: str) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        settings = [word for override in overrides for word in ("--set", override)]
        if not overrides:
            other = bench.other_shards()
            settings = ["--set", f"data.train={other}"]
        argv = ["--config", str(bench.config), "--out", str(_trained(bench)), *bench.arguments(), *settings]
        code, printed = bench.one_rank.run(argv)
        checks.code(2, code)
        checks.one_line(printed, f"{key}: ", " there, ", " here")

    return run
