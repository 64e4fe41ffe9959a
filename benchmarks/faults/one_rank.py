"""Runs of one rank, each in a process of its own that is forked from one which has imported everything.

A run is over in a second or two then, where most of ten would go into importing. The parent does nothing but import.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.shared.shell import ROOT, environment

_WITHIN_S = 150.0
_ENDED_FROM_OUTSIDE = 124


class OneRankRuns:
    """Starts runs and waits for them; a context manager, after which none is left."""

    def __enter__(self) -> "OneRankRuns":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.one_rank"],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the parent's children die with it
        self._process.wait()

    def start(self, argv: list[str]) -> "OneRankRun":
        """A run with this command line of engine.train."""
        with tempfile.NamedTemporaryFile(suffix=".log", delete=False) as log:
            pid = self._ask(start=argv, log=log.name)
        return OneRankRun(self, int(pid), Path(log.name))

    def run(self, argv: list[str]) -> tuple[int, str]:
        """A whole run: its exit code, negative for a signal and 124 if it did not end, and all that it printed."""
        return self.start(argv).wait()

    def wait(self, pid: int, timeout_s: float) -> int:
        """The exit code of a run that was started."""
        return int(self._ask(wait=pid, timeout_s=timeout_s))

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class OneRankRun:
    """A run that goes on."""

    def __init__(self, runs: OneRankRuns, pid: int, log: Path) -> None:
        self._runs, self.pid, self._log = runs, pid, log

    def wait(self, timeout_s: float = _WITHIN_S) -> tuple[int, str]:
        """Its end: exit code and output."""
        code = self._runs.wait(self.pid, timeout_s)
        printed = self._log.read_text(errors="replace")
        self._log.unlink()
        return code, printed


def _serve() -> None:
    """The parent's work: requests come a line at a time."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import has to say is no reply

    from engine import train  # all that takes long

    children: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                _become(train.main, request["start"], request["log"])
            children.add(pid)
            reply: int = pid
        else:
            children.discard(request["wait"])
            reply = _end_of(request["wait"], request["timeout_s"])
        replies.write(f"{reply}\n")
        replies.flush()
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def _become(main: Any, argv: list[str], log: str) -> None:
    """The child's work: to be a run. Does not return."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    code: Any = 1
    try:
        main(argv)
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _end_of(pid: int, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return _ENDED_FROM_OUTSIDE
        time.sleep(0.02)


if __name__ == "__main__":
    _serve()
