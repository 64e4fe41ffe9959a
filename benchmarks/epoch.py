"""One epoch of a schedule, end to end, against full patches and against dropping patches inside the model.

    python -m benchmarks.epoch

A ViT at 224 on photographs (made at first use). An epoch is shortened to a stated number of steps, which the cyclic
schedule parts among its stages as it does a real one. Our side is the run's loader and DeepSpeed engine as training
sets them up. timm's side is its own loader of the same shards, its model and a plain loop in PyTorch, with the same
optimizer, clipping and numbers of threads, under --precision bf16 with float32 weights and autocast to bfloat16: with
every patch, and with its patch dropout set to each stage's number of patches. The contenders take turns, several times
over, in one process; a few steps before the clock starts warm each up. Recorded for every stage: seconds a step, and
the share of them between a step's end and the next batch's being on the device, both by events on a GPU, by the host's
clock on a CPU. About eight minutes on two cores. Writes benchmarks/results/epoch.json.
"""

import argparse
import logging
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.loader_peers import Setting, stopped_workers, timm_webdataset_loader
from benchmarks.measuring import benchmark_parser, fork_workers_safely, keep_to_cores, spread, write_result
from benchmarks.photographs import write_photographs
from engine.config import RunConfig
from engine.deepspeed_engine import build_engine, quiet
from engine.loading import open_loader
from engine.optim import build_optimizer, param_groups
from engine.prepare import Prepared, prepare
from engine.ranks.world import World, join_world, leave_world
from engine.task import training_loss
from engine.timing.laps import MARKS
from engine.update import backward_pass, begin_pass, update_weights
from pipeline.plan.schedule import PatchSchedule
from pipeline.plan.step import TrainPlanner
from pipeline.train_plans import TrainPlans

MODEL, NUM_CLASSES, NUM_PATCHES = "vit_tiny_patch16_224", 10, 196
FULL: dict[str, Any] = {"schedule": {"kind": "constant", "keep_rate": 1.0}}
CYCLIC: dict[str, Any] = {"schedule": {"kind": "cyclic", "keep_rate": [0.2, 1.0]}}
# Our contenders by name, as sections of the run's configuration. One line for each further one.
OURS: dict[str, dict[str, Any]] = {
    "ours, full patches": FULL,
    "ours, cyclic": CYCLIC,
}
# timm's: those of ours whose stages they follow.
TIMM = {
    "timm, full patches": "ours, full patches",
    "timm, cyclic by patch dropout": "ours, cyclic",
}
# What is hoped for: an epoch's time over another's, and the share of a stage spent waiting.
TARGETS = {
    ("ours, cyclic", "ours, full patches"): 0.66,
    ("ours, cyclic", "timm, full patches"): 0.62,
    ("ours, cyclic", "timm, cyclic by patch dropout"): None,
}
MAX_WAIT_SHARE = 0.03
WARMUP_STEPS = 3
_MANY_EPOCHS = 1000


@dataclass(frozen=True)
class StepTime:
    """One training step: the patches it kept, its seconds, and those of them before its batch was on the device."""

    num_kept: int
    total_s: float
    wait_s: float


def config_values(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": "epoch",
        "data": {
            "train": str(options.data),
            "val": str(options.data),
            "num_classes": NUM_CLASSES,
            "num_threads": options.cores,
        },
        "selection": {"rule": "random"},
        "model": {"name": options.model},
        "train": {"duration": "1epochs", "global_batch_size": options.batch_size, "label_smoothing": 0.1},
        "optim": {"lr": 1e-4},
        "engine": {"num_threads": options.cores, "precision": options.precision},
    }


def prepared_run(sections: dict[str, Any], options: argparse.Namespace, world: World) -> Prepared:
    """A run's configuration with these sections, looked at as training does."""
    return prepare(RunConfig.model_validate(config_values(options) | sections), world)


def shortened(prepared: Prepared, num_steps: int) -> TrainPlanner:
    """The run's planner with many epochs of so few steps."""
    config = prepared.config
    batch_size = config.train.global_batch_size
    schedule = PatchSchedule(
        config.schedule, config.data.num_patches, num_steps * _MANY_EPOCHS, num_steps, batch_size, config.seed
    )
    return replace(prepared.planner, schedule=schedule)


