"""A run's loader and engine on the bench: the loader alone, the training step alone, and one feeding the other.

Every measurement is a number of optimizer steps that all ranks agree on beforehand, so nothing is exchanged while the
clock runs but what training itself exchanges. Its time is that of the slowest rank.
"""

import itertools
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import record_function

from engine.average import WeightAverage, trained_weights
from engine.bad_data import read_batches
from engine.deepspeed_engine import build_engine
from engine.loading import open_loader
from engine.models.masked_autoencoder import MaskedAutoencoder
from engine.optim import set_learning_rate
from engine.prepare import Prepared
from engine.ranks.world import World, agree
from engine.run.anchor import Anchor
from engine.snapshots import take_snapshot
from engine.task import training_loss
from engine.timing.laps import MARKS, Laps
from engine.update import backward_pass, begin_pass, update_weights
from pipeline.batch import Batch
from pipeline.graph.settings import GraphSettings
from pipeline.loader import PatchLoader
from pipeline.plan.examples import SampleScores
from pipeline.plan.schedule import Stage
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.snapshots import fixed_board
from tools.profile.loader import End, LoaderTimes, splices, time_loader, time_loader_until
from tools.profile.trace import chrome_trace, communication_s, profiled

_PROFILED_STEPS = 2  # at a time; torch's profiler slows them down a little
_MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}
_MATMUL_REPEATS = 5
# Batches that a loader may hold ready beyond its queue: two in DALI's, one in the thread's hands.
_BATCHES_IN_THE_GRAPH = 3


def plans_at(
    planner: TrainPlanner, stage: Stage, first_step: int, micro_batch_size: int, world: World
) -> Iterator[StepPlan]:
    """A rank's micro batches from ``first_step`` on, all at one stage; after the run's last step comes its first.

    Where examples follow from scores, none of them is known: what is left out takes no time, whichever it is.
    """
    scores, schedule = None, planner.schedule
    for count in itertools.count(first_step):
        step = count % schedule.total_steps
        if planner.needs_scores(step) and (scores is None or scores.step != schedule.epochs.first_step(step)):
            scores = SampleScores.unknown(schedule.epochs.first_step(step), len(planner.samples.label))
        plan = planner.plan_at(stage, step, world.rank, world.size, scores)
        yield from plan.micro_batches(micro_batch_size)


@contextmanager
def lap(laps: Laps, part: str) -> Iterator[None]:
    """One part of a loop, by its name, which a trace shows too; it began where the one before it ended."""
    with record_function(part):
        yield
    laps.end(part)


