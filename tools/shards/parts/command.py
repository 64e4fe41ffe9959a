"""The command ``merge``: joins what parts of another command have left in a folder.

Raises ValueError or OSError where they cannot be joined.
"""

import argparse
import json
from pathlib import Path

from pipeline.files import user_path
from tools.shards.commands import named_samples, without_excluded
from tools.shards.conversion.command import code_of_rejected, print_conversion
from tools.shards.journal import part_journals
from tools.shards.parts.verification import found_files, merge_found
from tools.shards.progress import progress_bar


def add_merge_arguments(one: argparse.ArgumentParser) -> None:
    """The options of ``merge``."""
    one.add_argument(
        "folder", type=user_path, metavar="DIR", help="the --out of the parts, or the folder they verified"
    )
    one.add_argument(
        "--max-rejected", type=int, default=0, help="of convert: unreadable images to put up with (default: 0)"
    )
    one.add_argument(
        "--exclude",
        action="store_true",
        help="of verify: list the faulty samples beside the index (train.exclude), so that the loader leaves them out",
    )
    one.add_argument(
        "--bad-samples",
        type=user_path,
        action="append",
        default=[],
        metavar="FILE",
        help="of verify: list these as well: bad_samples.jsonl from a run's folder; may be repeated",
    )
    one.add_argument("--json", action="store_true", help="print for programs what the command prints in one piece")


def run_merge(options: argparse.Namespace) -> int:
    """Returns 1 where the parts have found faults, or rejected more images than was allowed."""
    folder: Path = options.folder
    if found_files(folder) and not part_journals(folder):
        return _merge_verification(options)
    if options.exclude or options.bad_samples:
        raise ValueError(f"{folder}: holds no parts of a verification, which --exclude and --bad-samples are for")
    from tools.shards.parts.merge import merge

    with progress_bar() as progress:
        dataset, was_merged = merge(folder, on_total=progress.on_total, on_phase=progress.on_phase)
    print_conversion(dataset, was_merged, folder, options.json)
    return code_of_rejected(dataset, options.max_rejected)


def _merge_verification(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    bad_samples = named_samples(options)
    report, lines = without_excluded(folder, merge_found(folder), options.exclude, bad_samples)
    for path in found_files(folder):
        path.unlink()
    print(json.dumps(report.as_json(), indent=2) if options.json else "\n".join(lines))
    return 1 if report.faults else 0
