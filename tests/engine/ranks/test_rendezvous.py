"""Ranks that do not meet. What needs a second host is in tests/multinode."""

import os
import subprocess
import sys

import pytest

from benchmarks.shared.shell import ROOT, environment
from engine.ranks.rendezvous import explain, meeting


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


def test_nothing_happens_later_to_ranks_that_met() -> None:
    program = (
        "import time; from engine.ranks import rendezvous; rendezvous._GRACE_S = 0.0\n"
        "with rendezvous.meeting(0.2): pass\n"
        "time.sleep(0.5)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment(), timeout=30, check=True)
