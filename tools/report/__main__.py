"""One HTML page about a run or a study, which needs nothing beside it: no other file, no network.

    python -m tools.report runs/fashion_mnist --out report.html --png-dir pictures

A run folder gives a page about that run, a study's folder (it holds study.json) one about the study. What is not there
to be shown is named at the end of the page.

Exit codes: 0 done, 2 an input that cannot be used (one line on stderr says which).
"""

import argparse
from collections.abc import Sequence

from engine.command_line import Parser, leave
from pipeline.files import user_path
from tools.command import answer


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.report", __doc__)
    parser.add_argument("folder", type=user_path, metavar="DIR", help="a run folder, or a study's")
    parser.add_argument("--out", type=user_path, metavar="FILE", help="the page (default: DIR/report.html)")
    parser.add_argument("--png-dir", type=user_path, metavar="DIR", help="write the pictures as PNG files, too")
    parser.add_argument("--runs", type=user_path, metavar="DIR", help="a study's run folders (default: DIR/runs)")
    parser.add_argument("--sweep", type=user_path, metavar="FILE", help="a sweep.jsonl (default: DIR/sweep's, if any)")
    parser.add_argument("--profile", type=user_path, metavar="FILE", help="of a run: what tools.profile --json wrote")
    options = parser.parse_args(arguments)
    options.out = options.out or options.folder / "report.html"
    is_study = (options.folder / "study.json").is_file()
    if not is_study and not (options.folder / "config.yaml").is_file():
        raise ValueError(
            f"{options.folder} is neither a run folder, which holds config.yaml, nor a study's, which holds study.json"
        )
    if is_study and options.profile:
        raise ValueError("--profile belongs to a run's report; the folder given is a study's")
    if options.runs and not is_study:
        raise ValueError("--runs belongs to a study's report; the folder given is a run's")
    if options.out.suffix.lower() != ".html":
        raise ValueError(f"--out: this writes an .html file, got {options.out}")
    if not options.out.absolute().parent.is_dir():
        raise ValueError(f"--out: the folder {options.out.parent} does not exist, so {options.out.name} is not written")
    return options


def _report(options: argparse.Namespace) -> str:
    if (options.folder / "study.json").is_file():
        from tools.report.study_files import read_study

        study = read_study(options.folder, options.runs, options.sweep)
        from tools.report.study import report_study  # here, because it takes seconds

        report = report_study(study)
    else:
        from tools.report.files import read_run

        run = read_run(options.folder, options.sweep, options.profile)
        from tools.report.run import report_run  # here, because it takes seconds

        report = report_run(run)
    from tools.report.write import write_report

    return write_report(report, options.out, options.png_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, print its findings and what it does not show."""
    return answer(lambda: _parse(arguments), _report)


if __name__ == "__main__":
    leave(main())
