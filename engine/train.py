"""Train a Vision Transformer under a patch sampling schedule.

    deepspeed --no_local_rank --module engine.train --config configs/fashion_mnist.yaml

Exit codes: 0 done; 1 a rank failed, was lost or had to be ended (stderr names it, and the last checkpoint holds); 2 an
input that cannot be used; 3 data that turned out to be bad while training: an image that cannot be decoded, too many of
them, or a shard that changed; 74 a checkpoint that could not be written (one line on stderr says what is wrong); 75
stopped by a signal, with a checkpoint from which the same command goes on. What the launcher makes of them:
``engine/ranks/stopping.py``.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed import DeepSpeedEngine

from engine.average import WeightAverage, resume_average
from engine.bad_data import one_data_error
from engine.checkpoints.checkpoint import clear_save_error, load_checkpoint
from engine.checkpoints.manifest import step_folder, steps_in
from engine.checkpoints.resume import Start, check_allowed_keys, choose_start, identity, set_aside_newer
from engine.command_line import STOPPED_EXIT_CODE, Parser
from engine.compiled import compile_blocks, warm_up
from engine.config import RunConfig, load_config
from engine.evaluation.held_images import describe_held
from engine.evaluation.trained import build_run_model
from engine.models.masked_autoencoder import masked_autoencoder
from engine.monitor import check_monitors, open_monitors
from engine.optim import build_optimizer, param_groups
from engine.progress import say
from engine.ranks.launchers import Launchers
from engine.ranks.preflight import (
    check_same_inputs,
    check_same_run_folder,
    check_same_software,
    check_same_start,
    warn_of_clocks,
)
from engine.ranks.watch import Watch
from engine.ranks.world import World, join_world, leave_world, on_first_rank, one_clear_error
from engine.result import finish
from engine.run_folder import prepare_folder
from engine.run_plan import RunPlan, deepspeed_config, plan_run
from engine.snapshots import open_board, restore_snapshot
from engine.task import Model
from engine.trainer import Run, train
from pipeline.graph.route import why_not_select_first
from pipeline.plan.step import TrainPlanner
from pipeline.shards.index import ShardIndex, open_index


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: an argument that is missing, unknown or of the wrong form.
    """
    parser = Parser(prog="engine.train", description=(__doc__ or "").split("\n")[0])
    parser.add_run_arguments()
    parser.add_argument("--out", type=Path, help="the run folder (default: runs/NAME)")
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


@dataclass(frozen=True)
class Prepared:
    """Everything that can be wrong with a run's input has been looked at once this exists."""

    config: RunConfig
    plan: RunPlan
    train_index: ShardIndex
    val_index: ShardIndex
    planner: TrainPlanner
    model: Model
    identity: dict[str, Any]
    folder: Path
    resume: str
    allowed: list[str]
    stop_step: int
    held_images: str | None  # what echo and cache will hold, for people


def prepare(argv: Sequence[str], world: World) -> Prepared:
    """Read and check every input of the run. Nothing collective, nothing written.

    Raises:
        ValueError, OSError: an input that cannot be used.
    """
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.set)
    if world.is_first:
        check_monitors(config.monitor)
    torch.set_num_threads(config.engine.num_threads or world.cores)
    train_index, val_index = open_index(config.data.train, "train"), open_index(config.data.val, "val")
    for index in (train_index, val_index):
        check_labels(index, config.data.num_classes)
    stated = config.data.num_train_samples
    if stated not in (None, train_index.num_samples):
        raise ValueError(
            f"data.num_train_samples says {stated}, but {train_index.folder} holds {train_index.num_samples} training "
            "samples; correct the number or leave it out"
        )
    plan = plan_run(config, train_index.num_samples, world.size)
    if config.data.device == "gpu" and world.device.type != "cuda":
        raise ValueError("data.device is gpu, but no GPU is visible here; set data.device to cpu")
    held_images = describe_held(config.data, train_index, plan.rows_per_rank, world.local_size)
    planner = TrainPlanner(
        train_index, config.data, config.selection, plan.schedule, config.train.global_batch_size, config.seed
    )
    torch.manual_seed(config.seed)
    vit = build_run_model(config, pretrained=config.model.pretrained, for_training=True)
    model = masked_autoencoder(vit, config.pretrain) if config.task == "pretrain" else vit
    folder = arguments.out or Path("runs") / config.name
    this_run = identity(config, train_index)
    check_allowed_keys(arguments.allow_change, this_run)
    stop_step = min(plan.total_steps, arguments.max_steps or plan.total_steps)
    return Prepared(
        config,
        plan,
        train_index,
        val_index,
        planner,
        model,
        this_run,
        folder,
        arguments.resume,
        arguments.allow_change,
        stop_step,
        held_images,
    )


def find_start(prepared: Prepared, world: World) -> Start:
    """Where the run starts, its folder made ready for that. For the first rank.

    Raises:
        ValueError, OSError: there is a checkpoint, but it cannot be used.
    """
    checkpoints = prepared.folder / "checkpoints"
    start = choose_start(
        prepared.resume,
        checkpoints,
        prepared.identity,
        allowed=prepared.allowed,
        stop_step=prepared.stop_step,
        world_size=world.size,
    )
    prepare_folder(prepared.folder, prepared.config, fresh=start.checkpoint is None)
    start.notes.extend(set_aside_newer(checkpoints, start.step))
    return start


def check_labels(index: ShardIndex, num_classes: int) -> None:
    """Raise ValueError if a label lies outside the model's classes, naming the first such sample."""
    if index.min_label < 0 or index.max_label >= num_classes:
        wrong = int(((index.label < 0) | (index.label >= num_classes)).argmax())
        raise ValueError(
            f"{index.describe(wrong)} in {index.folder} has label {index.label[wrong]}, but data.num_classes is "
            f"{num_classes}: labels are 0 to {num_classes - 1}"
        )


