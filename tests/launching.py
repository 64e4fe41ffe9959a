"""Starting ranks as a user does, through the ``deepspeed`` launcher."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.shared.shell import ROOT, command_of, environment

RUNS_IN_ONE_LAUNCH = Path(__file__).parent / "engine" / "runs_in_one_launch.py"


def deepspeed(ranks: int, *arguments: str | Path, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    """Run ``deepspeed ARGUMENTS`` on ``ranks`` ranks from the project's root and wait for it."""
    return _finished(command_of(ranks, *arguments), timeout_s)


def python_module(*arguments: str | Path, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ARGUMENTS`` from the project's root, without any launcher, and wait for it."""
    return python("-m", *arguments, timeout_s=timeout_s)


def python(*arguments: str | Path, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENTS`` likewise."""
    return _finished([sys.executable, *map(str, arguments)], timeout_s)


def _finished(command: list[str], timeout_s: float | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False
    )


class BackgroundRun:
    """``engine.train`` through ``deepspeed``, left alone so that a test can do something to its processes.

    Leaving the ``with`` block ends by force whatever of it still runs.

    Attributes:
        launcher: the ``deepspeed`` process, first of a session and process group of its own.
        folder: the run folder.
    """

    def __init__(self, ranks: int, folder: Path, *arguments: str | Path) -> None:
        self.folder, self._ranks = folder, ranks
        self._printed = folder.with_suffix(".printed")
        self._mark = secrets.token_hex(8)
        with self._printed.open("w") as sink:
            self.launcher = subprocess.Popen(
                # What a shell starts in the background, tests perhaps, begins with SIGINT ignored.
                [
                    "env",
                    "--default-signal=INT",
                    *command_of(ranks, "--module", "engine.train", "--out", folder, *arguments),
                ],
                cwd=ROOT,
                env={**environment(), "BACKGROUND_RUN": self._mark},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        return self._printed.read_text()

    def processes(self) -> list[int]:
        """Everything alive that this run has started, whoever its parent is by now."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environ, state = (
                    (entry / "environ").read_bytes(),
                    (entry / "stat").read_text().rpartition(")")[2].split()[0],
                )
            except OSError:
                continue
            if f"BACKGROUND_RUN={self._mark}\0".encode() in environ and state not in "ZX":
                found.append(int(entry.name))
        return found

    def rank_process(self, rank: int) -> int:
        return int(json.loads((self.folder / "ranks" / f"rank-{rank:05d}.json").read_text())["pid"])

    def launch_process(self) -> int:
        """The parent of the ranks."""
        return int(Path(f"/proc/{self.rank_process(0)}/stat").read_text().rpartition(")")[2].split()[1])

    def steps_done(self) -> int:
        """Steps written to the metrics."""
        path = self.folder / "metrics.jsonl"
        return path.read_text().count('"train"') if path.exists() else 0

    def wait_until(self, what: Callable[[], bool], timeout_s: float = 120) -> None:
        until = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < until, f"not within {timeout_s} s; printed:\n{self.printed}"
            time.sleep(0.05)

    def wait_for_end(self) -> int:
        """The exit code of ``deepspeed``, once none of the run's processes is left; 128 + n if signal n ended it."""
        self.wait_until(lambda: not self.processes())
        code = self.launcher.wait(timeout=10)
        return code if code >= 0 else 128 - code

    def __enter__(self) -> "BackgroundRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.launcher.wait(timeout=10)


def run_jobs(ranks: int, jobs: Sequence[list[str] | dict[str, Any]], folder: Path) -> tuple[list[int], str]:
    """Several command lines of engine.train in one launch: their exit codes, and what was printed altogether.

    A job may be more than that: see ``tests/engine/runs_in_one_launch.py``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = deepspeed(ranks, RUNS_IN_ONE_LAUNCH, folder / "jobs.json", folder / "results.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "results.json").read_text()), done.stdout + done.stderr
