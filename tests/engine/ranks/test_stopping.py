"""Stopping a run at every level of the launcher, and losing a rank."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import BackgroundRun, run_jobs

from benchmarks.shared.shell import ROOT, environment, free_port
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.metrics import read_metrics
from engine.ranks.run_lock import LOCK, Claim
from engine.ranks.stopping import Deadline, Stopping, describe_wish, encode_wish
from engine.ranks.world import World


def test_a_wish_to_stop_says_which_signal_reached_which_rank() -> None:
    assert describe_wish(encode_wish(signal.SIGUSR1, 511)) == "SIGUSR1 to rank 511"
    assert max(encode_wish(signal.SIGTERM, 0), encode_wish(signal.SIGTERM, 3), 0) == encode_wish(signal.SIGTERM, 3)


def test_without_a_wish_there_is_no_deadline() -> None:
    assert Deadline(60).at is None


def test_the_grace_counts_from_the_first_signal_and_again_from_the_boundary() -> None:
    deadline = Deadline(60)
    deadline.signal(signal.SIGTERM, now=100)
    deadline.signal(signal.SIGUSR1, now=150)
    assert deadline.at == 160
    deadline.boundary(now=155)
    assert deadline.at == 215


def test_the_same_signal_again_means_at_once_but_not_an_echo_of_it_nor_another_signal() -> None:
    deadline = Deadline(60)
    assert not deadline.signal(signal.SIGINT, now=100)
    assert not deadline.signal(signal.SIGINT, now=100.5)  # to the whole process group, and from the launcher
    assert not deadline.signal(signal.SIGTERM, now=110)
    assert deadline.signal(signal.SIGINT, now=110)


def test_a_lost_rank_shortens_the_grace_and_never_lengthens_it() -> None:
    deadline = Deadline(60)
    deadline.no_later_than(20)
    assert deadline.at == 20
    deadline.signal(signal.SIGTERM, now=18)
    deadline.no_later_than(90)
    assert deadline.at == 20


@pytest.fixture
def ended() -> list[tuple[str, int]]:
    """Filled with the reason and the exit code when a rank would have been ended by force."""
    return []


@pytest.fixture
def stopping(ended: list[tuple[str, int]]) -> Iterator[Stopping]:
    """A rank by itself, with half a second's grace."""
    alone = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"), hosts=("here",))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    stopping = Stopping(alone, 0.5, lambda why, code: ended.append((why, code)))
    yield stopping
    stopping.close()
    for number, handler in handlers.items():
        signal.signal(number, handler)


