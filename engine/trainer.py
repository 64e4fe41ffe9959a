"""The training loop."""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import nn

from engine.average import AVERAGE_FILE, WeightAverage, trained_weights
from engine.bad_data import BadSampleLog, read_batches
from engine.checkpoints.checkpoint import Checkpoints
from engine.checkpoints.finite import DivergedError, check_finite
from engine.config import RunConfig
from engine.evaluation.evaluate import Evaluation, evaluate, evaluation_from_line
from engine.loading import open_loader
from engine.metrics import IntervalClock, MetricsFile
from engine.metrics_table import StepFacts, train_line
from engine.monitor import Monitor
from engine.optim import learning_rate, set_learning_rate
from engine.prepare import Prepared
from engine.progress import Progress
from engine.ranks.watch import Watch
from engine.ranks.world import World, agree
from engine.run.anchor import Anchor
from engine.run.example_scores import SCORES_FILE, ScoreRecord
from engine.run.store_traffic import StoreTraffic
from engine.run_plan import RunPlan
from engine.snapshots import SNAPSHOT_FILE, publish_if_due, snapshot_state
from engine.task import training_loss, training_outcome
from engine.timing.laps import Laps
from engine.update import backward_pass, begin_pass, update_weights
from pipeline.batch import Batch
from pipeline.loader import PatchLoader
from pipeline.plan import keyed
from pipeline.plan.keyed import Stream
from pipeline.plan.step import TrainPlanner
from pipeline.selection.snapshots import SnapshotBoard
from pipeline.shards.data_sets import ValSet
from pipeline.shards.index import ShardIndex
from pipeline.train_plans import TrainPlans


@dataclass(frozen=True)
class Run:
    """All that the loop works with."""

    prepared: Prepared
    folder: Path
    world: World
    engine: DeepSpeedEngine
    watch: Watch
    average: WeightAverage | None = None
    anchor: Anchor | None = None
    snapshots: SnapshotBoard | None = None
    scores: ScoreRecord | None = None
    monitors: Sequence[Monitor] = ()

    @property
    def config(self) -> RunConfig:
        return self.prepared.config

    @property
    def plan(self) -> RunPlan:
        return self.prepared.plan

    @property
    def planner(self) -> TrainPlanner:
        return self.prepared.planner

    @property
    def train_index(self) -> ShardIndex:
        return self.prepared.train_index

    @property
    def val_sets(self) -> tuple[ValSet, ...]:
        return self.prepared.val_sets

    @property
    def identity(self) -> dict[str, Any]:
        return self.prepared.identity

    @property
    def averaged_model(self) -> nn.Module | None:
        return None if self.average is None else self.average.model

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that a user will be given."""
        return self.engine if self.average is None else self.average.in_precision(self.config.engine.precision)

    def extra_states(self) -> dict[str, Any]:
        """What a checkpoint holds beside DeepSpeed's state, by file name. Collective."""
        average = None if self.average is None else self.average.state()
        scores = None if self.scores is None else self.scores.state()
        states = {AVERAGE_FILE: average, SNAPSHOT_FILE: snapshot_state(self.snapshots), SCORES_FILE: scores}
        return {name: state for name, state in states.items() if state is not None}


def train(run: Run, first_step: int, stop_step: int) -> list[Evaluation]:
    """Train the steps ``first_step`` to ``stop_step - 1``; returns the evaluations after the last one. Collective.

    When the ranks agree to stop it returns early, with a checkpoint of the last step done and ``run.watch.stopping``.
    """
    config, plan, world = run.config, run.plan, run.world
    metrics = MetricsFile(run.folder / "metrics.jsonl", first_step, world, run.monitors)
    progress = Progress(first_step, stop_step, world, with_sizes=bool(config.schedule.sizes))
    clock = IntervalClock(Laps.on(world.device))
    bad_samples = BadSampleLog(run.folder / "bad_samples.jsonl", first_step, config.data, world)
    store = StoreTraffic((run.train_index, *(held.index for held in run.val_sets)), world)
    run.engine.train()
    evaluations = _evaluation_left_out(run, first_step, stop_step, metrics, bad_samples)
    with training_loader(run, first_step, stop_step) as loader, open_checkpoints(run, metrics) as checkpoints:
        batches = read_batches(loader)
        for step in range(first_step, stop_step):
            if run.watch.stopping:
                break
            logged = _is_logged(run, step, stop_step)
            publish_if_due(run.snapshots, run.engine.module, step)
            if run.scores is not None:
                run.scores.publish_if_due(step, metrics)
            done_step = train_step(run, step, batches, clock, measure=logged)
            if run.average is not None:
                run.average.update(trained_weights(run.engine))
            clock.work_ends()
            clock.num_steps += 1
            if logged:
                line = _train_line(run, step, done_step, clock, loader, bad_samples)
                progress.show(line)
                metrics.write(line)
                if (fetched := store.line(step)) is not None:
                    metrics.write(fetched)
                checkpoints.poll()
            progress.advance()
            done = step + 1
            stopping = run.watch.agree()
            checkpoint_due = _is_due(plan.checkpoint_every, done) or done == stop_step or stopping
            if checkpoint_due or _is_due(plan.eval_every, done):
                _check_finite(run, done_step.batch, done)
            if (_is_due(plan.eval_every, done) or done == stop_step) and not stopping:
                evaluations = evaluate_all(run, done, metrics, bad_samples)
                if evaluations:
                    progress.say_evaluations(done, evaluations)
            if checkpoint_due or run.watch.stopping:
                run.watch.enter("checkpoint", done)
                bad_samples.record(loader.take_bad_rows(), run.train_index, "train")  # those since the last line
                checkpoints.save(done, run.extra_states())
            if logged:
                clock.reset(loader.wait_s, loader.read)
    progress.close()
    metrics.close()
    return evaluations


