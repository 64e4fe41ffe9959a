"""A run from its first look at the inputs to its summary."""

from collections.abc import Callable

from engine.bad_data import one_data_error
from engine.checkpoints.checkpoint import clear_save_error
from engine.checkpoints.finite import clear_divergence
from engine.checkpoints.manifest import step_folder, steps_in
from engine.checkpoints.resume import Start, check_allowed_keys
from engine.command_line import STOPPED_EXIT_CODE
from engine.prepare import prepare
from engine.progress import say
from engine.ranks.launchers import Launchers
from engine.ranks.preflight import check_same_software
from engine.ranks.run_lock import held
from engine.ranks.watch import Watch
from engine.ranks.world import World, one_clear_error
from engine.result import finish
from engine.run.out_of_memory import clear_out_of_memory
from engine.run.request import Request
from engine.start import announcement, check_same_request, find_start, open_run
from engine.trainer import Run, train


def run(read_request: Callable[[], Request], world: World, launchers: Launchers | None) -> int:
    """One run. Collective.

    Args:
        read_request: reads what is asked for; an error of it is told once, by all ranks.

    Returns:
        The exit code: 0, or 75 if it was stopped.

    Raises:
        SystemExit: with code 2, on every rank, for an input that cannot be used, or on one for too little memory; with
            code 3 for data that turned out to be bad while training; with code 4 for weights or a loss that are not
            finite.
    """
    check_same_software(world)
    with one_clear_error(world):
        request = read_request()
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
            with clear_out_of_memory(world, prepared.config):
                opened = open_run(request, prepared, start, world, watch)
            if world.is_first:
                print(announcement(opened, start), flush=True)
            return _train_and_finish(opened, start, request.stop_step(opened.plan))


def _train_and_finish(run: Run, start: Start, stop_step: int) -> int:
    """Train to the end, or until the ranks stop. Returns the exit code."""
    checkpoints = run.folder / "checkpoints"
    clear_memory = clear_out_of_memory(run.world, run.config)  # innermost: the rank that has met it ends at once
    with one_data_error(run.world), clear_save_error(run.world), clear_divergence(run.world, checkpoints), clear_memory:
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
