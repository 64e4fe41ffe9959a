"""The fault table: what is done to runs, what is expected to come of it, and what does.

    python -m benchmarks.faults

About twenty minutes on two cores. Needs root for the cases with full disks and several hosts. Writes
benchmarks/results/faults.json, docs/reliability.md and, with every case, benchmarks/faults/table.md; with --only it
just says what it finds, and --again repeats what went wrong the last time. With --addressable the cases that touch
shards and images run on addressable JPEGs, and some more; the raw result is benchmarks/results/faults_addressable.json.
"""

import argparse
import fnmatch
import json
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.faults import (
    addressable_cases,
    checkpoint_cases,
    data_cases,
    node_cases,
    process_cases,
    shard_cases,
)
from benchmarks.faults.case import Bench, Case, Checks, Outcome
from benchmarks.faults.one_rank import OneRankRuns
from benchmarks.faults.report import ADDRESSABLE_RESULT, RESULT, write_again, write_docs, write_result


def all_cases(addressable: bool) -> list[Case]:
    groups = [process_cases, checkpoint_cases, data_cases, shard_cases, node_cases]
    if addressable:
        groups = [data_cases, shard_cases, addressable_cases]
    return [case for group in groups for case in group.cases()]


def run_case(bench: Bench, case: Case) -> Outcome:
    """One case; an error in it is a case that went wrong."""
    checks, start = Checks(), time.monotonic()
    try:
        case.run(bench, checks)
    except Exception as error:
        traceback.print_exc()
        checks.add("the case itself", "runs", f"{type(error).__name__}: {error}", False)
    return Outcome(case, checks, time.monotonic() - start)


def say(number: int, total: int, outcome: Outcome) -> None:
    """A line of progress, and what is not as expected."""
    verdict = "ok " if outcome.checks.ok else "NOT" if outcome.checks.found else "..."  # known once it is resumed
    print(
        f"{number:3}/{total} {verdict} {outcome.seconds:5.1f} s  {outcome.case.group}: {outcome.case.name}", flush=True
    )
    say_failures(outcome)


def say_failures(outcome: Outcome) -> None:
    for check in outcome.checks.found:
        if not check.ok:
            print(f"        {check.what}: expected {check.expected}; observed {check.observed}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--list", action="store_true", help="say what there is, and do nothing")
    parser.add_argument("--only", metavar="PATTERN", help="cases whose 'group: name' matches, such as '*SIGTERM*'")
    parser.add_argument(
        "--again",
        action="store_true",
        help="only the cases that were not as expected in the last raw result, which is brought up to date and says so",
    )
    parser.add_argument("--addressable", action="store_true", help="cases of shards and images, on addressable JPEGs")
    parser.add_argument("--write-docs", action="store_true", help="write the two pages from the last raw results")
    arguments = parser.parse_args()
    if arguments.write_docs:
        write_docs()
        return 0
    path = ADDRESSABLE_RESULT if arguments.addressable else RESULT
    pattern = arguments.only or "*"
    cases = [
        case for case in all_cases(arguments.addressable) if fnmatch.fnmatch(f"{case.group}: {case.name}", pattern)
    ]
    if arguments.again:
        wrong_then = {(case["group"], case["name"]) for case in json.loads(path.read_text())["cases"] if not case["ok"]}
        cases = [case for case in cases if (case.group, case.name) in wrong_then]
    if arguments.list:
        print("\n".join(f"{case.group}: {case.name}" for case in cases), f"\n{len(cases)} cases")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clean up on the way
    outcomes = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, OneRankRuns() as one_rank:
        bench = Bench(Path(folder), one_rank, arguments.addressable)
        for number, case in enumerate(cases, 1):
            outcomes.append(run_case(bench, case))
            say(number, len(cases), outcomes[-1])
        print(f"{len(bench.resumes)} runs are taken up again", flush=True)
        bench.run_resumes()
    wrong = [outcome for outcome in outcomes if not outcome.checks.ok]
    minutes = (time.monotonic() - start) / 60
    print(f"{len(outcomes) - len(wrong)} of {len(outcomes)} cases as expected, in {minutes:.1f} minutes")
    for outcome in wrong:
        print(f"NOT as expected: {outcome.case.group}: {outcome.case.name}")
        say_failures(outcome)
    if arguments.again:
        write_again(outcomes, path)
        write_docs()
    elif arguments.only is None:
        write_result(outcomes, minutes, path)
        write_docs()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
