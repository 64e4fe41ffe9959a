"""Trains the runs of a study, one after another: those of one machine's part, or whatever nobody else trains."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.command_line import STOPPED_EXIT_CODE
from pipeline.files import write_atomically
from tools.study.claims import Claim, claim_run, claimed_by
from tools.study.records import Records, read_records, record_of, steps_in_the_time_of
from tools.study.spec import ANY, Job, StudySpec, jobs_of_machine
from tools.study.trainer import Trainer

_LOOKS_AGAIN_AFTER_S = 10  # at runs that others train


class Turn(NamedTuple):
    """A run to train now.

    Attributes:
        extra: overrides that follow from other runs' records.
        place, left: for people: where it stands in the part, and how many of the part have no record yet.
        claim: None where nobody else has this part.
    """

    job: Job
    extra: tuple[str, ...]
    place: str
    left: int
    claim: Claim | None


def train_part(spec: StudySpec, jobs: list[Job], options: argparse.Namespace) -> int:
    """Train the runs that have no record yet: of this machine's part, or with ``ANY`` all that nobody else trains.

    With ``ANY`` it ends once every run has a record or has failed here, so that nothing is lost of whoever crashes.

    Returns:
        The exit code.

    Raises:
        ValueError: a record of another configuration.
    """
    trainer, failed, durations_s = Trainer(options.launch), dict[str, str](), list[float]()
    for job, extra, place, left, claim in _turns(spec, jobs, options, trainer, failed):
        minutes = left * sum(durations_s) / len(durations_s) / 60 if durations_s and claim is None else None
        _say(f"{place} {job.stem}" + ("" if minutes is None else f", about {minutes:.0f} minutes left"))
        folder, start = options.runs / job.stem, time.monotonic()
        try:
            code = trainer.train(job, spec.base, folder, extra, claim)
            if code == 0:
                record = json.dumps(record_of(job, folder)) + "\n"
                write_atomically(_record_path(options, job), record, sync=True)
        finally:
            if claim is not None:
                claim.release()
        if code == 0:
            durations_s.append(time.monotonic() - start)
        elif claim is not None and claim.is_lost and not trainer.stopped:
            _say(f"{job.stem}: its claim was taken over or deleted, so it was stopped here")
        elif trainer.stopped or code == STOPPED_EXIT_CODE:  # a scheduler's preemption may spare the study
            return _say_stopped()
        else:
            failed[job.stem] = f"exit code {code}, {folder}"
    if trainer.stopped:
        return _say_stopped()
    if failed:
        told = ", ".join(f"{stem} ({why})" for stem, why in failed.items())
        print(f"error: {len(failed)} run(s) failed: {told}", file=sys.stderr)
    return 1 if failed else 0


def _turns(
    spec: StudySpec, jobs: list[Job], options: argparse.Namespace, trainer: Trainer, failed: dict[str, str]
) -> Iterator[Turn]:
    """The runs to train, each as its turn comes, until none is left or the study is stopped. Fills in ``failed``."""
    part, told = jobs_of_machine(jobs, options.machine), ""
    while not trainer.stopped:
        records = read_records(options.out / "records", jobs)
        left = [job for job in part if (job.name, job.seed) not in records and job.stem not in failed]
        ready = [(job, extra) for job in left if (extra := _extra(spec, records, job, failed)) is not None]
        if not ready:
            for job in left:
                if job.stem not in failed:
                    _say(f"{job.stem} waits for the runs it is to be compared with; start again once they are finished")
            return
        for job, extra in ready:
            claim = _claim(options, job) if options.machine == ANY else None
            if claim is not None or options.machine != ANY:
                yield Turn(job, extra, f"[{part.index(job) + 1}/{len(part)}]", len(left), claim)
                break
        else:
            others = _others(options, [job for job, _ in ready])
            if others != told:
                _say(f"waits for what others train: {others}")
            told = others
            trainer.rest(_LOOKS_AGAIN_AFTER_S)


def _extra(spec: StudySpec, records: Records, job: Job, failed: dict[str, str]) -> tuple[str, ...] | None:
    """None of a run in another's time while one of the two is not finished, or where their times do not compare."""
    if job.in_the_time_of is None:
        return ()
    try:
        steps = steps_in_the_time_of(spec, records, job)
    except ValueError as error:
        failed[job.stem] = str(error)
        return None
    return None if steps is None else (f"train.duration={steps}steps",)


def _claim(options: argparse.Namespace, job: Job) -> Claim | None:
    claim = claim_run(options.out / "claims", job.stem)
    if claim is not None and _record_path(options, job).exists():  # whoever had it finished it since the last look
        claim.release()
        return None
    return claim


def _others(options: argparse.Namespace, jobs: Sequence[Job]) -> str:
    owners = {job.stem: claimed_by(options.out / "claims", job.stem) for job in jobs}
    return "; ".join(f"{stem} ({owner})" for stem, owner in owners.items() if owner)


def _record_path(options: argparse.Namespace, job: Job) -> Path:
    folder: Path = options.out / "records"
    return folder / f"{job.stem}.json"


def _say_stopped() -> int:
    _say("stopped; the same command goes on (exit code 75)")
    return STOPPED_EXIT_CODE


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
