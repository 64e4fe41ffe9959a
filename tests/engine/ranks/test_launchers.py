"""Which processes above a rank are the launcher's."""

import os
import signal
import subprocess
import sys

import pytest

from engine.ranks.launchers import is_launch, is_runner, lost_its_launcher, num_followed
from engine.ranks.processes import Process, ancestors, command_line, find_process, was_left_behind

LAUNCH = ["/venv/bin/python", "-u", "-m", "deepspeed.launcher.launch", "--world_info=e30=", "--module", "engine.train"]
RUNNER = ["/venv/bin/python3.11", "/venv/bin/deepspeed", "--quiet", "--module", "engine.train"]
SHELL = ["-bash"]
SSHD = ["sshd: someone@notty"]
REMOTE_SHELL = ["bash", "-c", "cd /x; python -u -m deepspeed.launcher.launch --world_info=e30= engine.train"]


def test_a_command_line_is_recognised_by_what_runs_and_not_by_its_arguments() -> None:
    assert is_launch(LAUNCH)
    assert is_runner(RUNNER)
    assert is_runner(["python", "-m", "deepspeed.launcher.runner", "train.py"])
    for other in (
        ["bash", "-c", "nohup deepspeed train.py &"],
        ["vim", "-R", "x", "deepspeed"],
        SHELL,
        [],
        ["timeout"],
    ):
        assert not is_runner(other)
        assert not is_launch(other)


@pytest.mark.parametrize(
    ("ancestors", "expected"),
    [
        ([LAUNCH, RUNNER, SHELL, SSHD], 2),  # a login: the run outlives shell and connection
        ([LAUNCH, REMOTE_SHELL, SSHD, ["/usr/sbin/sshd", "-D"]], 3),  # pdsh
        ([LAUNCH, SSHD, ["/usr/sbin/sshd", "-D"]], 2),  # pdsh, whose shell made way for the launcher
        ([LAUNCH, ["slurmstepd: [1.0]"]], 1),
        ([["numactl", "python"], LAUNCH, RUNNER], 3),
        ([LAUNCH, []], 1),
        ([LAUNCH], 1),
        ([SHELL, SSHD], 0),
        ([["bash", "-c", "nohup deepspeed train.py &"], SSHD], 0),
        ([], 0),
    ],
)
def test_launchers_are_followed_and_what_started_them_is_not(ancestors: list[list[str]], expected: int) -> None:
    assert num_followed(ancestors) == expected


def test_a_process_is_alive_until_it_is_a_zombie() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = find_process(child.pid)
    assert process is not None
    assert process.is_alive
    assert process.parent == os.getpid()
    while command_line(child.pid) != ["sleep", "60"]:  # until then it is a copy of this process
        assert process.is_alive
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive  # though its number is still taken
    child.wait()
    assert not process.is_alive
    assert find_process(child.pid) is None
    assert command_line(child.pid) == []


def test_a_child_is_left_behind_when_its_parent_is_not_of_its_group() -> None:
    launch, runner, init = Process(20, 5, 10, 10), Process(10, 4, 1, 10), Process(1, 0, 0, 1)
    assert not was_left_behind(launch, runner)
    assert was_left_behind(launch, init)
    assert was_left_behind(launch, None)
    assert not was_left_behind(runner, init)  # it leads its group, as what a shell or a service starts does


def test_a_rank_whose_launcher_went_while_it_started_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    rank, launch = Process(30, 6, 20, 10), Process(20, 5, 10, 10)
    runner, init = Process(10, 4, 1, 10), Process(1, 0, 0, 1)
    for name in ("LOCAL_SIZE", "CROSS_RANK"):
        monkeypatch.setenv(name, "1")
    assert not lost_its_launcher(rank, [launch, runner, init], [LAUNCH, RUNNER, SHELL])
    assert lost_its_launcher(rank, [launch, init], [LAUNCH, ["init"]])
    assert lost_its_launcher(rank, [init], [["init"]])
    monkeypatch.delenv("CROSS_RANK")
    assert not lost_its_launcher(rank, [init], [["init"]])  # nothing says that it had one


def test_ancestors_begin_with_the_parent() -> None:
    assert ancestors()[0].pid == os.getppid()


def test_a_process_without_a_launcher_follows_nothing() -> None:
    program = (
        "import threading; from engine.ranks.launchers import Launchers; Launchers(); print(threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
