"""Train a Vision Transformer under a patch sampling schedule.

    deepspeed --no_local_rank --module engine.train --config configs/fashion_mnist.yaml

Exit codes: 0 done; 1 a rank failed, was lost or had to be ended (stderr names it, and the last checkpoint holds); 2 an
input that cannot be used, or a run folder that another run is using; 3 data that turned out to be bad while training:
an image that cannot be decoded, too many of them, or a shard that changed; 4 weights or a loss that are not finite
(one line names the last good checkpoint and the keys that usually help); 74 a checkpoint that could not be written
(one line on stderr says what is wrong); 75 stopped by a signal, with a checkpoint from which the same command goes on;
130 interrupted by Ctrl-C before there was anything to save. What the launcher makes of them:
``engine/ranks/stopping.py``.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engine.command_line import STOPPED_EXIT_CODE, Parser, interruptible
from pipeline.files import user_path

with interruptible():
    from engine.bad_data import one_data_error
    from engine.checkpoints.checkpoint import clear_save_error
    from engine.checkpoints.finite import clear_divergence
    from engine.checkpoints.manifest import step_folder, steps_in
    from engine.checkpoints.resume import Start, check_allowed_keys, recorded_identity
    from engine.config import load_config
    from engine.deepspeed_engine import quiet
    from engine.prepare import prepare
    from engine.progress import say
    from engine.ranks.launchers import Launchers
    from engine.ranks.preflight import check_same_software
    from engine.ranks.run_lock import held
    from engine.ranks.watch import Watch
    from engine.ranks.world import World, join_world, leave_world, one_clear_error
    from engine.result import finish
    from engine.start import Request, announcement, check_same_request, find_start, open_run
    from engine.trainer import Run, train


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: an argument that is missing, unknown or of the wrong form.
    """
    title, _, exit_codes = (__doc__ or "").split("\n\n")
    parser = Parser(prog="engine.train", description=title, epilog=exit_codes)
    parser.add_run_arguments()
    parser.add_argument(
        "--out", type=user_path, help="the run folder, which one run at a time may use (default: runs/NAME)"
    )
    parser.add_argument("--max-steps", type=int, help="stop after this many steps, as a finished run")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|PATH|never",
        help="auto: go on from the run folder's checkpoint, if any; PATH: from that checkpoint; never: start anew",
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
    return Request(config, folder, arguments.max_steps, arguments.resume, tuple(arguments.allow_change))


def train_run(argv: Sequence[str], world: World, launchers: Launchers | None = None) -> int:
    """One run from its command line to its summary. Collective.

    Returns:
        The exit code: 0, or 75 if it was stopped.

    Raises:
        SystemExit: with code 2, on every rank, for an input that cannot be used; with code 3 for data that turned out
            to be bad while training; with code 4 for weights or a loss that are not finite.
    """
    check_same_software(world)
    with one_clear_error(world):
        request = read_request(argv)
        prepared = prepare(request.config, world)
        check_allowed_keys(request.allowed, prepared.identity)
    check_same_request(request, prepared, world)
    with held(request.folder, world, launchers.followed if launchers else ()) as lock:
        start = find_start(request, prepared, world)
        with Watch(
            world,
            request.folder,
            stop_grace_s=request.config.engine.stop_grace_s,
            stall_report_s=request.config.engine.stall_report_s,
            launchers=launchers,
            lock=lock,
        ) as watch:
            run = open_run(request, prepared, start, world, watch)
            if world.is_first:
                print(announcement(run, start), flush=True)
            return _train_and_finish(run, start, request.stop_step(run.plan))


def _train_and_finish(run: Run, start: Start, stop_step: int) -> int:
    """Train to the end, or until the ranks stop. Returns the exit code."""
    checkpoints = run.folder / "checkpoints"
    with one_data_error(run.world), clear_save_error(run.world), clear_divergence(run.world, checkpoints):
        evaluations = train(run, start.step, stop_step)
    if run.watch.stopping:
        if run.world.is_first:
            _say_how_to_go_on(run, start)
        return STOPPED_EXIT_CODE
    run.watch.enter("finish", stop_step)
    finish(run, evaluations, stop_step)
    return 0


def _say_how_to_go_on(run: Run, start: Start) -> None:
    checkpoints = run.folder / "checkpoints"
    steps = steps_in(checkpoints)
    newest = step_folder(checkpoints, steps[-1]) if steps else start.checkpoint
    say(f"stopped by {run.watch.reason}; the same command goes on from {newest} (exit code {STOPPED_EXIT_CODE})")


def main(argv: Sequence[str] | None = None) -> None:
    """Meet the other ranks, train, part. A run that was stopped ends without waiting for any thread."""
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        parse_arguments(argv)
    with interruptible():
        quiet()
        launchers = Launchers()
        world = join_world()
        code = train_run(argv, world, launchers)
        leave_world()
    if code:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