def wait_until(what: Callable[[], object]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_signal_stops_a_rank_at_the_next_boundary(stopping: Stopping) -> None:
    stopping.agree()
    assert not stopping.stopping
    os.kill(os.getpid(), signal.SIGUSR1)
    wait_until(lambda: stopping.is_asked)
    assert not stopping.stopping
    stopping.agree()
    assert stopping.stopping
    assert stopping.reason == "SIGUSR1 to rank 0"


def test_a_rank_that_reaches_no_boundary_is_ended(stopping: Stopping, ended: list[tuple[str, int]]) -> None:
    stopping.lose_launcher()
    wait_until(lambda: ended)
    assert ended[0] == ("it was asked to stop, and no step boundary came within engine.stop_grace_s, 0.5 s", 1)


def test_a_checkpoint_that_takes_too_long_ends_a_rank(stopping: Stopping, ended: list[tuple[str, int]]) -> None:
    stopping.lose_launcher()
    stopping.agree()
    wait_until(lambda: ended)
    assert ended[0] == (
        "it was asked to stop, and saving the checkpoint took longer than engine.stop_grace_s, 0.5 s",
        1,
    )


def test_a_rank_whose_peer_is_lost_ends_and_says_why(stopping: Stopping, ended: list[tuple[str, int]]) -> None:
    stopping.lose_peer("rank 1 is gone", within_s=0.1)
    wait_until(lambda: ended)
    assert ended[0] == ("rank 1 is gone", 1)


def signal_launch(number: signal.Signals) -> Callable[[BackgroundRun], None]:
    return lambda run: os.kill(run.launch_process(), number)


def signal_deepspeed(number: signal.Signals) -> Callable[[BackgroundRun], None]:
    return lambda run: run.launcher.send_signal(number)


def signal_group(number: signal.Signals) -> Callable[[BackgroundRun], None]:
    return lambda run: os.killpg(run.launcher.pid, number)


# What is done to a run of two ranks, and what ``deepspeed`` returns then.
STOPS = {
    "SIGTERM to launch.py": (signal_launch(signal.SIGTERM), 1),
    "SIGKILL to launch.py": (signal_launch(signal.SIGKILL), 0),
    "SIGTERM to deepspeed": (signal_deepspeed(signal.SIGTERM), 128 + signal.SIGTERM),
    "SIGINT to the process group": (signal_group(signal.SIGINT), 128 + signal.SIGINT),
}
# A signal to rank 1, once the metrics have so many lines: a training line a step, and one before each evaluation.
SELF_SIGNALS = {
    "SIGTERM to a rank": ("SIGTERM", 5, []),
    "SIGUSR1 to a rank": ("SIGUSR1", 5, []),
    "SIGTERM in an evaluation": (
        "SIGTERM",
        8,
        ["--set", "eval.every=8steps", "--set", f"eval.keep_rates={[0.4] * 30}"],
    ),
}


@dataclass(frozen=True)
class Ended:
    code: int
    printed: str
    folder: Path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy shards and toy.yaml: a run too long to end before a test stops it."""
    folder = tmp_path_factory.mktemp("toy")
    write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))
    return folder


def arguments(toy: Path, *more: str) -> list[str]:
    return ["--config", str(toy / "toy.yaml"), "--set", "train.duration=20000steps", *more]


def folder_of(toy: Path, name: str) -> Path:
    return toy / name.replace(" ", "-").replace(".", "-")


def stop(toy: Path, name: str) -> Ended:
    with BackgroundRun(2, folder_of(toy, name), *arguments(toy)) as run:
        run.wait_until(lambda: run.steps_done() >= 5)
        STOPS[name][0](run)
        return Ended(run.wait_for_end(), run.printed, run.folder)


@pytest.fixture(scope="module")
def stopped(toy: Path) -> dict[str, Ended]:
    """Every way of STOPS, two at a time: a launch keeps one core busy for most of its time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(STOPS, pool.map(lambda name: stop(toy, name), STOPS), strict=True))


