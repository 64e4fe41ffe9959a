"""The measurements behind a profile: the loader alone, the training step alone, and one feeding the other.

Every measurement is a number of optimizer steps that all ranks agree on beforehand, so nothing is exchanged while the
clock runs but what training itself exchanges. Its time is that of the slowest rank.
"""

import itertools
import math
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist

from engine.average import WeightAverage, trained_weights
from engine.bad_data import read_batches
from engine.optim import set_learning_rate
from engine.pretrain import MaskedAutoencoder
from engine.ranks import World
from engine.snapshots import take_snapshot
from engine.task import training_loss
from engine.train import Prepared, build_engine
from engine.trainer import patch_loader
from engine.update import backward_pass, begin_pass, update_weights
from pipeline.batch import Batch
from pipeline.loader import PatchLoader
from pipeline.plan import StepPlan, TrainPlanner
from pipeline.schedule import PatchSchedule, Stage
from pipeline.snapshots import fixed_board
from tools.profile_result import Profile, Rate, StageProfile
from tools.schedule import flops_per_image

_MIN_STEPS = 2
_MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}
_MATMUL_REPEATS = 5
# Batches that a loader may hold ready beyond its queue: two in DALI's, one in the thread's hands.
_BATCHES_IN_THE_GRAPH = 3


def stages_to_profile(schedule: PatchSchedule, *, full_patches: bool) -> list[tuple[Stage, float]]:
    """The schedule's stages with their shares of the run, fewest patches first.

    Args:
        full_patches: put full patches last, with share 0, where the schedule has none.
    """
    stages = [(Stage(stage.keep_rate, stage.num_kept), stage.share) for stage in schedule.stages()]
    if full_patches and stages[-1][0].num_kept < schedule.num_patches:
        stages.append((Stage(1.0, schedule.num_patches), 0.0))
    return stages


def plans_at(
    planner: TrainPlanner, stage: Stage, first_step: int, micro_batch_size: int, world: World
) -> Iterator[StepPlan]:
    """A rank's micro batches from ``first_step`` on, all at one stage; after the run's last step comes its first."""
    for step in itertools.count(first_step):
        plan = planner.plan(step % planner.schedule.total_steps, world.rank, world.size)
        yield from replace(plan, stage=stage).micro_batches(micro_batch_size)


