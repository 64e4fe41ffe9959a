"""Train a matrix of runs, schedules by rules by seeds by baselines, and compare them.

    python -m tools.study configs/studies/fashion_mnist.yaml

Runs are trained one after another by ``python -m engine.train``, or as ``--launch`` says, for example
``--launch "deepspeed --quiet --no_local_rank --num_accelerators 2"``. A study that was interrupted goes on: finished
runs are kept, and a run that had begun goes on from its checkpoint. Several machines with one file system, or several
processes on one machine, share a study: each with ``--machine any`` trains what nobody else does, claimed by a file in
OUT/claims, until all runs have a record; ``--machine I/N`` trains the I-th of N parts (from 0). Once a run is finished,
its record in OUT/records is all that is needed of it; study.json and study.csv are made from the records.

Exit codes: 0 done (``--show`` or this machine's part included); 1 a run failed (stderr names it; the others were
trained); 2 an input that cannot be used; 75 the study or its run was stopped by SIGTERM or SIGINT, and the same command
goes on; 130 interrupted by Ctrl-C before or after that.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from engine.command_line import STOPPED_EXIT_CODE, Parser, importing, interruptible, leave, stdout_apart
from pipeline.files import user_path
from tools.command import show, told

with importing():
    from tools.study.records import read_records
    from tools.study.result import result
    from tools.study.spec import ANY, jobs_of, load_study
    from tools.study.tables import table, write_results
    from tools.study.train import train_part


def _machine(text: str) -> tuple[int, int] | Literal["any"]:
    if text == ANY:
        return ANY
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(
            f"this machine's part is I/N with I from 0 to N - 1, such as 0/2, or {ANY}; got {text!r}"
        )
    return int(index), int(count)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: an argument that is missing, unknown or of the wrong form.
    """
    parser = Parser.of("tools.study", __doc__)
    parser.add_argument("study", type=user_path, help="the study's YAML file")
    parser.add_argument("--out", type=user_path, help="folder of the results (default: runs/NAME)")
    parser.add_argument("--runs", type=user_path, help="folder of the run folders (default: OUT/runs)")
    parser.add_argument("--launch", type=shlex.split, metavar="COMMAND", help="starts a run (default: one rank)")
    parser.add_argument(
        "--machine",
        type=_machine,
        default=(0, 1),
        metavar="I/N|any",
        help=f"train only this part, or {ANY}: what no other process with {ANY} trains (default: 0/1, which is all)",
    )
    parser.add_argument("--show", action="store_true", help="train nothing, write nothing; show what is finished")
    parser.add_argument("--json", action="store_true", help="print the result for programs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train this machine's part of the study, and show all that is finished."""
    code = 0
    try:
        with interruptible():
            options = parse_arguments(argv)
        with interruptible("the same command goes on"), stdout_apart():
            spec = load_study(options.study)
            options.out = options.out or Path("runs") / spec.name
            options.runs = options.runs or options.out / "runs"
            jobs = jobs_of(spec)
            if not options.show:
                for name in ("records", "claims") if options.machine == ANY else ("records",):
                    (options.out / name).mkdir(parents=True, exist_ok=True)
                code = train_part(spec, jobs, options)
    except (ValueError, OSError) as error:
        return told(error)
    if code == STOPPED_EXIT_CODE:
        return code

    def finished() -> str:
        found = result(spec, jobs, read_records(options.out / "records", jobs))
        if not options.show:
            write_results(found, options.out)
        if options.json:
            return json.dumps(found.as_json(), indent=1)
        return table(found) if options.show else f"{table(found)}\n\n{options.out}: study.json, study.csv"

    return show(finished) or code


if __name__ == "__main__":
    leave(main())