def last_checkpoint(folder: Path) -> int:
    return max(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def resumed(toy: Path, stopped: dict[str, Ended]) -> tuple[dict[str, int], str, int]:
    """Runs stopped by a signal to a rank; then all stopped runs, resumed until the same step, and one never stopped.

    Returns:
        Exit codes by name ("... stopped", "... resumed", "whole"), all that was printed, and the step they end at.
    """
    until = max(map(last_checkpoint, (ended.folder for ended in stopped.values()))) + 3
    jobs: dict[str, list[str] | dict[str, Any]] = {}
    for name, (number, after_steps, more) in SELF_SIGNALS.items():
        argv = [*arguments(toy, *more), "--out", str(folder_of(toy, name))]
        jobs[f"{name} stopped"] = {"argv": argv, "signal": number, "rank": 1, "after_steps": after_steps}
        last = 8 if more else until
        jobs[f"{name} resumed"] = [*argv, "--max-steps", str(last)]
    for name, ended in stopped.items():
        jobs[f"{name} resumed"] = [*arguments(toy), "--out", str(ended.folder), "--max-steps", str(until)]
    jobs["whole"] = [*arguments(toy), "--out", str(toy / "whole"), "--max-steps", str(until)]
    codes, printed = run_jobs(2, list(jobs.values()), toy / "resumed")
    return dict(zip(jobs, codes, strict=True)), printed, until


@pytest.mark.parametrize("name", STOPS)
def test_a_signal_at_any_level_of_the_launcher_ends_all_with_a_checkpoint(stopped: dict[str, Ended], name: str) -> None:
    ended = stopped[name]  # there is an end only once no process of the run is left
    assert ended.code == STOPS[name][1], ended.printed
    said = [line for line in ended.printed.splitlines() if line.startswith("stopped by ")]
    assert len(said) == 1
    assert f"step-{last_checkpoint(ended.folder):08d}" in said[0]
    assert "Traceback" not in ended.printed.split("stopped by ")[0] or "KeyboardInterrupt" in ended.printed
    phases = [json.loads(path.read_text())["phase"] for path in (ended.folder / "ranks").glob("*.json")]
    assert phases == ["stopped", "stopped"]


@pytest.mark.parametrize("name", SELF_SIGNALS)
def test_a_signal_to_one_rank_stops_all_with_code_75(resumed: tuple[dict[str, int], str, int], name: str) -> None:
    codes, printed, _ = resumed
    assert codes[f"{name} stopped"] == 75
    assert f"stopped by {SELF_SIGNALS[name][0]} to rank 1" in printed


@pytest.mark.parametrize("name", [*STOPS, *(name for name in SELF_SIGNALS if "evaluation" not in name)])
def test_a_stopped_run_goes_on_to_the_same_weights(
    toy: Path, resumed: tuple[dict[str, int], str, int], name: str
) -> None:
    codes, _, until = resumed
    assert codes[f"{name} resumed"] == codes["whole"] == 0
    folder = folder_of(toy, name)
    digests = [json.loads((f / "summary.json").read_text())["weights_digest"] for f in (folder, toy / "whole")]
    assert digests[0] == digests[1]
    steps = [line["step"] for line in read_metrics(folder / "metrics.jsonl") if line["event"] == "train"]
    assert steps == list(range(until))


def test_an_evaluation_that_was_cut_short_is_made_up_for(toy: Path, resumed: tuple[dict[str, int], str, int]) -> None:
    name = "SIGTERM in an evaluation"
    assert resumed[0][f"{name} resumed"] == 0
    lines = read_metrics(folder_of(toy, name) / "metrics.jsonl")
    assert [line["step"] for line in lines if line["event"] == "train"] == list(range(8))
    assert [line["step"] for line in lines if line["event"] == "eval"] == [8] * 30
    assert json.loads((folder_of(toy, name) / "summary.json").read_text())["top1"]


def test_a_stalled_rank_is_named_and_a_killed_one_ends_the_run(toy: Path) -> None:
    more = ["--set", "engine.stall_report_s=6", "--set", "checkpoint.every=5steps"]
    with BackgroundRun(2, toy / "lost", *arguments(toy, *more)) as run:
        run.wait_until(lambda: run.steps_done() >= 5)
        with pytest.raises(ValueError, match=f"is in use by another run .*, process {run.rank_process(0)}, started by"):
            Claim(run.folder).attempt()
        process = run.rank_process(1)
        os.kill(process, signal.SIGSTOP)
        run.wait_until(lambda: f"stalled: rank 1 ({os.uname().nodename}, process {process})" in run.printed)
        before = run.steps_done()
        os.kill(process, signal.SIGCONT)
        run.wait_until(lambda: run.steps_done() > before + 5)
        os.kill(process, signal.SIGKILL)
        code = run.wait_for_end()
    assert not (run.folder / LOCK).exists()
    assert code in (1, 256 - signal.SIGKILL)
    errors = [line for line in run.printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, run.printed
    assert f"rank 1 ({os.uname().nodename}, process {process}) is gone; it was last seen in phase" in errors[0]
    assert "Traceback" not in run.printed
    assert last_checkpoint(run.folder) % 5 == 0


def start_without_launcher(folder: Path, end: str) -> list[subprocess.Popen[str]]:
    """Two ranks without a launcher, see ending_rank.py."""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, Path(__file__).parent / "ending_rank.py", folder, end]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(), **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_a_rank_that_hangs_in_a_collective_ends_once_another_is_lost(tmp_path: Path) -> None:
    killed, failing = (start_without_launcher(tmp_path / end, end) for end in ("killed", "failing"))
    try:
        killed[1].wait(timeout=120)
        killed[0].send_signal(signal.SIGTERM)  # as launch.py does then
        (_, said), (_, silent), (_, trace) = (ranks.communicate(timeout=60) for ranks in (killed[0], *failing))
    finally:
        for rank in killed + failing:
            rank.kill()
    assert [rank.returncode for rank in killed + failing] == [1, -signal.SIGKILL, 1, 1]
    assert f"is ended in phase step of step 7, without a new checkpoint: rank 1 ({os.uname().nodename}, " in said
    assert f"process {killed[1].pid}) is gone; it was last seen in phase" in said
    assert "error:" not in silent
    assert "error: rank 1 (" in trace
    assert "LookupError: nothing was found" in trace


def test_an_exception_on_all_ranks_is_reported_once(tmp_path: Path) -> None:
    ranks = start_without_launcher(tmp_path, "both-failing")
    try:
        printed = "".join(rank.communicate(timeout=120)[1] for rank in ranks)
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert printed.count("Traceback") == printed.count("error: rank ") == 1
    for number in (0, 1):
        assert "LookupError: nothing was found" in (tmp_path / "ranks" / f"rank-{number:05d}.log").read_text()
