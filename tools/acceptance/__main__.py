"""One stage of what tools/gpu_acceptance.sh does, or the page about all of them.

    python -m tools.acceptance smoke --size quick --photographs build/photographs --out build/smoke.json

Exit codes: 0 all holds; 1 something does not (the file names it under "problems"); 2 an input that cannot be used; 3
what makes the stages behind it worthless.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.command_line import Parser, interruptible, leave
from pipeline.files import user_path
from tools.command import told

with interruptible():
    from tools.acceptance.page import write_page
    from tools.acceptance.runs import ALL_TASKS
    from tools.acceptance.sizes import SIZES, Size
    from tools.acceptance.smoke import smoke

if TYPE_CHECKING:
    from engine.ranks.world import World

WORTHLESS_EXIT_CODE = 3
Stage = Callable[[argparse.Namespace, Size], dict[str, Any]]


@contextmanager
def _joined() -> "Iterator[World]":
    from engine.ranks.world import join_world, leave_world

    yield join_world()
    leave_world()


def _environment(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    from tools.acceptance.environment import look_around

    return look_around(on_gpu=options.size != "dry-run")


def _kernels(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    from tools.acceptance.kernels import compile_kernels

    with _joined() as world:
        return compile_kernels(options.way, size, options.photographs, world)


def _smoke(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    return smoke(options.size, options.photographs, options.out.parent, on_gpu=options.size != "dry-run")


def _lane(options: argparse.Namespace, size: Size) -> None:
    from engine.deepspeed_engine import quiet
    from tools.acceptance.lane import make_runs

    quiet()
    names = options.runs.split(",")
    tasks = [task for task in ALL_TASKS if task.name in names]
    with _joined() as world:
        make_runs(tasks, size, options.photographs, world, options.out)


def _update(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    from tools.acceptance.update import count_updates

    with _joined() as world:
        return count_updates(size, options.photographs, world)


def _loader(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    from pipeline.shards.classes import read_class_names
    from tools.acceptance.loading import measure_loader

    num_classes = len(read_class_names(options.photographs) or [])
    with _joined() as world:
        return measure_loader(size, options.photographs, num_classes, world)


STAGES: dict[str, Stage] = {
    "environment": _environment,
    "kernels": _kernels,
    "smoke": _smoke,
    "update": _update,
    "loader": _loader,
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser.of("tools.acceptance", __doc__)
    parser.add_argument(
        "stage",
        choices=[*STAGES, "lane", "page"],
        help="lane: runs of smoke; page: gather what lies in the folder --out",
    )
    parser.add_argument("--size", choices=list(SIZES), default="full", help="how much of it")
    parser.add_argument("--photographs", type=user_path, metavar="DIR", help="shards, with val and train")
    parser.add_argument("--way", default="random", help="of kernels: random, contrast or recipe")
    parser.add_argument("--runs", default="", metavar="A,B", help="of lane: their names")
    parser.add_argument("--out", type=user_path, required=True, help="the file to write; of page the folder to read")
    options = parser.parse_args(arguments)
    if options.stage not in ("environment", "page") and options.photographs is None:
        raise ValueError(f"{options.stage} needs shards: name their folder with --photographs")
    return options


def _run(options: argparse.Namespace) -> int:
    """One stage; returns the exit code."""
    if options.stage == "page":
        text, all_holds = write_page(options.out)
        print(text, flush=True)
        return 0 if all_holds else 1
    if options.stage == "lane":
        _lane(options, SIZES[options.size])
        return 0
    found = STAGES[options.stage](options, SIZES[options.size])
    options.out.write_text(json.dumps({"size": options.size, **found}, indent=1) + "\n")
    for problem in found["problems"]:
        print(f"problem: {problem}", file=sys.stderr)
    if found.get("is_worthless"):
        return WORTHLESS_EXIT_CODE
    return 1 if found["problems"] else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """One stage, or the page."""
    try:
        return _run(_parse(arguments))
    except (ValueError, OSError) as error:
        return told(error)


if __name__ == "__main__":
    leave(main())
