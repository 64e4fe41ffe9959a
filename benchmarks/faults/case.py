"""What a fault case is made of: what is done, what is expected, and what is found."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.one_rank import OneRankRuns
from benchmarks.shared.shell import ROOT, environment, free_port
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from benchmarks.toy_runs import ToyRun, settings
from engine.checkpoints.manifest import newest_valid, read_manifest
from engine.metrics import read_metrics
from pipeline.shards.index import build_index

CHECKPOINT_EVERY, EVAL_EVERY = 10, 15
_MORE_STEPS = 5  # after the last checkpoint of all runs that are taken up again
WHOLE = "in-peace"
GONE_WITHIN_S = 90.0
RESUME_WITHIN_S = 300.0
_RESUMES = ROOT / "benchmarks" / "faults" / "resumes.py"
_SHOWN = 300


@dataclass
class Check:
    """One thing that was expected, and what was found instead of or as it."""

    what: str
    expected: str
    observed: str
    ok: bool


@dataclass
class Checks:
    """All that one case found out."""

    found: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.found) and all(check.ok for check in self.found)

    def add(self, what: str, expected: Any, observed: Any, ok: bool) -> None:
        self.found.append(Check(what, str(expected), str(observed)[:_SHOWN], ok))

    def equal(self, what: str, expected: Any, observed: Any) -> None:
        self.add(what, expected, observed, expected == observed)

    def says(self, printed: str, *parts: str, what: str = "message") -> None:
        """Each part stands in what was printed; a line that holds the first of them is shown."""
        for part in parts:
            lines = [line for line in printed.splitlines() if part in line]
            shown = lines[0].strip() if lines else f"not said; the end was: {printed.strip()[-_SHOWN:]}"
            self.add(what, f"says {part!r}", shown, bool(lines))

    def one_line(self, printed: str, *parts: str) -> None:
        """Exactly one line begins with ``error:``, it holds each part, and there is no traceback."""
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        shown = " | ".join(lines) or f"no error line; the end was: {printed.strip()[-_SHOWN:]}"
        self.add("error lines", 1, f"{len(lines)}: {shown}", len(lines) == 1)
        for part in parts:
            self.add("error line", f"names {part!r}", shown, any(part in line for line in lines))
        self.equal("tracebacks", 0, printed.count("Traceback (most recent call last)"))

    def code(self, expected: int, observed: int | None) -> None:
        """The exit code as a shell reports it."""
        shown = observed if observed is None or observed >= 0 else 128 - observed
        self.equal("exit code", expected, "none: it never ended" if shown is None else shown)


@dataclass(frozen=True)
class Resume:
    """A run to be taken up again: in a launch together with others, one after another."""

    checks: Checks
    out: Path
    arguments: list[str]
    exact: bool
    says: tuple[str, ...]


@dataclass
class Bench:
    """Where cases work: a data set, a configuration, a folder for each case, and runs to be resumed in the end.

    Attributes:
        addressable: photographs are addressable JPEGs, with files of units beside their shards.
    """

    folder: Path
    one_rank: OneRankRuns
    addressable: bool = False
    resumes: list[Resume] = field(default_factory=list)

    @property
    def shards(self) -> Path:
        if not (self.folder / "shards").exists():
            write_toy_shards(self.folder / "shards")
        return self.folder / "shards"

    @property
    def config(self) -> Path:
        path = self.folder / "toy.yaml"
        return path if path.exists() else write_toy_config(path, self.shards)

    def other_shards(self) -> Path:
        """The data set without its last training shard."""
        folder = self.folder / "other-shards"
        if not folder.exists():
            shutil.copytree(self.shards, folder)
            *tars, last = sorted(folder.glob("train-*.tar"))
            last.unlink()
            build_index(folder, "train", tars)
        return folder

    def arguments(self, **more: Any) -> list[str]:
        """The command line of every run, but for ``more``: one that does not end before a fault does it."""
        return settings(
            train__duration="20000steps",
            schedule__kind="cyclic",
            checkpoint__every=f"{CHECKPOINT_EVERY}steps",
            eval__every=f"{EVAL_EVERY}steps",
            engine__zero_stage=1,
            data__augment__flip_probability=0.5,
            **more,
        )

    def out(self, name: str) -> Path:
        """A run folder that is not there yet."""
        path = self.folder / "".join(letter if letter.isalnum() else "-" for letter in name)
        if path.exists():
            shutil.rmtree(path)
        path.with_name(f"{path.name}.log").unlink(missing_ok=True)
        return path

    def start(self, out: Path, *more: str, fault: dict[str, Any] | None = None, **options: Any) -> ToyRun:
        """A run on two ranks; with ``fault``, something happens to one of them by itself (see ``victim``)."""
        if fault is not None:
            options |= {"module": "benchmarks.faults.victim", "env": {"FAULT": json.dumps(fault)}}
        return ToyRun(self.config, out, [*self.arguments(), *more], **options)

    def resume(self, checks: Checks, out: Path, *more: str, exact: bool = True, says: tuple[str, ...] = ()) -> None:
        """Have the run taken up later; it must end well, and with the weights of the run in peace if ``exact``."""
        self.resumes.append(Resume(checks, out, [*self.arguments(), *more], exact, says))

    def run_resumes(self) -> None:
        """Take up all runs that are to be, after one that was left in peace; launch again if one ends them all."""
        if not self.resumes:
            return
        whole = self.out(WHOLE)
        until = max(last_step(resume.out) for resume in self.resumes) + _MORE_STEPS
        waiting = [Resume(Checks(), whole, self.arguments(), False, ()), *self.resumes]
        self.resumes = []
        while waiting:
            done = self._launch(waiting, until)
            for resume, (code, printed) in zip(waiting, done, strict=False):
                check_resumed(resume, whole, until, code, printed)
            if not done:
                check_resumed(waiting[0], whole, until, None, "the launch ended before it began")
            waiting = waiting[max(1, len(done)) :]

    def _launch(self, resumes: list[Resume], until: int) -> list[tuple[int | None, str]]:
        """Exit code and output of each run, as far as they got; that of one which ended the launch is the launch's."""
        jobs, codes = self.folder / "jobs.json", self.folder / "codes.txt"
        codes.unlink(missing_ok=True)
        common = ["--config", str(self.config), "--max-steps", str(until)]
        jobs.write_text(json.dumps([[*common, "--out", str(resume.out), *resume.arguments] for resume in resumes]))
        command = ["deepspeed", "--quiet", "--no_local_rank", "--num_accelerators", "2"]
        command += ["--master_port", str(free_port()), str(_RESUMES), str(jobs), str(codes)]
        done = run_command(command, RESUME_WITHIN_S + 20 * len(resumes))
        printed = done.stdout.split("@@ next run\n")[1:]
        told: list[int | None] = [int(line) for line in codes.read_text().split()] if codes.exists() else []
        if len(told) < len(printed):
            told.append(done.returncode)
        return list(zip(told, printed, strict=False))


