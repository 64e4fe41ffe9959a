"""Runs of a study that several processes share: who trains which, and what becomes of those whose owner is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from toy_study import VARIANTS, command, result, run, started, study, write

from benchmarks.shared.shell import ROOT, environment
from engine.ranks.processes import find_process, this_machine
from tools.study import trainer
from tools.study.claims import STALE_AFTER_MIN, Claim, claim_run, claimed_by
from tools.study.trainer import Trainer

__all__ = ["study"]
NO_PROCESS = 2**22 + 1  # above the largest number that Linux gives
NEVER = 600.0


def living() -> dict[str, int]:
    """A process that lives while the test does: this one."""
    this = find_process(os.getpid())
    assert this is not None
    return {"pid": this.pid, "started": this.started}


def leave_claim(folder: Path, stem: str = "full-seed0", *, renewed_min_ago: float = 0.0, **of_owner: Any) -> Path:
    """What an owner left: its process gone and on this host, where nothing else is said. The file."""
    owner = {"host": socket.gethostname(), "machine": this_machine(), "pid": NO_PROCESS, "started": 1, "time": "noon"}
    path = folder / f"{stem}.3.json"
    path.write_text(json.dumps(owner | of_owner))
    then = path.stat().st_mtime - 60 * renewed_min_ago
    os.utime(path, (then, then))
    return path


def claim_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_free_run_is_claimed_by_one_alone_until_it_is_released(tmp_path: Path) -> None:
    first = claim_run(tmp_path, "full-seed0")
    assert first is not None
    owner = json.loads((tmp_path / "full-seed0.0.json").read_text())
    assert (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid())
    assert claimed_by(tmp_path, "full-seed0") == f"host {owner['host']}, process {owner['pid']}, since {owner['time']}"
    assert claim_run(tmp_path, "full-seed0") is None
    first.release()
    assert claim_files(tmp_path) == []
    assert claim_run(tmp_path, "full-seed0") is not None


def test_claims_to_runs_with_similar_names_are_apart(tmp_path: Path) -> None:
    stems = ["full-seed1", "full-seed10", "full-seed1.0-seed1", "full-seed1.0"]
    assert all(claim_run(tmp_path, stem) for stem in stems)
    assert not any(claim_run(tmp_path, stem) for stem in stems)


def test_of_many_who_try_to_take_a_run_over_one_gets_it(tmp_path: Path) -> None:
    for number in range(25):
        leave_claim(tmp_path, f"run{number}")
        with ThreadPoolExecutor(8) as pool:
            tries = list(pool.map(claim_run, [tmp_path] * 8, [f"run{number}"] * 8))
        # Two who come at the very same time may both step back, and try again.
        got = [one for one in tries if one] or [one for one in [claim_run(tmp_path, f"run{number}")] if one]
        assert len(got) == 1
        assert claim_files(tmp_path) == [got[0].path.name]
        got[0].release()


@pytest.mark.parametrize(
    ("left", "is_free"),
    [
        (lambda: {}, True),  # its process is gone
        (lambda: {**living(), "started": living()["started"] - 1}, True),  # a later process has its number
        (lambda: {**living(), "renewed_min_ago": NEVER}, False),  # it lives, though it is suspended
        (lambda: {"run_pid": living()["pid"], "run_started": living()["started"]}, False),  # its run goes on
        (lambda: {"machine": "another", "renewed_min_ago": STALE_AFTER_MIN - 1}, False),
        (lambda: {"machine": "another", "renewed_min_ago": STALE_AFTER_MIN + 1}, True),
        (lambda: {"host": "another", **living(), "renewed_min_ago": STALE_AFTER_MIN + 1}, True),
    ],
)
def test_a_run_is_taken_over_where_its_owner_is_gone(
    tmp_path: Path, left: Callable[[], dict[str, Any]], is_free: bool
) -> None:
    old = leave_claim(tmp_path, **left())
    claim = claim_run(tmp_path, "full-seed0")
    assert (claim is not None) == is_free
    assert claim_files(tmp_path) == ["full-seed0.4.json" if is_free else old.name]


@pytest.mark.parametrize(("renewed_min_ago", "is_free"), [(0.0, False), (STALE_AFTER_MIN + 1.0, True)])
def test_a_claim_that_says_nothing_yet_is_somebodys_until_it_is_old(
    tmp_path: Path, renewed_min_ago: float, is_free: bool
) -> None:
    path = leave_claim(tmp_path)
    path.write_text("")
    os.utime(path, (path.stat().st_mtime - 60 * renewed_min_ago,) * 2)
    assert claimed_by(tmp_path, "full-seed0") == "an unknown process"
    assert (claim_run(tmp_path, "full-seed0") is not None) == is_free


def test_an_owner_keeps_its_claim_young_and_finds_out_when_it_is_gone(tmp_path: Path) -> None:
    claim = claim_run(tmp_path, "full-seed0")
    assert claim is not None
    os.utime(claim.path, (0, 0))
    assert claim.renew()
    assert claim.path.stat().st_mtime > 0
    claim.path.unlink()
    claim.name_run(os.getpid())
    assert not claim.renew()
    assert claim.is_lost
    assert claim_files(tmp_path) == [], "what is lost is not made anew"


def test_two_processes_share_a_study_and_train_nothing_twice(study: Path) -> None:
    write(study, equal_time={"full": "half"})
    arguments = [sys.executable, "-m", "tools.study", *command(study), "--machine", "any"]
    environment_of_both = environment() | {"FAKE_CPU": "a"}
    both = [
        subprocess.Popen(arguments, env=environment_of_both, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert len(started(study)) == len(set(started(study))) == 6
    assert all("] " in one for one in printed), "each had a part in it"
    assert result(study)["complete"]
    assert claim_files(study / "out" / "claims") == []


def test_what_a_crashed_process_left_is_trained(study: Path) -> None:
    write(study, seeds=[0])
    (study / "out" / "claims").mkdir()
    leave_claim(study / "out" / "claims")
    assert run(study, "--machine", "any") == 0
    assert started(study)[0] == "full-seed0"
    assert claim_files(study / "out" / "claims") == []


@pytest.mark.parametrize("finished", [True, False])
def test_what_others_train_is_waited_for_and_trained_where_they_give_it_up(
    study: Path, finished: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(study, seeds=[0])
    if finished:
        assert run(study, "--machine", "0/2") == 0
        (study / "out" / "records" / "full-seed0.json").rename(study / "full-seed0.json")
        (study / "out" / "runs" / "started.txt").unlink()
    (study / "out" / "claims").mkdir(exist_ok=True)
    others = leave_claim(study / "out" / "claims", **living())

    def rest(_: Trainer, __: int) -> None:
        others.unlink()
        if finished:
            (study / "full-seed0.json").rename(study / "out" / "records" / "full-seed0.json")

    monkeypatch.setattr(Trainer, "rest", rest)
    assert run(study, "--machine", "any") == 0
    assert started(study) == ["half-seed0", *([] if finished else ["full-seed0"])]
    assert result(study)["complete"]
    assert f"waits for what others train: full-seed0 (host {socket.gethostname()}, pro" in capfd.readouterr().err


def test_a_signal_ends_the_wait(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(study, seeds=[0], variants={"full": VARIANTS["full"]})
    (study / "out" / "claims").mkdir()
    others = leave_claim(study / "out" / "claims", **living())
    monkeypatch.setattr("tools.study.trainer.time.sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert run(study, "--machine", "any") == 75
    assert others.exists()


@pytest.mark.parametrize(("lr", "code"), [(0.5, 1), (0.125, 75)])
def test_a_run_that_fails_or_is_stopped_is_not_claimed_any_more(study: Path, lr: float, code: int) -> None:
    write(study, seeds=[0], variants={"full": {"about": "", "set": {"optim.lr": lr}}})
    assert run(study, "--machine", "any") == code
    assert started(study) == ["full-seed0"]
    assert claim_files(study / "out" / "claims") == []


def test_a_run_whose_claim_was_taken_over_is_stopped_and_the_study_goes_on(
    study: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a machine slept: a run that never ends is somebody else's when its claim is renewed."""
    write(study, seeds=[0], variants={"endless": {"about": "", "set": {"optim.lr": 0.25}}, **VARIANTS})
    folder, runs_begun = study / "out" / "claims", study / "out" / "runs" / "started.txt"

    def renew(claim: Claim) -> bool:
        if claim.path.name.startswith("endless") and runs_begun.exists():
            leave_claim(folder, "endless-seed0", **living())
            claim.path.unlink(missing_ok=True)
            claim.is_lost = True
        return not claim.is_lost

    monkeypatch.setattr(Claim, "renew", renew)
    monkeypatch.setattr(trainer, "RENEWED_EVERY_S", 0.5)
    monkeypatch.setattr(Trainer, "rest", lambda one, _: setattr(one, "stopped", True))
    assert run(study, "--machine", "any") == 75
    assert started(study) == ["endless-seed0", "full-seed0", "half-seed0"]
    assert "endless-seed0: its claim was taken over or deleted, so it was stopped here" in capfd.readouterr().err
    assert claim_files(folder) == ["endless-seed0.3.json"]
