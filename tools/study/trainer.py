"""Starts the runs of a study, each in a process of its own, and stops them."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tools.study.claims import RENEWED_EVERY_S, Claim
from tools.study.spec import Job

_STDERR = 2


class Trainer:
    """Starts one run at a time. A signal to stop goes to the run, which saves and ends; none is started after it."""

    def __init__(self, launch: Sequence[str] | None) -> None:
        self._launch = [*launch, "--module"] if launch else [sys.executable, "-m"]
        self._run: subprocess.Popen[bytes] | None = None
        self.stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        self.stopped = True
        # A terminal sends its Ctrl-C to the run as well; twice would mean to end without a checkpoint.
        if self._run is not None and number == signal.SIGTERM:
            self._run.send_signal(number)

    def train(self, job: Job, config: Path, folder: Path, extra: Sequence[str], claim: Claim | None = None) -> int:
        """Train until it is finished, fails or is stopped, as it is where its claim is lost. Returns its exit code."""
        command = [*self._launch, "engine.train", "--config", str(config)]
        for override in (*job.overrides, *extra):
            command += ["--set", override]
        # What it prints is for people; standard output is the table's.
        with subprocess.Popen([*command, "--out", str(folder)], stdout=_STDERR) as self._run:
            if self.stopped:
                self._run.send_signal(signal.SIGTERM)
            code = self._run.wait() if claim is None else _wait(self._run, claim)
        self._run = None
        return code

    def rest(self, seconds: int) -> None:
        """Wait so long, or until a signal to stop comes."""
        for _ in range(seconds):
            if not self.stopped:
                time.sleep(1)


def _wait(run: subprocess.Popen[bytes], claim: Claim) -> int:
    claim.name_run(run.pid)
    while True:
        try:
            return run.wait(timeout=RENEWED_EVERY_S)
        except subprocess.TimeoutExpired:
            if not claim.is_lost and not claim.renew():
                run.send_signal(signal.SIGTERM)
