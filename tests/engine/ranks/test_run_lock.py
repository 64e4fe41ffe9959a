"""One run folder, one run: who gets it, who is refused, who waits and takes over."""

import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from worlds import ALONE

from engine.ranks import run_lock
from engine.ranks.heartbeat import first_beat, write_beat
from engine.ranks.processes import find_process, this_machine
from engine.ranks.run_lock import LINGERS_S, LOCK, SEEN_STILL_S, STALE_AFTER_S, Claim, Owner, held

NO_PROCESS = 2**22 + 1  # above the largest number that Linux gives
HOUR_S = 3600.0


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def living() -> dict[str, Any]:
    """A process that lives while the test does: this one."""
    this = find_process(os.getpid())
    assert this is not None
    return {"pid": this.pid, "started": this.started}


def leave_lock(folder: Path, *, renewed_s_ago: float = 0.0, **of_owner: Any) -> Path:
    """What an owner left: its process gone and on this host, where nothing else is said. The file."""
    owner = Owner("feed", socket.gethostname(), this_machine(), NO_PROCESS, 1, (), "2026-01-01 00:00:00 UTC")
    file = folder / LOCK / "feed.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(asdict(replace(owner, **of_owner))) + "\n")
    then = file.stat().st_mtime - renewed_s_ago
    os.utime(file, (then, then))
    return file


def owners(folder: Path) -> list[str]:
    return [path.stem for path in (folder / LOCK).glob("*.json")]


def test_a_free_folder_is_taken_and_given_back(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "runs" / "run")
    assert claim.attempt()
    assert len(owners(tmp_path / "runs" / "run")) == 1
    claim.release()
    assert not (tmp_path / "runs" / "run").exists(), "it was made for the lock alone"
    claim.release()


def test_what_was_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    claim = Claim(tmp_path)
    assert claim.attempt()
    claim.release()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_second_run_is_refused_by_host_process_time_and_what_to_do(tmp_path: Path) -> None:
    first, second = Claim(tmp_path), Claim(tmp_path)
    assert first.attempt()
    with pytest.raises(ValueError) as refused:
        second.attempt()
    said = str(refused.value)
    assert "\n" not in said
    assert f"the run folder {tmp_path} is in use by another run (host {socket.gethostname()}, process" in said
    assert f"process {os.getpid()}, since 20" in said
    assert "give another --out" in said
    second.release()
    assert len(owners(tmp_path)) == 1, "who never got it takes nothing away"
    first.release()
    assert second.attempt()
    second.release()


def test_the_launcher_is_named_too(tmp_path: Path) -> None:
    leave_lock(tmp_path, **living(), launchers=((os.getpid(), living()["started"]),))
    with pytest.raises(ValueError, match=f"process {os.getpid()}, started by process {os.getpid()}, since"):
        Claim(tmp_path).attempt()


def test_a_lock_whose_process_is_gone_is_taken_over_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_lock(tmp_path)
    claim = Claim(tmp_path)
    assert claim.attempt()
    assert owners(tmp_path) != ["feed"]
    said = capsys.readouterr().out
    assert f"took over {tmp_path} from another run (host {socket.gethostname()}, process {NO_PROCESS}, since" in said
    assert said.endswith("its process is gone\n")
    with pytest.raises(ValueError, match=f"process {os.getpid()}, since"):
        Claim(tmp_path).attempt()
    claim.release()


def test_a_later_process_of_the_same_number_is_no_owner(tmp_path: Path) -> None:
    leave_lock(tmp_path, pid=os.getpid(), started=living()["started"] - 1)
    claim = Claim(tmp_path)
    assert claim.attempt()
    claim.release()


def write_rank(folder: Path, rank: int, phase: str) -> None:
    """The beat of a rank that is this process."""
    (folder / "ranks").mkdir(exist_ok=True)
    write_beat(folder / "ranks", replace(first_beat("launch", rank), phase=phase))


def launcher_gone(folder: Path) -> None:
    leave_lock(folder, **living(), launchers=((NO_PROCESS, 1),))


def first_rank_gone(folder: Path) -> None:
    leave_lock(folder)
    write_rank(folder, 1, "step")


@pytest.mark.parametrize("left", [launcher_gone, first_rank_gone])
def test_ranks_that_linger_are_waited_for_and_then_refused(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], left: Callable[[Path], None]
) -> None:
    left(tmp_path)
    claim = Claim(tmp_path, clock=clock)
    assert not claim.attempt()
    assert "waiting up to 40 s" in capsys.readouterr().out
    clock.now += LINGERS_S - 1
    assert not claim.attempt()
    assert capsys.readouterr().out == "", "said once"
    clock.now += 1
    with pytest.raises(ValueError, match="is in use by"):
        claim.attempt()
    assert owners(tmp_path) == ["feed"]


def test_ranks_that_linger_and_then_end_make_way(tmp_path: Path, clock: Clock) -> None:
    first_rank_gone(tmp_path)
    claim = Claim(tmp_path, clock=clock)
    assert not claim.attempt()
    clock.now += 5
    write_rank(tmp_path, 1, "lost a peer")
    assert claim.attempt()
    claim.release()


def test_a_lock_that_is_renewed_from_another_host_is_refused(tmp_path: Path, clock: Clock) -> None:
    file = leave_lock(tmp_path, host="host-b", machine="another boot")
    claim = Claim(tmp_path, clock=clock)
    assert not claim.attempt(), "nothing is known yet"
    clock.now += 1
    os.utime(file, (file.stat().st_mtime + 5, file.stat().st_mtime + 5))
    with pytest.raises(ValueError, match=f"in use by another run \\(host host-b, process {NO_PROCESS}, since"):
        claim.attempt()


