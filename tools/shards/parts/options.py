"""The options by which a command is done in parts, or over a cluster."""

import argparse

from tools.shards.parts.part import Part

_TO_MERGE = "it is of all parts together: give it to merge"
_WHY_NOT = {
    "max_rejected": _TO_MERGE,
    "exclude": _TO_MERGE,
    "bad_samples": _TO_MERGE,
    "levels": "they are made of all shards together: when the parts are merged, use resize-levels",
}


def add_part_arguments(one: argparse.ArgumentParser, joined: str) -> None:
    """``--part`` and ``--ray``. joined: what becomes of the parts, for help."""
    ways = one.add_mutually_exclusive_group()
    ways.add_argument(
        "--part",
        type=_part,
        metavar="K/N",
        help="do only the K-th of N shares of the shards, K from 1; parts run in any order, at the same time, on any "
        f"hosts that share the folder; {joined}",
    )
    ways.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="do the work on the hosts of a Ray cluster, which see the same files by the same paths: auto or HOST:PORT "
        "(needs pip install '.[ray]'); --workers then says nothing",
    )


def _part(text: str) -> Part:
    try:
        return Part.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_parts(options: argparse.Namespace, *of_all: str) -> None:
    """Raise ValueError where options that are of all parts together are given to one of them."""
    if options.part is None:
        return
    for name in of_all:
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} with --part: {_WHY_NOT[name]}")


def check_workers(options: argparse.Namespace) -> None:
    if options.workers < 1:
        raise ValueError(f"workers {options.workers}; allowed is 1 or more")
