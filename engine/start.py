"""How a run starts: where it goes on, and all that its first step needs."""

from deepspeed import DeepSpeedEngine

from engine.average import WeightAverage, resume_average
from engine.checkpoints.checkpoint import load_checkpoint
from engine.checkpoints.finite import what_is_broken
from engine.checkpoints.resume import Start, choose_start, set_aside_newer
from engine.compiled import warm_up
from engine.config import RunConfig
from engine.deepspeed_engine import build_engine
from engine.monitor import open_monitors
from engine.prepare import Prepared
from engine.ranks.preflight import (
    check_same_inputs,
    check_same_run_folder,
    check_same_start,
    describe_devices,
    warn_of_clocks,
)
from engine.ranks.watch import Watch
from engine.ranks.world import World, on_first_rank, one_clear_error
from engine.run.anchor import Anchor
from engine.run.example_scores import ScoreRecord, open_scores
from engine.run.request import Request
from engine.run_folder import prepare_folder
from engine.run_plan import trains_under_autocast
from engine.snapshots import open_board, restore_snapshot
from engine.trainer import Run
from pipeline.graph.route import why_not_select_first
from pipeline.plan.examples import describe as describe_examples
from pipeline.plan.schedule import StageSummary
from pipeline.selection.snapshots import SnapshotBoard


def check_same_request(request: Request, prepared: Prepared, world: World) -> None:
    """All ranks find that they are about to do the same, in the same folder. Collective.

    Raises:
        SystemExit: with code 2, on every rank, if they are not.
    """
    stop_step = request.stop_step(prepared.plan)
    held = prepared.anchored_to
    check_same_inputs(
        world,
        request.config,
        prepared.indexes,
        stop_step=stop_step,
        maps=prepared.maps,
        anchor=None if held is None else held.fingerprint,
    )
    check_same_run_folder(world, request.folder)
    warn_of_clocks(world)


def find_start(request: Request, prepared: Prepared, world: World) -> Start:
    """Where all ranks start, in a run folder that this run holds. Collective.

    Raises:
        SystemExit: with code 2, on every rank, for a checkpoint or a folder that cannot be used.
    """
    with one_clear_error(world):
        start = on_first_rank(world, lambda: _take_up(request, prepared, world.size))
    check_same_start(world, start.checkpoint, start.step)
    return start


def _take_up(request: Request, prepared: Prepared, world_size: int) -> Start:
    """Where the run starts, its folder made ready for that. For the first rank."""
    checkpoints = request.folder / "checkpoints"
    start = choose_start(
        request.resume,
        checkpoints,
        prepared.identity,
        allowed=request.allowed,
        stop_step=request.stop_step(prepared.plan),
        world_size=world_size,
    )
    prepare_folder(request.folder, request.config, fresh=start.checkpoint is None)
    start.notes.extend(set_aside_newer(checkpoints, start.step))
    return start


def open_run(request: Request, prepared: Prepared, start: Start, world: World, watch: Watch) -> Run:
    """The run as it is before its first step, or before the one that it goes on with. Collective.

    What there is to say about that is added to ``start.notes``.

    Raises:
        SystemExit: with code 2, on every rank, for weights, a snapshot or a monitor that cannot be used.
    """
    config, model = prepared.config, prepared.model.to(world.device)
    trains = start.step < request.stop_step(prepared.plan)
    average = None if config.train.ema_decay is None else WeightAverage(model, config.train.ema_decay)
    board = open_board(config, prepared.plan.schedule)
    scores = open_scores(prepared.planner, prepared.plan.rows_per_rank, world)
    engine = build_engine(config, prepared.plan, model, load_universal=start.is_universal)
    _load(start, engine, average)
    _check_loaded(start, engine, average, world)
    if trains:  # a run that only has to finish selects no more patches for training
        _load_snapshots(start, board, scores, world)
    with one_clear_error(world):
        monitors = open_monitors(config, request.folder, start.step, world)
    held = prepared.anchored_to
    anchor = None if held is None else Anchor(engine, held, config.engine.zero_stage)
    run = Run(prepared, request.folder, world, engine, watch, average, anchor, board, scores, monitors)
    if config.engine.compile and trains:
        _compile(run, start)
    return run


def _load(start: Start, engine: DeepSpeedEngine, average: WeightAverage | None) -> None:
    if start.checkpoint is None or start.source is None:
        return
    load_checkpoint(engine, start.checkpoint)
    if average is not None:
        start.notes.extend(resume_average(average, engine, start.source))


def _check_loaded(start: Start, engine: DeepSpeedEngine, average: WeightAverage | None, world: World) -> None:
    """Earlier versions wrote checkpoints of weights that are not finite; nothing good comes of going on from one."""
    if start.source is None:
        return
    broken = what_is_broken(engine, None if average is None else average.model, world)
    with one_clear_error(world):
        if broken is not None:
            raise ValueError(
                f"the checkpoint {start.source} cannot be gone on from: {broken} not finite there; name an earlier one "
                "with --resume PATH, or give --resume never to start anew"
            )


def _load_snapshots(start: Start, board: SnapshotBoard | None, scores: ScoreRecord | None, world: World) -> None:
    if start.source is not None:
        with one_clear_error(world):
            restore_snapshot(board, start.source, start.step)
            if scores is not None:
                scores.restore(start.source, start.step)


def _compile(run: Run, start: Start) -> None:
    config, plan = run.config, run.plan
    run.watch.enter("compile", start.step)
    run.engine.train()
    autocast = trains_under_autocast(config)
    taken_s = warm_up(run.engine.module, plan, config.data, run.world.device, autocast=autocast)
    start.notes.append(f"compiled for {len(plan.schedule.stages())} stage(s) in {taken_s:.0f} s")


def announcement(run: Run, start: Start) -> str:
    """What a person reads before the first step, a line for each fact."""
    config, plan, prepared = run.config, run.plan, run.prepared
    stages = ", ".join(
        f"{stage.keep_rate:g}{_sizes_told(config, stage)} ({stage.share:.1%})" for stage in plan.schedule.stages()
    )
    lines = [
        f"run {config.name} in {run.folder}: {plan.total_steps} steps of {config.train.global_batch_size} images "
        f"on {run.world.size} rank(s), {plan.steps_per_epoch} steps an epoch",
        *describe_devices(run.world),
        f"schedule {config.schedule.kind}, rule {config.selection.rule}{_which_map(config)}: keep rates {stages}, "
        f"mean {plan.schedule.mean_keep_rate:.3f}",
        *([f"strengths of augmentation: {told}"] if (told := plan.schedule.strengths_told()) else []),
        *([told] if (told := run.planner.order.told()) else []),
        *describe_examples(config.schedule.examples, plan.schedule.epochs, plan.total_steps),
        f"data.route {config.route}{_why_this_route(config)}",
    ]
    lines += prepared.notes
    if prepared.held_images is not None:
        lines.append(prepared.held_images)
    if prepared.model.load_report is not None:
        lines.append(str(prepared.model.load_report))
    return "\n".join([*lines, *start.notes])


def _sizes_told(config: RunConfig, stage: StageSummary) -> str:
    sizes = config.schedule.sizes
    return "".join(f" {axis.replace('_', ' ')} {getattr(stage, axis)}" for axis in sizes)


def _which_map(config: RunConfig) -> str:
    return "" if config.selection.map is None else f" {config.selection.map}"


def _why_this_route(config: RunConfig) -> str:
    if config.data.route != "auto":
        return ", as configured"
    reason = why_not_select_first(config.data, config.selection)
    return ": only kept patches are resampled" if reason is None else f": {reason}"