def open_checkpoints(run: Run, metrics: MetricsFile) -> Checkpoints:
    """The run's checkpoints, with all in their manifests that tells whose they are. Collective."""
    return Checkpoints(
        run.engine,
        run.folder / "checkpoints",
        run.world,
        facts={
            "identity": run.identity,
            "config": run.config.model_dump(mode="json"),
            "data": {"train": run.train_index.fingerprint, **_val_fingerprints(run)},
        },
        metrics=metrics,
        keep_last=run.config.checkpoint.keep_last,
        keep_every=run.plan.keep_every,
    )


def _val_fingerprints(run: Run) -> dict[str, str]:
    return {one.key.removeprefix("data."): one.index.fingerprint for one in run.val_sets}


def training_loader(run: Run, first_step: int, stop_step: int) -> PatchLoader:
    """This rank's batches of the steps ``first_step`` to ``stop_step - 1``."""
    config, plan, world = run.config, run.plan, run.world
    plans = TrainPlans(
        run.planner,
        first_step=first_step,
        stop_step=stop_step,
        micro_batch_size=plan.micro_batches.size,
        rank=world.rank,
        world_size=world.size,
        scores=None if run.scores is None else run.scores.board,
    )
    return open_loader(
        run.planner,
        plans,
        config,
        world,
        batch_size=max(plan.micro_batches.size(stage.num_kept) for stage in plan.schedule.stages()),
        snapshots=run.snapshots,
        # A wish to stop is heard at the end of a step, and agreed on at the end of the next.
        reserve=2 * max(plan.micro_batches.steps(stage.num_kept) for stage in plan.schedule.stages()),
        on_store_lost=run.watch.lose_store,
    )


class DoneStep(NamedTuple):
    """What came of an optimizer step.

    Attributes:
        loss: the rank's mean, float32 scalar on its device.
        grad_norm: of the whole gradient before clipping, where it was measured.
        penalty: of ``train.anchor`` before the update, float32 scalar on the device, where it was measured.
        batch: the last micro batch.
    """

    loss: torch.Tensor
    grad_norm: float | None
    penalty: torch.Tensor | None
    batch: Batch


def train_step(run: Run, step: int, batches: Iterator[Batch], clock: IntervalClock, *, measure: bool) -> DoneStep:
    """One optimizer step. The ``clock`` is told when batches arrive, and is left running."""
    config, plan, engine = run.config, run.plan, run.engine
    rate = learning_rate(
        step,
        peak=config.optim.lr,
        final=config.optim.final_lr,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        progress=plan.decay,
    )
    set_learning_rate(engine.optimizer, rate)
    seed_model(config.seed, step, run.world)
    step_loss = torch.zeros((), device=run.world.device)
    num_passes = plan.micro_batches.steps(plan.schedule.stage(step).num_kept)
    for done in range(num_passes):
        if done:
            clock.work_ends()
        run.watch.enter("loader", step)
        batch = next(batches).to(run.world.device)
        clock.work_begins()
        run.watch.enter("step", step)
        assert batch.plan.step == step
        begin_pass(engine, is_last=done == num_passes - 1)
        outcome = training_outcome(engine, batch, config)
        loss = outcome.mean_loss(batch)
        if run.scores is not None:
            run.scores.observe(batch, outcome)
        backward_pass(engine, loss, num_passes)
        step_loss += loss.detach() / num_passes
    penalty = None if run.anchor is None else run.anchor.pull(measure=measure)
    grad_norm = update_weights(engine, config, measure=measure)
    return DoneStep(step_loss, grad_norm, penalty, batch)


