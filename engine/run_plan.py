"""A run in numbers: durations become steps here, and batches are divided over ranks here, once."""

from dataclasses import dataclass
from typing import Any

from engine.config import RunConfig
from pipeline.augment_plan import check_pairs
from pipeline.config import Duration
from pipeline.plan import rank_rows, steps_per_epoch
from pipeline.schedule import PatchSchedule


@dataclass(frozen=True)
class RunPlan:
    """What the trainer needs to know about time and batches.

    Attributes:
        micro_batch_size: images per forward pass on one rank.
        accumulation_steps: forward passes per optimizer step.
        eval_every, checkpoint_every: in steps, None for the end of the run only.
        keep_every: in steps, None if no checkpoint is kept for ever.
    """

    schedule: PatchSchedule
    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    micro_batch_size: int
    accumulation_steps: int
    eval_every: int | None
    checkpoint_every: int | None
    keep_every: int | None

    @property
    def rows_per_rank(self) -> int:
        """A rank's part of the global batch."""
        return self.micro_batch_size * self.accumulation_steps


def build_schedule(config: RunConfig, num_train_samples: int) -> PatchSchedule:
    """The run's patch schedule. Needs the size of the training set and nothing else of it.

    Raises:
        ValueError: the batch is larger than the data set, or the run has no step.
    """
    batch = config.train.global_batch_size
    per_epoch = steps_per_epoch(num_train_samples, batch)
    return PatchSchedule(
        config.schedule,
        config.data.num_patches,
        config.train.duration.steps(per_epoch, batch),
        per_epoch,
        batch,
        config.seed,
    )


def plan_run(config: RunConfig, num_train_samples: int, world_size: int) -> RunPlan:
    """The run on ``world_size`` ranks.

    Raises:
        ValueError: more ranks than samples, a global batch that ranks and micro batches do not divide, or micro batches
            that are no pairs of images though images are mixed in pairs.
    """
    batch = config.train.global_batch_size
    if world_size > num_train_samples:
        raise ValueError(f"{world_size} ranks cannot share {num_train_samples} training samples; use fewer ranks")
    schedule = build_schedule(config, num_train_samples)
    _, rows = rank_rows(batch, 0, world_size)
    micro = config.train.micro_batch_size or rows
    if rows % micro:
        raise ValueError(
            f"train.global_batch_size {batch} on {world_size} ranks is {rows} images a rank, which "
            f"train.micro_batch_size {micro} does not divide; choose a multiple of {micro * world_size}"
        )
    if config.data.augment.mixes:
        check_pairs(micro, "images in a micro batch")

    def steps(duration: Duration) -> int:
        return duration.steps(schedule.steps_per_epoch, batch)

    def interval(name: str, duration: Duration | None) -> int | None:
        if duration is not None and steps(duration) < 1:
            raise ValueError(f"{name} {duration} is less than one step of {batch} images")
        return None if duration is None else steps(duration)

    warmup_steps = steps(config.optim.warmup)
    if warmup_steps >= schedule.total_steps:
        raise ValueError(
            f"optim.warmup of {warmup_steps} steps does not fit a run of {schedule.total_steps} steps; shorten it"
        )
    return RunPlan(
        schedule=schedule,
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        warmup_steps=warmup_steps,
        micro_batch_size=micro,
        accumulation_steps=rows // micro,
        eval_every=interval("eval.every", config.eval.every),
        checkpoint_every=interval("checkpoint.every", config.checkpoint.every),
        keep_every=interval("checkpoint.keep_every", config.checkpoint.keep_every),
    )


def deepspeed_config(config: RunConfig, plan: RunPlan, *, load_universal: bool = False) -> dict[str, Any]:
    """The dictionary DeepSpeed is initialised with; it has no other source than the run's configuration.

    ``load_universal``: the checkpoint to be loaded is a conversion from another number of ranks.
    """
    result: dict[str, Any] = {
        "train_batch_size": config.train.global_batch_size,
        "train_micro_batch_size_per_gpu": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.accumulation_steps,
        "gradient_clipping": config.train.clip_grad_norm or 0.0,
        "zero_optimization": {"stage": config.engine.zero_stage},
        "steps_per_print": 10**9,
        "checkpoint": {"load_universal": load_universal},
    }
    if config.engine.precision == "bf16":
        result["bf16"] = {"enabled": True}
    return result
