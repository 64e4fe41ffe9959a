"""Train a matrix of runs, schedules by rules by seeds by baselines, and compare them.

    python -m tools.study configs/studies/fashion_mnist.yaml

Runs are trained one after another by ``python -m engine.train``, or as ``--launch`` says, for example
``--launch "deepspeed --quiet --no_local_rank --num_accelerators 2"``. A study that was interrupted goes on: finished
runs are kept, and a run that had begun goes on from its checkpoint. ``--machine I/N`` trains the I-th of N parts (from
0), so that several machines with one file system, or several processes on one machine, share a study. Once a run is
finished, its record in OUT/records is all that is needed of it; study.json and study.csv are made from the records.

Exit codes: 0 done (``--show`` or this machine's part included); 1 a run failed (stderr names it; the others were
trained); 2 an input that cannot be used; 75 the study or its run was stopped by SIGTERM or SIGINT, and the same command
goes on.
"""

import argparse
import csv
import io
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from engine.command_line import STOPPED_EXIT_CODE, Parser
from pipeline.files import write_atomically
from tools.command import show
from tools.study.result import read_records, record_of, result, steps_in_the_time_of, table
from tools.study.spec import Job, StudySpec, jobs_of, jobs_of_machine, load_study

_STDERR = 2


def _machine(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(
            f"this machine's part is I/N with I from 0 to N - 1, such as 0/2; got {text!r}"
        )
    return int(index), int(count)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: an argument that is missing, unknown or of the wrong form.
    """
    parser = Parser(prog="python -m tools.study", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=Path, help="the study's YAML file")
    parser.add_argument("--out", type=Path, help="folder of the results (default: runs/NAME)")
    parser.add_argument("--runs", type=Path, help="folder of the run folders (default: OUT/runs)")
    parser.add_argument("--launch", type=shlex.split, metavar="COMMAND", help="starts a run (default: one rank)")
    parser.add_argument("--machine", type=_machine, default=(0, 1), metavar="I/N", help="train only this part")
    parser.add_argument("--show", action="store_true", help="train nothing; show what is finished")
    parser.add_argument("--json", action="store_true", help="print the result for programs")
    return parser.parse_args(argv)


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


def write_results(found: dict[str, Any], out: Path) -> None:
    """``study.json`` and ``study.csv``."""
    write_atomically(out / "study.json", json.dumps(found, indent=1) + "\n", sync=True)
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["name", "seed", "keep_rate", "top1", "steps", "mean_keep_rate", "train_wall_s", "train_cpu_s"])
    for row in [*found["variants"], *found["equal_time"]]:
        for run in row["runs"]:
            for rate, top1 in run["top1"].items():
                figures = (run["steps"], run["mean_keep_rate"], run["train_wall_s"], run["train_cpu_s"])
                writer.writerow([row["name"], run["seed"], rate, top1, *figures])
    write_atomically(out / "study.csv", sink.getvalue(), sync=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Train this machine's part of the study, and show all that is finished."""
    try:
        options = parse_arguments(argv)
        spec = load_study(options.study)
        options.out = options.out or Path("runs") / spec.name
        options.runs = options.runs or options.out / "runs"
        jobs = jobs_of(spec)
        (options.out / "records").mkdir(parents=True, exist_ok=True)
        code = 0 if options.show else train_part(spec, jobs, options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if code == STOPPED_EXIT_CODE:
        return code

    def finished() -> str:
        found = result(spec, jobs, read_records(options.out / "records", jobs))
        write_results(found, options.out)
        return (
            json.dumps(found, indent=1) if options.json else f"{table(found)}\n\n{options.out}: study.json, study.csv"
        )

    return show(finished) or code


if __name__ == "__main__":
    sys.exit(main())