def timed_steps(
    batches: Iterator[Any], train: Callable[[Any, int], None], nums_kept: list[int], device: torch.device
) -> list[StepTime]:
    """One step for each number of patches, by the device's clock. The host waits for it at the end only.

    Args:
        batches: of tensors on the device, though what brings them there may still be under way.
    """
    new_mark = MARKS[device.type]
    marks = [new_mark()]
    for num_kept in nums_kept:
        batch = next(batches)
        marks.append(new_mark())
        train(batch, num_kept)
        marks.append(new_mark())
    marks[-1].wait()
    steps = zip(nums_kept, marks[0::2], marks[1::2], marks[2::2], strict=False)
    return [
        StepTime(num_kept, end.seconds_since(start), arrived.seconds_since(start))
        for num_kept, start, arrived, end in steps
    ]


class OurSide:
    """One engine, which the loaders of all our contenders feed."""

    def __init__(self, options: argparse.Namespace, world: World) -> None:
        self._world = world
        self.runs = {name: prepared_run(sections, options, world) for name, sections in OURS.items()}
        self.planners = {name: shortened(run, options.steps) for name, run in self.runs.items()}
        first = next(iter(self.runs.values()))
        self._engine = build_engine(first.config, first.plan, first.model.to(world.device))
        self._engine.train()

    def nums_kept(self, name: str, steps: range) -> list[int]:
        return [self.planners[name].schedule.stage(step).num_kept for step in steps]

    def epoch(self, name: str, warmup: range, steps: range) -> list[StepTime]:
        """The steps' times, after a warm-up on the steps before them."""
        run, planner, world = self.runs[name], self.planners[name], self._world
        # The plans go on beyond the last step, so that the loader works until the clock stops.
        plans = TrainPlans(
            planner,
            first_step=warmup.start,
            stop_step=planner.schedule.total_steps,
            micro_batch_size=run.plan.micro_batches.size,
        )
        loader = open_loader(planner, plans, run.config, world, batch_size=run.plan.micro_batches.fixed_size)

        def train(batch: Any, num_kept: int) -> None:
            assert batch.plan.stage.num_kept == num_kept
            begin_pass(self._engine, is_last=True)
            backward_pass(self._engine, training_loss(self._engine, batch, run.config), num_passes=1)
            update_weights(self._engine, run.config, measure=False)

        with closing(loader):
            batches = (batch.to(world.device) for batch in loader)
            timed_steps(batches, train, self.nums_kept(name, warmup), world.device)
            return timed_steps(batches, train, self.nums_kept(name, steps), world.device)


