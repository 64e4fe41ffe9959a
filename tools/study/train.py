"""Trains the runs of a study, one at a time, each in a process of its own."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from engine.command_line import STOPPED_EXIT_CODE
from pipeline.files import write_atomically
from tools.study.records import read_records, record_of, steps_in_the_time_of
from tools.study.spec import Job, StudySpec, jobs_of_machine

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

    def train(self, job: Job, config: Path, folder: Path, extra: Sequence[str]) -> int:
        """Train until it is finished, fails or is stopped. Returns its exit code."""
        command = [*self._launch, "engine.train", "--config", str(config)]
        for override in (*job.overrides, *extra):
            command += ["--set", override]
        # What it prints is for people; standard output is the table's.
        with subprocess.Popen([*command, "--out", str(folder)], stdout=_STDERR) as self._run:
            if self.stopped:
                self._run.send_signal(signal.SIGTERM)
            code = self._run.wait()
        self._run = None
        return code


def train_part(spec: StudySpec, jobs: list[Job], options: argparse.Namespace) -> int:
    """Train those runs of this machine's part that have no record yet. Returns the exit code.

    Raises:
        ValueError: a record of another configuration.
    """
    trainer = Trainer(options.launch)
    failed: list[str] = []
    durations_s: list[float] = []
    part = jobs_of_machine(jobs, options.machine)
    for number, job in enumerate(part, start=1):
        records = read_records(options.out / "records", jobs)
        if (job.name, job.seed) in records:
            continue
        extra = []
        if job.in_the_time_of is not None:
            try:
                steps = steps_in_the_time_of(spec, records, job)
            except ValueError as error:
                failed.append(f"{job.stem} ({error})")
                continue
            if steps is None:
                _say(f"{job.stem} waits for the runs it is to be compared with; start again once they are finished")
                continue
            extra = [f"train.duration={steps}steps"]
        left = len([one for one in part[number - 1 :] if (one.name, one.seed) not in records])
        estimate = f", about {left * sum(durations_s) / len(durations_s) / 60:.0f} minutes left" if durations_s else ""
        _say(f"[{number}/{len(part)}] {job.stem}{estimate}")
        folder, start = options.runs / job.stem, time.monotonic()
        code = trainer.train(job, spec.base, folder, extra)
        # A scheduler's preemption may reach the run and spare the study.
        if trainer.stopped or code == STOPPED_EXIT_CODE:
            _say("stopped; the same command goes on (exit code 75)")
            return STOPPED_EXIT_CODE
        if code:
            failed.append(f"{job.stem} (exit code {code}, {folder})")
            continue
        durations_s.append(time.monotonic() - start)
        write_atomically(
            options.out / "records" / f"{job.stem}.json", json.dumps(record_of(job, folder)) + "\n", sync=True
        )
    if failed:
        print(f"error: {len(failed)} run(s) failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
