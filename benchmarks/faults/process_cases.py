"""Processes that are killed, stopped, signalled or that fail."""

import signal
import socket
import time
from collections.abc import Callable
from signal import Signals
from typing import Any

from benchmarks.faults.case import CHECKPOINT_EVERY, EVAL_EVERY, Bench, Case, Checks, check_checkpoint, check_end

GROUP = "processes"
_AT_STEP = 24
_RESUMED = "the same command goes on to the weights of a run left in peace"


def cases() -> list[Case]:
    """All of them."""
    return [*_kills(), *_outside_kills(), *_signals(), _twice(), _stalled(), _failing()]


def _kills() -> list[Case]:
    # Place, rank, at which time that it comes there, the step of the checkpoint that must be there then. Under ZeRO-1
    # the first rank writes two files a checkpoint and the second one.
    places = [
        ("before a step", 1, 13, 10, "at an epoch boundary"),
        ("in a step", 0, 25, 20, "in a step"),
        ("in a step", 1, 25, 20, "in a step"),
        ("in an evaluation", 1, 3, EVAL_EVERY // CHECKPOINT_EVERY * CHECKPOINT_EVERY, "in an evaluation"),
        ("before a rank writes its part", 1, 2, 10, "in a save, before it writes its part"),
        ("in a rank's part", 0, 3, 10, "in a save, its file half written"),
        ("in a rank's part", 1, 2, 10, "in a save, its file half written"),
        ("before the manifest", 0, 2, 10, "in a save, all files written, no manifest"),
        ("in the manifest", 0, 2, 10, "in a save, while the manifest is made"),
        ("before the manifest is renamed", 0, 2, 10, "in a save, the manifest not yet renamed"),
        ("before the pointer", 0, 2, 20, "in a save, the manifest there, no pointer"),
        ("before pruning", 0, 3, 30, "in a save, before old checkpoints are deleted"),
    ]
    return [
        Case(
            GROUP,
            f"kill -9 of rank {rank} {words}",
            f"the rank kills itself {place}, time {number}",
            f"the other rank ends within seconds with code 1 and names rank {rank}; the checkpoint of step {step} is "
            f"the newest that counts; {_RESUMED}",
            _kill({"rank": rank, "at": place, "number": number, "do": "kill"}, step),
        )
        for place, rank, number, step, words in places
    ]


def _kill(fault: dict[str, Any], step: int) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        out = bench.out(f"kill {fault['at']} rank {fault['rank']}")
        with bench.start(out, fault=fault) as run:
            run.wait(300)
            check_end(checks, run, _code_of_a_lost_rank(run.process.returncode), f"rank {fault['rank']} (", "is gone")
            check_checkpoint(checks, out, step)
        bench.resume(checks, out)

    return run


def _code_of_a_lost_rank(code: int | None) -> int:
    # launch.py passes on whichever rank it looks at first: the killed one as 247 (-9 as an unsigned byte), or the
    # survivor as 1.
    return 247 if code == 247 else 1


def _outside_kills() -> list[Case]:
    expected = "the ranks miss their launcher, save a checkpoint and end; {}; " + _RESUMED
    found = [
        Case(
            GROUP,
            f"kill -9 of {role}",
            f"SIGKILL to {role} after step {_AT_STEP}",
            expected.format(f"deepspeed's own code is {code}"),
            _signal(role, signal.SIGKILL, code, "stopped by the loss of its launcher"),
        )
        for role, code in {"launch.py": 0, "runner": 137}.items()
    ]

    def all_at_once(bench: Bench, checks: Checks) -> None:
        out = bench.out("kill everything")
        with bench.start(out) as run:
            run.wait_for_step(_AT_STEP)
            run.kill_everything()
            check_end(checks, run, 128 + signal.SIGKILL)
        bench.resume(checks, out)

    whole = Case(
        GROUP,
        "kill -9 of every process at once",
        f"SIGKILL to runner, launch.py and both ranks after step {_AT_STEP}, as when a machine loses power",
        f"nothing is left running; {_RESUMED}",
        all_at_once,
    )
    return [*found, whole]


def _signals() -> list[Case]:
    # To whom, which, the code of the deepspeed command, what the ranks say.
    rows: list[tuple[str, Signals, int, str]] = [
        ("rank 0", signal.SIGTERM, 75, "stopped by SIGTERM to rank 0"),
        ("rank 1", signal.SIGTERM, 75, "stopped by SIGTERM to rank 1"),
        ("rank 1", signal.SIGUSR1, 75, "stopped by SIGUSR1 to rank 1"),
        ("rank 1", signal.SIGINT, 75, "stopped by SIGINT to rank 1"),
        ("launch.py", signal.SIGTERM, 1, "stopped by SIGTERM to rank"),
        ("launch.py", signal.SIGUSR1, 0, "stopped by the loss of its launcher"),
        ("launch.py", signal.SIGINT, 1, "stopped by SIGTERM to rank"),
        ("runner", signal.SIGTERM, 128 + signal.SIGTERM, "stopped by the loss of its launcher"),
        ("runner", signal.SIGUSR1, 128 + signal.SIGUSR1, "stopped by the loss of its launcher"),
        ("runner", signal.SIGINT, 128 + signal.SIGINT, "stopped by the loss of its launcher"),
        ("group", signal.SIGINT, 128 + signal.SIGINT, "stopped by "),
    ]
    return [
        Case(
            GROUP,
            f"{number.name} to {'the process group (Ctrl-C)' if role == 'group' else role}",
            f"the signal after step {_AT_STEP}",
            f"all ranks save a checkpoint of the same step and end; the deepspeed command gives {code}; {_RESUMED}",
            _signal(role, number, code, says),
        )
        for role, number, code, says in rows
    ]


def _signal(role: str, number: Signals, code: int, says: str) -> Callable[[Bench, Checks], None]:
    def run(bench: Bench, checks: Checks) -> None:
        out = bench.out(f"{number.name} to {role}")
        with bench.start(out) as run:
            run.wait_for_step(_AT_STEP)
            run.send(role, number)
            check_end(checks, run, code, says)
            check_checkpoint(checks, out)
        bench.resume(checks, out)

    return run


def _twice() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        out = bench.out("SIGTERM twice")
        with bench.start(out, "--set", "engine.stop_grace_s=100") as run:
            run.wait_for_step(_AT_STEP)
            processes = run.processes()
            processes["rank 1"].suspend()  # without it there is no boundary, so the first signal has no end
            processes["rank 0"].terminate()
            time.sleep(4)  # a repetition within three seconds is taken for the same wish
            processes["rank 0"].terminate()
            run.wait_until(lambda _: not processes["rank 0"].is_running() or run.has_ended, 60)
            processes["rank 1"].resume()
            check_end(checks, run, 128 + signal.SIGTERM, "SIGTERM came again")
            check_checkpoint(checks, out, _AT_STEP // CHECKPOINT_EVERY * CHECKPOINT_EVERY)
        bench.resume(checks, out)

    return Case(
        GROUP,
        "SIGTERM twice to a rank",
        "rank 1 stands still (SIGSTOP), so that no boundary comes; SIGTERM to rank 0, and again four seconds later",
        f"the second one ends the rank at once with code 143; the last checkpoint holds; {_RESUMED}",
        run,
    )


def _stalled() -> Case:
    def run(bench: Bench, checks: Checks) -> None:
        out = bench.out("stalled rank")
        with bench.start(out, "--set", "engine.stall_report_s=3") as run:
            run.wait_for_step(_AT_STEP)
            rank = run.processes()["rank 1"]
            rank.suspend()
            run.wait_until(lambda _: "stalled: rank 1 (" in run.printed, 60)
            before = run.num_lines
            rank.resume()
            run.wait_for_step(before + 5)
            checks.add("after SIGCONT", "the run goes on", f"{run.num_lines} steps, {before} before", True)
            run.send("rank 0", signal.SIGTERM)
            check_end(checks, run, 75, f"stalled: rank 1 ({socket.gethostname()}, process {rank.pid})")
        bench.resume(checks, out)

    return Case(
        GROUP,
        "a rank stands still",
        "SIGSTOP to rank 1 with engine.stall_report_s at 3, SIGCONT once it is reported",
        f"rank 1 is named with host and process; the run goes on afterwards; {_RESUMED}",
        run,
    )


def _failing() -> Case:
    fault = {"rank": 1, "at": "in a step", "number": 25, "do": "fail"}

    def run(bench: Bench, checks: Checks) -> None:
        out = bench.out("failing rank")
        with bench.start(out, fault=fault) as run:
            run.wait(300)
            check_end(checks, run, 1, "rank 1 (", "ArithmeticError: an error that nobody thought of")
            checks.equal("tracebacks with the cause", 1, run.printed.count("ArithmeticError: an error that nobody"))
            check_checkpoint(checks, out, 20)
        bench.resume(checks, out)

    return Case(
        GROUP,
        "an unforeseen exception on rank 1",
        "an ArithmeticError raised in a step",
        f"one traceback that names the rank; all ranks end with code 1; {_RESUMED}",
        run,
    )