def test_one_that_is_not_renewed_from_another_host_is_taken_over_after_a_minute(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_lock(tmp_path, host="host-b", machine="another boot", renewed_s_ago=-HOUR_S)  # whose clock is an hour ahead
    claim = Claim(tmp_path, clock=clock)
    assert not claim.attempt()
    assert "waiting up to 60 s to see whether it lives" in capsys.readouterr().out
    clock.now += STALE_AFTER_S - 1
    assert not claim.attempt()
    clock.now += 1
    assert claim.attempt()
    assert "took over" in capsys.readouterr().out
    claim.release()


def test_an_old_lock_of_another_host_is_watched_for_some_seconds_only(tmp_path: Path, clock: Clock) -> None:
    """A file server that hung for a minute kept a living owner from renewing it."""
    leave_lock(tmp_path, host="host-b", machine="another boot", renewed_s_ago=HOUR_S)
    claim = Claim(tmp_path, clock=clock)
    assert not claim.attempt()
    clock.now += SEEN_STILL_S
    assert claim.attempt()
    claim.release()


def test_a_host_of_another_name_is_another_host_whatever_its_boot_is_called(tmp_path: Path, clock: Clock) -> None:
    leave_lock(tmp_path, host="host-b")  # the same machine id, and no such process here
    assert not Claim(tmp_path, clock=clock).attempt()


@pytest.mark.parametrize("text", ["", "{}", '{"token": "feed"', "\x00" * 40, "[1]"])
def test_a_lock_that_says_nothing_is_judged_by_what_is_seen_of_it(tmp_path: Path, clock: Clock, text: str) -> None:
    file = leave_lock(tmp_path, renewed_s_ago=HOUR_S)
    then = file.stat().st_mtime
    file.write_text(text)
    os.utime(file, (then, then))
    claim = Claim(tmp_path, clock=clock)
    assert not claim.attempt()
    clock.now += STALE_AFTER_S - 1
    assert not claim.attempt(), "it may be about to change hands"
    clock.now += 1
    assert claim.attempt()
    claim.release()


def test_of_many_who_take_over_one_wins(tmp_path: Path) -> None:
    """Each has judged the owner gone before any of them acts."""
    for turn in range(20):
        folder = tmp_path / str(turn)
        leave_lock(folder)
        barrier, won = threading.Barrier(8), []

        def take(folder: Path = folder, barrier: threading.Barrier = barrier, won: list[Claim] = won) -> None:
            claim = Claim(folder)
            found = claim._look()
            assert found is not None
            barrier.wait()
            if claim._take_over(found[0]):
                won.append(claim)

        run_in_threads(take, 8)
        assert len(won) == 1
        assert owners(folder) == [won[0]._me.token]
        assert won[0]._look() == (won[0]._me, won[0]._file.stat().st_mtime_ns)


def test_of_many_who_take_a_free_folder_one_wins(tmp_path: Path) -> None:
    for turn in range(20):
        folder = tmp_path / str(turn)
        barrier, won = threading.Barrier(8), []

        def take(folder: Path = folder, barrier: threading.Barrier = barrier, won: list[Claim] = won) -> None:
            claim = Claim(folder)
            barrier.wait()
            if claim._put():
                won.append(claim)

        run_in_threads(take, 8)
        assert [claim._me.token for claim in won] == owners(folder)
        assert len(won) == 1
        assert [path.name for path in folder.iterdir()] == [LOCK]


def run_in_threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_an_owner_renews_its_lock_and_learns_that_it_lost_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "RENEWED_EVERY_S", 0.01)
    lost: list[str] = []
    told = threading.Event()

    def note(why: str) -> None:
        lost.append(why)
        told.set()

    claim = Claim(tmp_path, lost=note)
    assert claim.attempt()
    os.utime(claim._file, (1, 1))
    while claim._file.stat().st_mtime == 1:
        assert not told.wait(0.01)
    claim._file.rename(claim._file.with_name("other.json"))  # as another run takes over
    assert told.wait(30)
    assert f"another run has taken over {tmp_path}" in lost[0]
    claim.release()
    assert owners(tmp_path) == ["other"]


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        Claim(tmp_path / "file" / "run").attempt()


@pytest.fixture
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collectives of a rank by itself."""
    monkeypatch.setattr("engine.ranks.world.dist.all_gather_object", lambda out, value: out.__setitem__(0, value))
    monkeypatch.setattr("engine.ranks.world.dist.broadcast_object_list", lambda values, src: None)
    monkeypatch.setattr("engine.ranks.world.dist.barrier", lambda: None)


@pytest.mark.usefixtures("no_others")
def test_a_run_holds_its_folder_until_its_end_whatever_that_is(tmp_path: Path) -> None:
    def fail() -> None:
        with held(tmp_path, ALONE) as claim:
            assert claim is not None
            assert owners(tmp_path) == [claim._me.token]
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_others")
def test_who_is_refused_ends_with_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with held(tmp_path, ALONE):
        with pytest.raises(SystemExit) as end, held(tmp_path, ALONE):
            raise AssertionError("two runs in one folder")
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: the run folder {tmp_path} is in use by another run (host ")
        assert said.count("\n") == 1
        assert len(owners(tmp_path)) == 1