class Laps:
    """Seconds spent in each part of a loop. On a GPU events take the times, so that the host need not wait for it."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []

    def mark(self, part: str) -> None:
        """The end of a part, which began at the mark before. The first mark only starts the clock."""
        if not self._on_gpu:
            self._marks.append((part, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((part, event))

    def seconds(self) -> dict[str, float]:
        """By part. The GPU must have come to the last mark."""
        found: dict[str, float] = defaultdict(float)
        for (_, start), (part, end) in itertools.pairwise(self._marks):
            found[part] += start.elapsed_time(end) / 1000 if self._on_gpu else end - start
        return dict(found)


class Bench:
    """A run's loader and engine, to be timed. All methods are collective.

    Args:
        trains: whether training steps will be timed; otherwise no engine is built.
    """

    def __init__(self, prepared: Prepared, world: World, *, trains: bool) -> None:
        self._prepared, self._world = prepared, world
        self._next_step = 0  # every measurement goes on in the data where the one before it stopped
        config, model = prepared.config, prepared.model
        # The model is fresh, so this is what the first batches of a run are selected by.
        seen_through = model.encoder if isinstance(model, MaskedAutoencoder) else model
        self._board = fixed_board(take_snapshot(seen_through, 0)) if config.selection.needs_model else None
        self._average: WeightAverage | None = None
        if trains:
            model = model.to(world.device)
            if config.train.ema_decay is not None:
                self._average = WeightAverage(model, config.train.ema_decay)
            self._engine = build_engine(config, prepared.plan, model)
            self._engine.train()
            # One batch thousands of times over must not lead the weights anywhere; a step costs the same at rate 0.
            set_learning_rate(self._engine.optimizer, 0.0)

    def time_loader(self, stage: Stage, num_steps: int) -> tuple[float, Batch]:
        """Seconds in which the slowest rank gets its batches of so many steps, and the last of them."""
        num_passes = self._num_passes(stage)
        with self._open(stage, num_steps) as loader:
            batches = read_batches(loader)
            for _ in range(self._warmup_steps(stage) * num_passes):
                batch = next(batches)
            start = time.perf_counter()
            for _ in range(num_steps * num_passes):
                batch = next(batches)
            elapsed_s = time.perf_counter() - start
        return self._slowest(elapsed_s), batch.to(self._world.device)

    def time_steps(self, batch: Batch, num_steps: int) -> tuple[float, dict[str, float]]:
        """Seconds of so many training steps on one batch on the slowest rank, and this rank's seconds by part."""
        dist.barrier()
        elapsed_s, parts = self._train(itertools.repeat(batch), num_steps, self._num_passes(batch.plan.stage))
        return self._slowest(elapsed_s), parts

    def time_both(self, stage: Stage, num_steps: int) -> tuple[float, float]:
        """Seconds of so many training steps fed by the loader, and the share of it spent waiting for the loader."""
        with self._open(stage, num_steps) as loader:
            batches = read_batches(loader)
            self._train(batches, self._warmup_steps(stage), self._num_passes(stage))
            waited_before_s = loader.wait_s
            elapsed_s, _ = self._train(batches, num_steps, self._num_passes(stage))
            wait_share = (loader.wait_s - waited_before_s) / elapsed_s
        return self._slowest(elapsed_s), self._reduced(wait_share, dist.ReduceOp.SUM) / self._world.size

    def peak_memory_bytes(self) -> int:
        """Main memory of the rank that has needed most so far."""
        return int(self._reduced(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, dist.ReduceOp.MAX))

    def peak_device_memory_bytes(self) -> int | None:
        """Memory of the GPU that has needed most since this was asked for last; None on a CPU."""
        if self._world.device.type != "cuda":
            return None
        peak = self._reduced(torch.cuda.max_memory_allocated(), dist.ReduceOp.MAX)
        torch.cuda.reset_peak_memory_stats()
        return int(peak)

    def matmul_flops_per_s(self) -> float:
        """What all ranks together reach, at the same time, in a large matrix product; the best of a few tries."""
        device, config = self._world.device, self._prepared.config
        size = _MATMUL_SIZE[device.type]
        dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
        a = torch.randn(size, size, device=device).to(dtype)
        times = []
        dist.barrier()
        for _ in range(_MATMUL_REPEATS + 1):
            self._synchronize()
            start = time.perf_counter()
            torch.matmul(a, a)
            self._synchronize()
            times.append(time.perf_counter() - start)
        return self._reduced(2 * size**3 / min(times[1:]), dist.ReduceOp.SUM)

    def _num_passes(self, stage: Stage) -> int:
        return self._prepared.plan.micro_batches.steps(stage.num_kept)

    def _warmup_steps(self, stage: Stage) -> int:
        """Steps after which what a loader had ready at the start is used up."""
        ready = self._prepared.config.data.prefetch_batches + _BATCHES_IN_THE_GRAPH
        return math.ceil(ready / self._num_passes(stage))

    def _open(self, stage: Stage, num_steps: int) -> PatchLoader:
        prepared, micro_batch_size = self._prepared, self._prepared.plan.micro_batches.size(stage.num_kept)
        plans = plans_at(prepared.planner, stage, self._next_step, micro_batch_size, self._world)
        self._next_step += self._warmup_steps(stage) + num_steps
        return patch_loader(
            plans,
            config=prepared.config,
            largest_micro_batch=micro_batch_size,
            world=self._world,
            index=prepared.train_index,
            planner=prepared.planner,
            snapshots=self._board,
        )

    def _train(self, batches: Iterator[Batch], num_steps: int, num_passes: int) -> tuple[float, dict[str, float]]:
        config = self._prepared.config
        laps = Laps(self._world.device)
        self._synchronize()
        start = time.perf_counter()
        laps.mark("start")
        for _ in range(num_steps):
            for done in range(num_passes):
                batch = next(batches).to(self._world.device)
                laps.mark("loader")
                begin_pass(self._engine, is_last=done == num_passes - 1)
                loss = training_loss(self._engine, batch, config)
                laps.mark("forward")
                backward_pass(self._engine, loss, num_passes)
                laps.mark("backward")
            update_weights(self._engine, config, measure=False)
            laps.mark("optimizer")
            if self._average is not None:
                self._average.update(trained_weights(self._engine))
                laps.mark("optimizer")
        self._synchronize()
        return time.perf_counter() - start, laps.seconds()

    def _synchronize(self) -> None:
        if self._world.device.type == "cuda":
            torch.cuda.synchronize()

    def _slowest(self, elapsed_s: float) -> float:
        return self._reduced(elapsed_s, dist.ReduceOp.MAX)

    def _reduced(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        tensor = torch.tensor(value, dtype=torch.float64, device=self._world.device)
        dist.all_reduce(tensor, operation)
        return float(tensor.item())


@dataclass
class Measured:
    """One stage's repeats, and how many steps each of them takes. Rates are images per second over all ranks."""

    stage: Stage
    share: float
    batch: Batch
    loader_steps: int
    train_steps: int
    both_steps: int
    loader: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    parts_ms: list[dict[str, float]] = field(default_factory=list)
    wait_shares: list[float] = field(default_factory=list)
    peak_device_memory_bytes: int | None = None

    def profile(self, flops: int) -> StageProfile:
        def part_ms(name: str) -> float | None:
            return statistics.median(parts[name] for parts in self.parts_ms) if self.parts_ms else None

        return StageProfile(
            keep_rate=self.stage.keep_rate,
            num_kept=self.stage.num_kept,
            share=self.share,
            loader=Rate.of(self.loader),
            step=Rate.of(self.step),
            end_to_end=Rate.of(self.both),
            forward_ms=part_ms("forward"),
            backward_ms=part_ms("backward"),
            optimizer_ms=part_ms("optimizer"),
            loader_wait_share=statistics.median(self.wait_shares) if self.wait_shares else None,
            bytes_per_image=self.batch.num_bytes / self.batch.num_images,
            flops_per_image=flops,
            peak_device_memory_bytes=self.peak_device_memory_bytes,
        )


def profile_run(
    prepared: Prepared,
    world: World,
    *,
    loads: bool,
    trains: bool,
    seconds: float,
    repeats: int,
    progress: Callable[[str], None],
) -> Profile:
    """Profile every stage of a run. Collective.

    Args:
        loads, trains: which sides to measure alone; they are measured together where both are.
        seconds: that one measurement should take, about.
        progress: told after each stage of each round, of which there is one more than ``repeats``, to warm up.
    """
    config, schedule = prepared.config, prepared.plan.schedule
    stages = stages_to_profile(schedule, full_patches=config.task != "pretrain")
    bench = Bench(prepared, world, trains=trains)
    found = []
    for stage, share in stages:
        found.append(_warmed_up(bench, stage, share, trains=trains, seconds=seconds))
        progress(f"warmed up keep rate {stage.keep_rate:.4g}")
    for repeat in range(repeats):
        for measured in found:
            _measure(bench, measured, config.train.global_batch_size, loads=loads, trains=trains)
            progress(f"repeat {repeat + 1}/{repeats}, keep rate {measured.stage.keep_rate:.4g}")
    flops = flops_per_image(config, [stage.num_kept for stage, _ in stages])
    return Profile(
        name=config.name,
        num_patches=schedule.num_patches,
        world_size=world.size,
        stages=[measured.profile(one) for measured, one in zip(found, flops, strict=True)],
        matmul_flops_per_s=bench.matmul_flops_per_s() if trains else None,
        peak_memory_bytes=bench.peak_memory_bytes(),
    )


def _warmed_up(bench: Bench, stage: Stage, share: float, *, trains: bool, seconds: float) -> Measured:
    """A stage whose shapes have all been seen once, with the numbers of steps that take about ``seconds``."""
    loader_s, batch = bench.time_loader(stage, _MIN_STEPS)
    step_s = 0.0
    if trains:
        bench.time_steps(batch, _MIN_STEPS)
        step_s, _ = bench.time_steps(batch, _MIN_STEPS)

    def steps(taken_s: float) -> int:
        return max(_MIN_STEPS, math.ceil(seconds * _MIN_STEPS / taken_s)) if taken_s else _MIN_STEPS

    return Measured(stage, share, batch, steps(loader_s), steps(step_s), steps(max(loader_s, step_s)))


def _measure(bench: Bench, measured: Measured, global_batch_size: int, *, loads: bool, trains: bool) -> None:
    if loads:
        loader_s, _ = bench.time_loader(measured.stage, measured.loader_steps)
        measured.loader.append(measured.loader_steps * global_batch_size / loader_s)
    if trains:
        bench.peak_device_memory_bytes()  # from here on
        step_s, parts_s = bench.time_steps(measured.batch, measured.train_steps)
        measured.step.append(measured.train_steps * global_batch_size / step_s)
        measured.parts_ms.append({part: 1000 * taken_s / measured.train_steps for part, taken_s in parts_s.items()})
        measured.peak_device_memory_bytes = bench.peak_device_memory_bytes()
    if loads and trains:
        both_s, wait_share = bench.time_both(measured.stage, measured.both_steps)
        measured.both.append(measured.both_steps * global_batch_size / both_s)
        measured.wait_shares.append(wait_share)