def _check_finite(run: Run, batch: Batch, done: int) -> None:
    """Before anything is made of the weights after ``done`` steps, of which ``batch`` was the last."""

    def loss_now() -> torch.Tensor:
        run.engine.eval()
        with torch.no_grad(), _uncompiled(run.config):
            loss = training_loss(run.engine, batch, run.config)
        run.engine.train()
        return loss

    check_finite(run.engine, run.averaged_model, loss_now, done, run.world)


def _uncompiled(config: RunConfig) -> AbstractContextManager[Any]:
    """Compiled for training is not what a forward pass by itself needs."""
    return torch.compiler.set_stance("force_eager") if config.engine.compile else nullcontext()


def seed_model(seed: int, step: int, world: World) -> None:
    """Key drop path and dropout by (seed, step, rank), so that going on from a checkpoint needs no generator state."""
    word = int(keyed.words(seed, Stream.MODEL, step, world.rank + 1)[world.rank] >> 1)
    # What torch.manual_seed does, for the devices in use: it takes 0.2 ms, as it asks for every kind of device.
    torch.default_generator.manual_seed(word)
    if world.device.type == "cuda":
        torch.cuda.manual_seed(word)


def evaluate_all(run: Run, done: int, metrics: MetricsFile, bad_samples: BadSampleLog) -> list[Evaluation]:
    """Validation on every set at every configured keep rate after ``done`` steps, the first set first. Collective.

    None if the ranks stop meanwhile.
    """

    def is_interrupted() -> bool:
        run.watch.enter("eval", done)
        return run.watch.agree()

    model, evaluations = run.evaluated_model, []
    for held, keep_rate in itertools.product(run.val_sets, run.config.eval.keep_rates):
        with _uncompiled(run.config):
            evaluation, bad = evaluate(
                model,
                held.index,
                run.config,
                keep_rate,
                run.world,
                is_interrupted,
                on_store_lost=run.watch.lose_store,
            )
        if evaluation is None:
            return []
        if not math.isfinite(evaluation.loss):
            where = "" if held.name is None else f" on {held.name}"
            raise DivergedError(f"the validation loss{where} at keep rate {keep_rate:g} is {evaluation.loss}", done)
        bad_samples.record(bad, held.index, "eval", done, val=held.name)
        evaluations.append(replace(evaluation, val=held.name))
    of_average = {} if run.average is None else {"weights": "ema"}
    for evaluation in evaluations:
        metrics.write({"event": "eval", "step": done, **evaluation.as_line(), **of_average})
    return evaluations


def _evaluation_left_out(
    run: Run, first_step: int, stop_step: int, metrics: MetricsFile, bad_samples: BadSampleLog
) -> list[Evaluation]:
    """The evaluation due after ``first_step`` steps, done now if the run stopped before it. Collective."""
    if first_step == 0 or not (_is_due(run.plan.eval_every, first_step) or first_step == stop_step):
        return []
    lines = [line for line in metrics.read() if line["event"] == "eval" and line["step"] == first_step]
    if agree(run.world, bool(lines)):
        return [evaluation_from_line(line, run.config) for line in lines]
    return evaluate_all(run, first_step, metrics, bad_samples)


def _is_due(every: int | None, done: int) -> bool:
    return every is not None and done % every == 0


def _is_logged(run: Run, step: int, stop_step: int) -> bool:
    """Lines end where stages, checkpoints and evaluations do: each speaks of one keep rate and of training only."""
    done = step + 1
    if done == stop_step or done % run.config.log_every == 0:
        return True
    if _is_due(run.plan.eval_every, done) or _is_due(run.plan.checkpoint_every, done):
        return True
    return run.plan.schedule.stage(step) != run.plan.schedule.stage(done)


def _train_line(
    run: Run,
    step: int,
    done: DoneStep,
    clock: IntervalClock,
    loader: PatchLoader,
    bad_samples: BadSampleLog,
) -> dict[str, Any]:
    """The metrics of a step. Collective."""
    mean_loss = _mean_loss(done.loss, step, run.world)  # waits for the device, so that the clock is right
    return train_line(
        StepFacts(
            step=step,
            loss=mean_loss,
            grad_norm=done.grad_norm,
            batch=done.batch,
            interval=clock.per_step(loader.wait_s, loader.read),
            optimizer=run.engine.optimizer,
            config=run.config,
            bad_samples=bad_samples.record(loader.take_bad_rows(), run.train_index, "train"),
            source_rows=run.planner.source_rows(step + 1 - clock.num_steps, step + 1),
            anchor_penalty=None if done.penalty is None else done.penalty.item(),
        )
    )


def _mean_loss(loss: torch.Tensor, step: int, world: World) -> float:
    """The loss of the global batch, from those of the ranks."""
    mean_loss = loss.clone()
    dist.all_reduce(mean_loss)
    value = mean_loss.item() / world.size
    if not torch.isfinite(mean_loss):
        raise DivergedError(f"the loss is {value} at step {step}", step)
    return value