def train_run(argv: Sequence[str], world: World, launchers: Launchers | None = None) -> int:
    """One run from its command line to its summary. Collective.

    Returns:
        The exit code: 0, or 75 if it was stopped.

    Raises:
        SystemExit: with code 2, on every rank, for an input that cannot be used; with code 3 for data that turned out
            to be bad while training.
    """
    check_same_software(world)
    with one_clear_error(world):
        prepared = prepare(argv, world)
    indexes = {"data.train": prepared.train_index, "data.val": prepared.val_index}
    check_same_inputs(world, prepared.config, indexes, stop_step=prepared.stop_step)
    check_same_run_folder(world, prepared.folder)
    warn_of_clocks(world)
    with one_clear_error(world):
        start = on_first_rank(world, lambda: find_start(prepared, world))
    check_same_start(world, start.checkpoint, start.step)
    limits = prepared.config.engine
    with Watch(
        world,
        prepared.folder,
        stop_grace_s=limits.stop_grace_s,
        stall_report_s=limits.stall_report_s,
        launchers=launchers,
    ) as watch:
        return _train_prepared(prepared, start, world, watch)


def build_engine(config: RunConfig, plan: RunPlan, model: Model, *, load_universal: bool = False) -> DeepSpeedEngine:
    """DeepSpeed around a model on its device, with the run's optimizer. Collective."""
    optimizer = build_optimizer(
        param_groups(
            model,
            weight_decay=config.optim.weight_decay,
            layer_decay=config.optim.layer_decay,
        ),
        lr=config.optim.lr,
        betas=config.optim.betas,
        eps=config.optim.eps,
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=deepspeed_config(config, plan, load_universal=load_universal),
        dist_init_required=False,
    )
    if config.engine.compile:
        compile_blocks(model)
    return engine


def _train_prepared(prepared: Prepared, start: Start, world: World, watch: Watch) -> int:
    config, model = prepared.config, prepared.model.to(world.device)
    average = None if config.train.ema_decay is None else WeightAverage(model, config.train.ema_decay)
    board = open_board(config, prepared.plan.schedule)
    engine = build_engine(config, prepared.plan, model, load_universal=start.is_universal)
    if start.checkpoint is not None and start.source is not None:
        load_checkpoint(engine, start.checkpoint)
        if average is not None:
            start.notes.extend(resume_average(average, engine, start.source))
        if start.step < prepared.stop_step:  # a run that only has to finish selects no more patches for training
            with one_clear_error(world):
                restore_snapshot(board, start.source, start.step)
    with one_clear_error(world):
        monitors = open_monitors(config, prepared.folder, start.step, world)
    if config.engine.compile and start.step < prepared.stop_step:
        watch.enter("compile", start.step)
        engine.train()
        taken_s = warm_up(model, prepared.plan, config.data.num_patches, 3 * config.data.patch_size**2, world.device)
        start.notes.append(f"compiled for {len(prepared.plan.schedule.stages())} stage(s) in {taken_s:.0f} s")
    if world.is_first:
        _announce(prepared, start, world)
    run = Run(
        config,
        prepared.plan,
        world,
        engine,
        prepared.planner,
        prepared.train_index,
        prepared.val_index,
        prepared.folder,
        prepared.identity,
        watch,
        average,
        board,
        monitors,
    )
    with one_data_error(world), clear_save_error(world):
        evaluations = train(run, start.step, prepared.stop_step)
    if watch.stopping:
        if world.is_first:
            checkpoints = prepared.folder / "checkpoints"
            steps = steps_in(checkpoints)
            newest = step_folder(checkpoints, steps[-1]) if steps else start.checkpoint
            say(f"stopped by {watch.reason}; the same command goes on from {newest} (exit code 75)")
        return STOPPED_EXIT_CODE
    watch.enter("finish", prepared.stop_step)
    finish(run, evaluations, prepared.stop_step)
    return 0


def main(argv: Sequence[str] | None = None) -> None:
    """Meet the other ranks, train, part. A run that was stopped ends without waiting for any thread."""
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        parse_arguments(argv)
    quiet()
    launchers = Launchers()
    world = join_world()
    code = train_run(argv, world, launchers)
    leave_world()
    if code:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def quiet() -> None:
    """The run's own output is enough; DeepSpeed's remarks matter only when something is wrong."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="deepspeed")


def _why(config: RunConfig) -> str:
    if config.data.route != "auto":
        return ", as configured"
    reason = why_not_select_first(config.data, config.selection, targets=config.task == "pretrain")
    return ": only kept patches are resampled" if reason is None else f": {reason}"


def _announce(prepared: Prepared, start: Start, world: World) -> None:
    config, plan = prepared.config, prepared.plan
    stages = ", ".join(f"{stage.keep_rate:g} ({stage.share:.1%})" for stage in plan.schedule.stages())
    lines = [
        f"run {config.name} in {prepared.folder}: {plan.total_steps} steps of {config.train.global_batch_size} images "
        f"on {world.size} rank(s), {plan.steps_per_epoch} steps an epoch",
        f"schedule {config.schedule.kind}, rule {config.selection.rule}: keep rates {stages}, "
        f"mean {plan.schedule.mean_keep_rate:.3f}",
        f"data.route {config.route}{_why(config)}",
    ]
    if prepared.held_images is not None:
        lines.append(prepared.held_images)
    if prepared.model.load_report is not None:
        lines.append(str(prepared.model.load_report))
    print("\n".join([*lines, *start.notes]), flush=True)


if __name__ == "__main__":
    main()
