"""Does a schedule pay on these machines? Throughput per stage of a run's configuration.

    deepspeed --no_local_rank --num_accelerators 2 --module tools.profile --config configs/fashion_mnist.yaml

Without the launcher, ``python -m tools.profile --config ...`` profiles a run of one rank. For each stage of the
schedule, and for full patches: images per second of the loader alone, of the training step alone on a batch that is
already there, and of both together; which of them limits; and what time the schedule would take against full patches.
Shapes are warmed up first, and the stages are measured in turn, several times over. What is concluded holds for the 95
% interval of the repeats; where they spread too far it is said that they cannot tell, and how many would. Images are
read in the order of training, so a data set that fits into memory is read from there after its first pass, as in
training.

The loader is split as ``--help`` and ``tools/profile/loader.py`` tell; the latter also says what processor time is
counted. A training step is split into forward, backward and optimizer, and in further steps under torch's profiler the
exchange between ranks is found, which lies within these three.

Exit codes: 0 done; 2 an input that cannot be used; 3 an image that cannot be decoded or a shard that changed (one line
on stderr says which); 130 interrupted by Ctrl-C; 1 anything else.
"""

import argparse
import math
import sys
import textwrap
from collections.abc import Sequence
from functools import partial

from engine.command_line import Parser, interruptible
from pipeline.files import user_path
from tools.command import add_picture_argument

with interruptible():
    from engine.config import load_config
    from engine.ranks.rendezvous import Place, look_first
    from engine.run.inputs import check_monitors, open_inputs
    from tools.profile.result import PARTS


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: an argument that is missing, unknown or of the wrong form.
    """
    parser = Parser.of("tools.profile", __doc__, epilog=_told_parts())
    parser.add_run_arguments()
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the result for programs")
    add_picture_argument(parser, "draw images per second over the keep rate")
    parser.add_argument(
        "--trace", type=user_path, metavar="FILE", help="write a timeline of each stage for chrome://tracing (.json)"
    )
    sides = parser.add_mutually_exclusive_group()
    sides.add_argument("--loader-only", action="store_true", help="measure the loader alone; builds no engine")
    sides.add_argument("--step-only", action="store_true", help="measure the training step alone")
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement, about (default: %(default)s)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="of every measurement (default: %(default)s); of fewer than 3 no verdict is given",
    )
    options = parser.parse_args(argv)
    if not (math.isfinite(options.seconds) and options.seconds > 0):
        raise ValueError(f"--seconds is above 0, got {options.seconds:g}")
    if options.repeats < 1:
        raise ValueError(f"--repeats is at least 1, got {options.repeats}")
    if options.trace is not None and options.loader_only:
        raise ValueError("--trace shows training steps, of which --loader-only has none; leave one of them out")
    for name, path in (("--json", options.json), ("--trace", options.trace)):
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{name}: the folder {path.parent} does not exist, so {path.name} cannot be written")
    return options


def _told_parts() -> str:
    """The loader's parts, for ``--help``."""
    lines = [
        textwrap.fill(f"{name:8} {what}", 100, initial_indent="  ", subsequent_indent=" " * 11)
        for name, what in PARTS.items()
    ]
    head = "the loader's parts; each is what loaders take longer with it, and all add up to the whole loader's time:"
    return "\n".join([head, *lines])


def _look(argv: Sequence[str], place: Place) -> None:
    """Look at a command line and what it names, in a moment. Raises ValueError or OSError."""
    options = parse_arguments(argv)
    config = load_config(options.config, options.set)
    if place.is_first:
        check_monitors(config.monitor)
    open_inputs(config, place.size, place.local_size)


def main(argv: Sequence[str] | None = None) -> None:
    """Look at the inputs, meet the other ranks, profile, part. What takes seconds to load is loaded after the look."""
    argv = sys.argv[1:] if argv is None else argv
    with interruptible():
        found = look_first(partial(_look, argv))
        from engine.deepspeed_engine import quiet
        from engine.ranks.world import join_world, leave_world
        from tools.profile.course import profile

        quiet()
        world = join_world(found)
        profile(partial(parse_arguments, argv), argv, world)
        leave_world()


if __name__ == "__main__":
    main()