class TimmSide:
    """timm's model and loader in a plain loop."""

    def __init__(self, options: argparse.Namespace, world: World, like: Prepared) -> None:
        self._device, self._config = world.device, like.config
        self._setting = Setting(options.data, 224, 16, NUM_CLASSES, options.batch_size, options.cores)
        with world.device:
            self._model = timm.create_model(options.model, num_classes=NUM_CLASSES, patch_drop_rate=0.5).train()
        optim = like.config.optim
        groups = param_groups(self._model, weight_decay=optim.weight_decay)
        self._optimizer = build_optimizer(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
        self._loss = nn.CrossEntropyLoss(label_smoothing=like.config.train.label_smoothing)
        in_bf16 = options.precision == "bf16"
        self._autocast = torch.autocast(world.device.type, torch.bfloat16) if in_bf16 else nullcontext()

    def epoch(self, warmup: list[int], nums_kept: list[int]) -> list[StepTime]:
        """The times of a step for each number of patches, after a warm-up."""
        with stopped_workers(timm_webdataset_loader(self._setting, self._device)) as batches:
            timed_steps(batches, self._train, warmup, self._device)
            return timed_steps(batches, self._train, nums_kept, self._device)

    def _train(self, batch: tuple[torch.Tensor, torch.Tensor], num_kept: int) -> None:
        images, labels = batch
        # timm keeps int(N * (1 - prob)) patches.
        self._model.patch_drop.prob = 0.0 if num_kept == NUM_PATCHES else 1 - (num_kept + 0.5) / NUM_PATCHES
        with self._autocast:
            loss = self._loss(self._model(images), labels)
        loss.backward()
        if self._config.train.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.train.clip_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()


def stage_lines(repeats: list[list[StepTime]]) -> list[dict[str, Any]]:
    """For each number of patches: steps of an epoch, seconds a step and share of waiting over the repeats."""
    lines = []
    for num_kept in sorted({one.num_kept for one in repeats[0]}):
        parts = [[one for one in epoch if one.num_kept == num_kept] for epoch in repeats]
        totals = [sum(one.total_s for one in part) for part in parts]
        waits = [sum(one.wait_s for one in part) / total for part, total in zip(parts, totals, strict=True)]
        steps = len(parts[0])
        step_s = spread([total / steps for total in totals])
        lines.append({"num_kept": num_kept, "steps": steps, "step_s": step_s, "wait_share": spread(waits)})
    return lines


def compare(options: argparse.Namespace, world: World) -> dict[str, Any]:
    """The contenders in turn, several times over."""
    ours = OurSide(options, world)
    theirs = TimmSide(options, world, next(iter(ours.runs.values())))
    steps = range(options.steps, 2 * options.steps)
    warmup = range(options.steps - min(WARMUP_STEPS, options.steps), options.steps)
    measured: dict[str, list[list[StepTime]]] = {name: [] for name in options.only}
    with tqdm(total=options.repeats * len(measured), unit="epoch", disable=not sys.stderr.isatty()) as bar:
        for _ in range(options.repeats):
            for name, epochs in measured.items():
                if name in OURS:
                    epochs.append(ours.epoch(name, warmup, steps))
                else:
                    followed = TIMM[name]
                    epochs.append(theirs.epoch(ours.nums_kept(followed, warmup), ours.nums_kept(followed, steps)))
                bar.update()
    epoch_s = {name: [sum(one.total_s for one in epoch) for epoch in epochs] for name, epochs in measured.items()}
    return {
        "contenders": [
            {"contender": name, "epoch_s": spread(epoch_s[name]), "stages": stage_lines(epochs)}
            for name, epochs in measured.items()
        ],
        "ratios": [
            {
                "epoch_of": one,
                "over": other,
                "ratio": spread([a / b for a, b in zip(epoch_s[one], epoch_s[other], strict=True)]),
                "target": target,
            }
            for (one, other), target in TARGETS.items()
            if one in measured and other in measured
        ],
        "max_wait_share": MAX_WAIT_SHARE,
    }


def describe(found: dict[str, Any]) -> str:
    """Epochs, stages and ratios as text."""
    rows = []
    for line in found["contenders"]:
        epoch = line["epoch_s"]
        rows.append(f"{line['contender']:30} {epoch['median']:7.2f} s ({epoch['min']:.2f} to {epoch['max']:.2f})")
        rows += [
            f"    {stage['num_kept']:4} patches: {stage['steps']} steps of {1000 * stage['step_s']['median']:.0f} ms, "
            f"{stage['wait_share']['median']:.1%} waiting"
            for stage in line["stages"]
        ]
    for line in found["ratios"]:
        ratio, target = line["ratio"], "" if line["target"] is None else f", hoped for: {line['target']}"
        rows.append(
            f"{line['epoch_of']} over {line['over']}: {ratio['median']:.3f} "
            f"({ratio['min']:.3f} to {ratio['max']:.3f}){target}"
        )
    waits = [
        statistics.median(stage["wait_share"]["values"])
        for line in found["contenders"]
        if line["contender"] in OURS
        for stage in line["stages"]
    ]
    if waits:
        rows.append(f"longest wait of ours in a stage: {max(waits):.1%}, hoped for: under {MAX_WAIT_SHARE:.0%}")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = benchmark_parser("epoch", __doc__)
    parser.add_argument("--cores", type=int, default=2, help="cores, and threads of each part (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=18, help="of an epoch (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--model", default=MODEL, help="a ViT of timm's, patches of 16 at 224 (default: %(default)s)")
    names = (*OURS, *TIMM)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="contenders (default: all)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    keep_to_cores(options.cores)
    fork_workers_safely()
    write_photographs(options.data, options.photographs, workers=options.cores)
    quiet()
    logging.getLogger("timm").setLevel(logging.ERROR)
    world = join_world()
    print(
        f"{options.model}, {options.precision}, on the {world.device.type}: {options.repeats} epochs of "
        f"{options.steps} steps of {options.batch_size} images for each of {', '.join(options.only)}",
        flush=True,
    )
    found = compare(options, world)
    leave_world()
    print(describe(found))
    told = ("model", "cores", "steps", "batch_size", "repeats", "precision")
    facts = {name: getattr(options, name) for name in told} | {"device": world.device.type}
    write_result(options.out, "benchmarks.epoch", argv, {**facts, **found}, load_before)


if __name__ == "__main__":
    main()