def last_step(out: Path) -> int:
    """The step that the newest valid checkpoint is from, 0 if there is none."""
    newest, _ = newest_valid(out / "checkpoints")
    return int(read_manifest(newest)["step"]) if newest is not None else 0


def check_resumed(resume: Resume, whole: Path, until: int, code: int | None, printed: str) -> None:
    """Hold a resumed run against the one that was left in peace."""
    checks = resume.checks
    checks.equal("exit code after resuming", 0, code)
    checks.says(printed, *resume.says, what="message at resuming")
    if code != 0:
        checks.says(printed, "run folder:", what="end of the resumed run")
        return
    steps = [line["step"] for line in read_metrics(resume.out / "metrics.jsonl") if line["event"] == "train"]
    checks.add("steps in the metrics", "each once", len(steps), steps == list(range(until)))
    if resume.exact:
        digests = [json.loads((out / "summary.json").read_text())["weights_digest"][:16] for out in (whole, resume.out)]
        checks.add("weights after resuming", f"as left in peace, {digests[0]}", digests[1], digests[0] == digests[1])


def run_command(command: list[str], timeout_s: float, **env: str) -> subprocess.CompletedProcess[str]:
    """A command from the project's root, its outputs together; code 124 if it had to be ended."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment(), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        return subprocess.CompletedProcess(command, 124, printed)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(command, process.returncode, printed)


def tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command-line tool of the project."""
    return run_command([sys.executable, "-m", *map(str, words)], 120)


def check_end(checks: Checks, run: ToyRun, code: int, *says: str) -> None:
    """How a run ended: its code, what it said, and that nothing of it lives on."""
    checks.code(code, run.wait())
    survivors = run.survivors(GONE_WITHIN_S)
    checks.add("processes left", "none", ", ".join(survivors) or "none", not survivors)
    checks.says(run.printed, *says)


def check_checkpoint(checks: Checks, out: Path, step: int | None = None) -> None:
    """The newest checkpoint whose manifest holds is that of ``step`` (None: of the last step in the metrics)."""
    if step is None:
        step = sum(line["event"] == "train" for line in read_metrics(out / "metrics.jsonl"))
    checks.equal("newest valid checkpoint at step", step, last_step(out))


@dataclass(frozen=True)
class Case:
    """One fault.

    Attributes:
        injection: how it is brought about.
        expected: in words, for the table.
        run: does it, and looks at what comes of it.
    """

    group: str
    name: str
    injection: str
    expected: str
    run: Callable[[Bench, Checks], None]


@dataclass
class Outcome:
    """What came of a case."""

    case: Case
    checks: Checks
    seconds: float

    def as_json(self) -> dict[str, Any]:
        case = self.case
        return {
            "group": case.group,
            "name": case.name,
            "injection": case.injection,
            "expected": case.expected,
            "ok": self.checks.ok,
            "seconds": round(self.seconds, 1),
            "checks": [asdict(check) for check in self.checks.found],
        }