class Bench:
    """A run's loader and engine, to be timed. All methods are collective.

    Args:
        trains: whether training steps will be timed; otherwise no engine is built.
    """

    def __init__(self, prepared: Prepared, world: World, *, trains: bool) -> None:
        self._prepared, self._world = prepared, world
        self._next_step = 0  # every measurement goes on in the data where the one before it stopped
        self._loaded_from = 0  # where the last measurement of the loader began
        config, model = prepared.config, prepared.model
        self._board = None
        if config.selection.needs_model:
            # The model is fresh, so this is what the first batches of a run are selected by.
            snapshot = take_snapshot(model.encoder if isinstance(model, MaskedAutoencoder) else model, 0)
            self._board = fixed_board(snapshot)
        self._average: WeightAverage | None = None
        self._anchor: Anchor | None = None
        if trains:
            model = model.to(world.device)
            if config.train.ema_decay is not None:
                self._average = WeightAverage(model, config.train.ema_decay)
            self._engine = build_engine(config, prepared.plan, model)
            self._engine.train()
            if prepared.anchored_to is not None:
                self._anchor = Anchor(self._engine, prepared.anchored_to, config.engine.zero_stage)
            # One batch thousands of times over must not lead the weights anywhere; a step costs the same at rate 0.
            set_learning_rate(self._engine.optimizer, 0.0)

    def time_loader(self, stage: Stage, num_steps: int) -> LoaderTimes:
        """What the loader takes for so many steps: the time of the slowest rank, all else as means over the ranks."""
        num_passes, self._loaded_from = self._num_passes(stage), self._next_step
        with self._open(stage, num_steps) as loader:
            num_warmup = self._warmup_steps(stage) * num_passes
            found = time_loader(loader, read_batches(loader), num_warmup, num_steps * num_passes)
        return LoaderTimes(
            self._slowest(found.elapsed_s),
            self._mean(found.cpu_ms_per_image),
            self._mean(found.thread_us_per_image),
            self._mean(found.bytes_read_per_image),
            self._mean(found.pages_read_per_image),
            found.last.to(self._world.device),
        )

    def decode_cpu_ms_per_image(self, stage: Stage, num_steps: int) -> float:
        """Processor time of the whole process for an image, of a loader that ends after decoding; the ranks' mean.

        It decodes the crops of the ``time_loader`` before it.
        """
        self._next_step = self._loaded_from
        cpu_s = self._until("decode", stage, num_steps, time.process_time)
        return self._mean(1000 * cpu_s * self._world.size / (num_steps * self._prepared.config.train.global_batch_size))

    def time_loader_until(self, end: End, stage: Stage, num_steps: int) -> float:
        """Seconds in which the slowest rank makes its batches of so many steps, up to a part of the work."""
        return self._slowest(self._until(end, stage, num_steps, time.perf_counter))

    def _until(self, end: End, stage: Stage, num_steps: int, clock: Callable[[], float]) -> float:
        prepared = self._prepared
        settings = replace(self.loader_settings, batch_size=prepared.plan.micro_batches.size(stage.num_kept))
        dist.barrier()
        return time_loader_until(
            end,
            self._plans(stage, num_steps),
            num_steps * self._num_passes(stage),
            index=prepared.train_index,
            settings=settings,
            substitutes=prepared.planner if prepared.config.data.on_bad_sample == "skip" else None,
            clock=clock,
        )

    def time_steps(self, batch: Batch, num_steps: int) -> tuple[float, dict[str, float]]:
        """Seconds of so many training steps on one batch on the slowest rank, and this rank's seconds by part."""
        dist.barrier()
        elapsed_s, parts = self._train(itertools.repeat(batch), num_steps, batch.plan.stage)
        return self._slowest(elapsed_s), parts

    def time_communication(self, batch: Batch) -> float:
        """Seconds of a step in which a rank exchanges gradients or weights, or waits for that; the ranks' mean."""
        if self._world.size == 1:
            return 0.0
        dist.barrier()
        with profiled(self._world.device) as recorded:
            self._train(itertools.repeat(batch), _PROFILED_STEPS, batch.plan.stage)
        taken_s = communication_s(recorded, self._world.device) / _PROFILED_STEPS
        return self._mean(taken_s)

    def trace(self, stage: Stage, batch: Batch | None) -> dict[str, Any]:
        """The first rank's Chrome trace of a few steps and of its loader, or of steps on one ``batch`` alone."""
        with ExitStack() as stack:
            if batch is not None:
                batches: Iterator[Batch] = itertools.repeat(batch)
            else:
                batches = read_batches(stack.enter_context(self._open(stage, _PROFILED_STEPS)))
                self._train(batches, self._warmup_steps(stage), stage)
            recorded = stack.enter_context(profiled(self._world.device, all_threads=True))
            with record_function(f"keep rate {stage.keep_rate:.4g}"):
                self._train(batches, _PROFILED_STEPS, stage)
        return chrome_trace(recorded) if self._world.is_first else {}

    def time_both(self, stage: Stage, num_steps: int) -> tuple[float, float, float]:
        """So many training steps fed by the loader.

        Returns:
            Their seconds on the slowest rank. Of these the share in which the host waited for the loader, and that in
            which the device was idle between steps, by its own clock; the ranks' means.
        """
        with self._open(stage, num_steps) as loader:
            batches = read_batches(loader)
            self._train(batches, self._warmup_steps(stage), stage)
            waited_before_s = loader.wait_s
            elapsed_s, parts_s = self._train(batches, num_steps, stage)
            wait_share, idle_share = (loader.wait_s - waited_before_s) / elapsed_s, parts_s["loader"] / elapsed_s
        return self._slowest(elapsed_s), self._mean(wait_share), self._mean(idle_share)

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
        dist.barrier()
        marks = []
        for _ in range(_MATMUL_REPEATS + 2):  # the first product warms up
            torch.matmul(a, a)
            marks.append(MARKS[device.type]())
        marks[-1].wait()
        times = [end.seconds_since(start) for start, end in itertools.pairwise(marks)]
        return self._reduced(2 * size**3 / min(times), dist.ReduceOp.SUM)

    def _num_passes(self, stage: Stage) -> int:
        return self._prepared.plan.micro_batches.steps(stage.num_kept)

    def _warmup_steps(self, stage: Stage) -> int:
        """Steps after which what a loader had ready at the start is used up."""
        ready = self._prepared.config.data.prefetch_batches + _BATCHES_IN_THE_GRAPH
        return math.ceil(ready / self._num_passes(stage))

    @cached_property
    def loader_settings(self) -> GraphSettings:
        """What the graph of the run's loader is built for; how many images at a time is for the stage to say."""
        with self._open(self._prepared.plan.schedule.stage(0), 0) as loader:
            return loader.settings

    @cached_property
    def splices(self) -> bool:
        """Whether the loader of any rank leaves units of images out."""
        return agree(self._world, splices(self._prepared.train_index, self.loader_settings))

    def _plans(self, stage: Stage, num_steps: int) -> Iterator[StepPlan]:
        """Plans for so many steps and a warm-up. They never end, and the next ones start behind these."""
        prepared, first_step = self._prepared, self._next_step
        self._next_step += self._warmup_steps(stage) + num_steps
        micro_batch_size = prepared.plan.micro_batches.size(stage.num_kept)
        return plans_at(prepared.planner, stage, first_step, micro_batch_size, self._world)

    def _open(self, stage: Stage, num_steps: int) -> PatchLoader:
        prepared = self._prepared
        return open_loader(
            prepared.planner,
            self._plans(stage, num_steps),
            prepared.config,
            self._world,
            batch_size=prepared.plan.micro_batches.size(stage.num_kept),
            snapshots=self._board,
        )

    def _train(self, batches: Iterator[Batch], num_steps: int, stage: Stage) -> tuple[float, dict[str, float]]:
        config, num_passes = self._prepared.config, self._num_passes(stage)
        self._synchronize()
        start, laps = time.perf_counter(), Laps.on(self._world.device)
        for _ in range(num_steps):
            for done in range(num_passes):
                with lap(laps, "loader"):
                    batch = next(batches).to(self._world.device)
                with lap(laps, "forward"):
                    begin_pass(self._engine, is_last=done == num_passes - 1)
                    loss = training_loss(self._engine, batch, config)
                with lap(laps, "backward"):
                    backward_pass(self._engine, loss, num_passes)
            with lap(laps, "optimizer"):
                if self._anchor is not None:
                    self._anchor.pull(measure=False)
                update_weights(self._engine, config, measure=False)
            if self._average is not None:
                with lap(laps, "optimizer"):
                    self._average.update(trained_weights(self._engine))
        self._synchronize()
        return time.perf_counter() - start, laps.seconds()

    def _synchronize(self) -> None:
        if self._world.device.type == "cuda":
            torch.cuda.synchronize()

    def _slowest(self, elapsed_s: float) -> float:
        return self._reduced(elapsed_s, dist.ReduceOp.MAX)

    def _mean(self, value: float) -> float:
        return self._reduced(value, dist.ReduceOp.SUM) / self._world.size

    def _reduced(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        tensor = torch.tensor(value, dtype=torch.float64, device=self._world.device)
        dist.all_reduce(tensor, operation)
        return float(tensor.item())
