"""Runs of a toy model as a user starts them, for benchmarks that do them harm: start, find, signal, wait, clean up."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.shared.shell import ROOT, command_of, environment
from engine.metrics import read_metrics

_MARK = "TOY_RUN"
_LOOK_EVERY_S = 0.02
_LAUNCH = "deepspeed.launcher.launch"


def settings(**values: Any) -> list[str]:
    """``--set`` arguments; double underscores in names stand for dots."""
    return [word for key, value in values.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Look again and again; False if the time ran out."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


class ToyRun:
    """One start of a run, with every process that comes of it. They are told by a mark in their environment.

    Args:
        out: the run folder. What the run prints goes into ``<out>.log`` beside it, after what earlier starts printed.
        ranks: through the ``deepspeed`` launcher; None: one rank without a launcher.
        module: what the ranks run.
    """

    def __init__(
        self,
        config: Path,
        out: Path,
        arguments: Sequence[str] = (),
        *,
        ranks: int | None = 2,
        module: str = "engine.train",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.out, self.log = out, out.with_name(f"{out.name}.log")
        self._mark = secrets.token_hex(8)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", module]
        if ranks is not None:
            command = command_of(ranks, "--module", module)
        command += ["--config", str(config), "--out", str(out), *arguments]
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**environment(), **(env or {}), _MARK: self._mark},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        """All that this start has printed so far."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def num_lines(self) -> int:
        """Steps in the metrics, those of earlier starts included."""
        return sum(line["event"] == "train" for line in read_metrics(self.out / "metrics.jsonl"))

    def processes(self) -> dict[str, psutil.Process]:
        """Those that live, by what they are: ``runner``, ``launch.py``, ``rank 0``, ... and ``other PID``."""
        found = {}
        for process in psutil.process_iter():
            try:
                environ = process.environ()
                if environ.get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found[self._role(process, environ)] = process
            except psutil.Error:  # gone meanwhile, or somebody else's
                continue
        return found

    def _role(self, process: psutil.Process, environ: Mapping[str, str]) -> str:
        if process.pid == self.process.pid and "RANK" not in environ:
            return "runner"
        if _LAUNCH in process.cmdline():
            return "launch.py"
        parent = process.parent()
        is_rank = "RANK" in environ and (parent is None or parent.pid == 1 or _LAUNCH in parent.cmdline())
        return f"rank {environ['RANK']}" if is_rank else f"other {process.pid}"

    def wait_until(self, condition: Callable[["ToyRun"], bool], timeout_s: float = 300) -> None:
        """Look again and again while the run goes on.

        Raises:
            TimeoutError: it did not come to that.
        """
        if not wait_until(lambda: condition(self) or self.has_ended, timeout_s) or not condition(self):
            state = f"ended with code {self.process.returncode}" if self.has_ended else "goes on"
            raise TimeoutError(
                f"what was waited for did not come within {timeout_s:g} s; the run {state}: {self.tail()}"
            )

    def wait_for_step(self, step: int, timeout_s: float = 300) -> None:
        """Until the metrics hold step number ``step`` (from 0)."""
        self.wait_until(lambda run: run.num_lines > step, timeout_s)

    def send(self, role: str, number: signal.Signals) -> None:
        """A signal to one process of the run, or to ``group``: all that a terminal's Ctrl-C would reach."""
        if role == "group":
            for process in self.processes().values():
                if os.getpgid(process.pid) == self.process.pid:
                    process.send_signal(number)
        else:
            self.processes()[role].send_signal(number)

    def kill_everything(self) -> None:
        """SIGKILL to every process of the run at once."""
        for process in self.processes().values():
            process.kill()

    def wait(self, timeout_s: float = 300) -> int | None:
        """The exit code of the process that was started (negative: by that signal); None: it goes on."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def survivors(self, timeout_s: float) -> list[str]:
        """What still lives after up to ``timeout_s``."""
        wait_until(lambda: not self.processes(), timeout_s)
        return sorted(self.processes())

    def tail(self, num_chars: int = 600) -> str:
        return self.printed[-num_chars:].strip()

    def summary(self) -> dict[str, Any]:
        path = self.out / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def __enter__(self) -> "ToyRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_everything()
        self.process.wait()
