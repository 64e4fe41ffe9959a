"""The command ``append``. Raises ValueError or OSError where it cannot be carried out."""

import argparse
import json
import sys
from dataclasses import asdict

from pipeline.addresses import Address
from tools.shards.progress import progress_bar
from tools.shards.stores.arguments import place_argument

_TRAINING = ("train", "all")  # what ``open_index`` opens for training, the first that is there


def add_append_arguments(one: argparse.ArgumentParser) -> None:
    """The options of ``append``."""
    one.add_argument("folder", type=place_argument, metavar="DIR", help="folder of the set, on a disk")
    one.add_argument(
        "new",
        type=place_argument,
        nargs="+",
        metavar="NEW",
        help="folder of shards that were made as the set's were, or a tar of the same form; it stays as it is",
    )
    one.add_argument(
        "--split",
        help="append to this split of the set, and nothing else of NEW (default: each of NEW's splits to that of its "
        "name)",
    )
    one.add_argument("--json", action="store_true", help="print what changed for programs")


def run_append(options: argparse.Namespace) -> int:
    """Appends shards to a set, and tells what changed and what is missing."""
    if isinstance(options.folder, Address):
        raise ValueError(
            f"{options.folder}: shards are appended to a set on a disk; copy the set to one, append there, and put the "
            "new shards, then the other files into the store, the indexes and dataset.json last"
        )
    from tools.shards.appending.append import append

    with progress_bar() as progress:
        appended, lines = append(
            options.folder, options.new, options.split, on_total=progress.on_total, on_images=progress.on_images
        )
    if options.json:
        print(json.dumps({"splits": {one.split: asdict(one) for one in appended}, "told": lines}, indent=2))
        return 0
    for one in appended:
        shards = f"{one.names[0]} to {one.names[-1]}" if one.names[1:] else one.names[0]
        print(
            f"{one.split}: {one.before['num_samples']:,} samples in {one.before['num_shards']} shards before, "
            f"{one.after['num_samples']:,} in {one.after['num_shards']} now, with {shards}\n"
            f"  fingerprint {one.before['fingerprint']} before\n"
            f"              {one.after['fingerprint']} now"
        )
    for line in lines:
        print(line)
    if any(one.split in _TRAINING for one in appended):
        told = "a run goes on over the larger set from its next epoch on with --allow-change data.train.fingerprint"
        print(told, file=sys.stderr)
    return 0
