"""Ranks that do not meet. What needs a second host is in tests/multinode."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from benchmarks.shared.shell import ROOT, environment
from engine.ranks import rendezvous
from engine.ranks.rendezvous import Place, explain, look_first, meeting, read_place
from engine.ranks.world import join_world


@pytest.fixture(autouse=True)
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host-a", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    told = explain("The server socket has failed to listen on any local network address. port: 29500 EADDRINUSE", 60)
    assert "port 29500" in told
    assert "--master_port" in told


def test_any_other_cause_is_passed_on_in_its_first_line() -> None:
    told = explain("timed out\nframe #0: c10::Error", 60)
    assert "host-a:29500 within 60 s" in told
    assert told.endswith("Cause: timed out")


def test_what_torch_raises_becomes_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, meeting(60):
        raise RuntimeError("gloo says no")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: rank 1 ({os.uname().nodename}): ")
    assert said.count("\n") == 1


def test_a_rendezvous_that_never_returns_is_given_up() -> None:
    program = (
        "import time; from engine.ranks import rendezvous; rendezvous._GRACE_S = 0.0\n"
        "with rendezvous.meeting(0.2): time.sleep(60)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: rank 1 (")


def test_a_rank_that_found_something_wrong_tells_that_if_the_first_does_not_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as stop, meeting(60, "no such folder"):
        raise RuntimeError("gloo says no")
    assert stop.value.code == 2
    named = f"error: rank 1 ({os.uname().nodename}): no such folder\n"
    assert capsys.readouterr().err == named
    ended = threading.Event()
    monkeypatch.setattr(rendezvous, "_PATIENCE_S", 0.01)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set() if code == 2 else None)
    with meeting(60, "no such folder"):
        assert ended.wait(10)
    assert capsys.readouterr().err == named


def test_nothing_happens_later_to_ranks_that_met() -> None:
    program = (
        "import time; from engine.ranks import rendezvous; rendezvous._GRACE_S = 0.0\n"
        "with rendezvous.meeting(0.2): pass\n"
        "time.sleep(0.5)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), timeout=30, check=True)


LAUNCHED = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "4",
    "MASTER_ADDR": "host-a",
    "MASTER_PORT": "29500",
}
# What is wrong with a launcher's variables (None: not set), and what is said of it.
MISPLACED = {
    "no local rank": ({"LOCAL_RANK": None}, "RANK is set, but LOCAL_RANK is not"),
    "a rank alone": (dict.fromkeys(LAUNCHED.keys() - {"RANK"}), "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are"),
    "a world without ranks": ({"RANK": None}, "WORLD_SIZE is 8, but RANK is not set"),
    "a rank that is no number": ({"RANK": "five"}, "RANK is 'five', but must be a whole number from 0 to 7"),
    "an empty local rank": ({"LOCAL_RANK": ""}, "LOCAL_RANK is '', but must be a whole number from 0 to 3"),
    "a negative rank": ({"RANK": "-1"}, "RANK is '-1', but must be a whole number from 0 to 7"),
    "a rank outside the world": ({"RANK": "8"}, "RANK is '8', but must be a whole number from 0 to 7"),
    "a local rank outside the host": ({"LOCAL_RANK": "4"}, "LOCAL_RANK is '4', but must be a whole number from 0 to 3"),
    "a world of none": ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', but must be a whole number of at least 1"),
    "a host larger than the world": ({"LOCAL_SIZE": "9"}, "LOCAL_SIZE is '9', but must be a whole number from 1 to 8"),
    "a size that is no number": ({"LOCAL_SIZE": "4(x2)"}, "LOCAL_SIZE is '4(x2)', but must be a whole number"),
    "no port": ({"MASTER_PORT": "host-a:29500"}, "MASTER_PORT is 'host-a:29500', but must be a whole number from 1"),
}


def changed(changes: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**LAUNCHED, **changes}.items() if value is not None}


@pytest.mark.parametrize("name", MISPLACED)
def test_variables_that_say_no_place_are_one_line_and_code_2(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, told = MISPLACED[name]
    for variable in ("LOCAL_WORLD_SIZE", *LAUNCHED):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in changed(changes).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as stop:
        join_world()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert told in said
    assert said.count("\n") == 1


def test_a_launchers_variables_say_the_place_on_the_host() -> None:
    assert read_place(LAUNCHED) == Place(1, 4, rank=5, size=8)
    assert read_place(changed({"LOCAL_SIZE": None, "LOCAL_WORLD_SIZE": "2"})) == Place(1, 2, rank=5, size=8)
    assert read_place(changed({"LOCAL_SIZE": None})) == Place(1, 8, rank=5, size=8)
    assert read_place({}) is None
    assert read_place({"WORLD_SIZE": "1"}) is None


def refuse(place: Place) -> None:
    raise FileNotFoundError("no such folder")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts this process at a place that a launcher's variables say."""

    def at(**changes: str) -> None:
        for variable, value in {**LAUNCHED, **changes}.items():
            monkeypatch.setenv(variable, value)

    return at


def test_the_first_rank_tells_what_it_finds_wrong_and_ends(
    at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    at(RANK="0", LOCAL_RANK="0", LOCAL_SIZE="8")
    with pytest.raises(SystemExit) as stop:
        look_first(refuse)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: no such folder\n"


def test_another_rank_of_its_host_keeps_what_it_finds_wrong_for_the_meeting(
    at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    at(LOCAL_SIZE="8")
    assert look_first(refuse) == "no such folder"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_ranks_of_several_hosts_meet_whatever_one_of_them_finds_wrong(
    rank: str, at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    at(RANK=rank, LOCAL_RANK=rank)
    assert look_first(refuse) is None
    assert capsys.readouterr().err == ""


def test_variables_that_say_no_place_end_any_rank_at_once(
    at: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    at(LOCAL_RANK="4")
    with pytest.raises(SystemExit) as stop:
        look_first(refuse)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: LOCAL_RANK is '4'")


def test_where_nothing_is_wrong_every_rank_knows_its_place(at: Callable[..., None]) -> None:
    at()
    seen: list[Place] = []
    assert look_first(seen.append) is None
    assert seen == [Place(1, 4, rank=5, size=8)]


def test_a_process_without_a_launcher_is_the_first_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in LAUNCHED:
        monkeypatch.delenv(variable, raising=False)
    seen: list[Place] = []
    assert look_first(seen.append) is None
    assert seen == [Place(0, 1, rank=0, size=1)]
    assert seen[0].is_first


def test_a_rank_that_is_meant_for_the_processor_sees_no_gpu_from_its_first_look_on(
    at: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    at()
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # deepspeed's numbers for the ranks of this host
    assert look_first(lambda place: None) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
