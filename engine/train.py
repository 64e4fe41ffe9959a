"""Train a Vision Transformer under a patch sampling schedule.

    deepspeed --no_local_rank --module engine.train --config configs/fashion_mnist.yaml

Exit codes: 0 done; 1 a rank failed, was lost or had to be ended (stderr names it, and the last checkpoint holds); 2 an
input that cannot be used, a run folder that another run is using, or too little memory (one line says what to lower); 3
data that turned out to be bad while training: an image that cannot be decoded, too many of them, a shard that changed,
or one that a store does not give; 4 weights or a loss that are not finite (one line names the last good checkpoint and
the keys that usually help); 74 a checkpoint that could not be written (one line on stderr says what is wrong); 75
stopped by a signal, or by the loss of the store that shards lie in, with a checkpoint from which the same command goes
on; 130 interrupted by Ctrl-C before there was anything to save. What the launcher makes of them:
``engine/ranks/stopping.py``.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.command_line import Parser, interruptible
from pipeline.files import user_path

with interruptible():
    from engine.checkpoints.growth import over_grown_data
    from engine.checkpoints.resume import recorded_identity, recorded_manifest
    from engine.config import load_config
    from engine.ranks.rendezvous import Place, look_first
    from engine.run.request import Request, look_at

if TYPE_CHECKING:
    from engine.ranks.launchers import Launchers
    from engine.ranks.world import World


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: an argument that is missing, unknown or of the wrong form.
    """
    parser = Parser.of("engine.train", __doc__, epilog=(__doc__ or "").split("\n\n")[-1])
    parser.add_run_arguments()
    parser.add_argument(
        "--out", type=user_path, help="the run folder, which one run at a time may use (default: runs/NAME)"
    )
    parser.add_argument(
        "--max-steps", type=int, help="stop after this many steps, as a finished run (default: all of train.duration)"
    )
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|PATH|never",
        help="auto: go on from the run folder's checkpoint, if any; PATH: from that checkpoint; never: start anew "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="go on from the checkpoint though this key has another value now; may be repeated",
    )
    arguments = parser.parse_args(argv)
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise ValueError(f"--max-steps is at least 1, got {arguments.max_steps}")
    return arguments


def read_request(argv: Sequence[str]) -> Request:
    """What a command line asks for, its configuration read.

    Raises:
        ValueError: arguments or a configuration that cannot be used.
    """
    arguments = parse_arguments(argv)

    def folder_of(name: str) -> Path:
        return arguments.out or Path("runs") / name

    config = load_config(
        arguments.config,
        arguments.set,
        going_on=lambda name: recorded_identity(arguments.resume, folder_of(name) / "checkpoints"),
    )
    folder = folder_of(config.name)
    recorded = recorded_manifest(arguments.resume, folder / "checkpoints")
    config, more = over_grown_data(config, recorded, arguments.allow_change)
    allowed = (*arguments.allow_change, *more)
    return Request(config, folder, arguments.max_steps, arguments.resume, allowed)


def look(argv: Sequence[str], place: Place) -> None:
    """Look at a command line and what it names, in a moment. Raises what ``read_request`` and ``look_at`` raise."""
    look_at(read_request(argv), place)


def train_run(argv: Sequence[str], world: "World", launchers: "Launchers | None" = None) -> int:
    """One run from its command line to its summary, for a program whose ranks have met already. Collective.

    Returns:
        The exit code: 0, or 75 if it was stopped.

    Raises:
        SystemExit: with code 2, on every rank, for an input that cannot be used; with code 3 for data that turned out
            to be bad while training; with code 4 for weights or a loss that are not finite.
    """
    from engine.run.course import run  # here, because it takes seconds

    return run(partial(read_request, argv), world, launchers)


def main(argv: Sequence[str] | None = None) -> None:
    """Look at the inputs, meet the other ranks, train, part.

    What takes seconds to load is loaded once the inputs are found usable. A run that was stopped ends without waiting
    for any thread.
    """
    argv = sys.argv[1:] if argv is None else argv
    with interruptible():
        found = look_first(partial(look, argv))
        from engine.deepspeed_engine import quiet
        from engine.ranks.launchers import Launchers
        from engine.ranks.world import join_world, leave_world
        from engine.run.course import run

        quiet()
        launchers = Launchers()
        world = join_world(found)
        code = run(partial(read_request, argv), world, launchers)
        leave_world()
    if code:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
