"""A run in numbers: durations become steps here, and batches are divided over ranks here, once."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.config import RunConfig
from engine.values.decay import DECAYS, Progress
from pipeline.growth import EpochLengths
from pipeline.plan.augmentation import check_pairs
from pipeline.plan.epochs import run_steps
from pipeline.plan.rows import earlier_epochs, rank_rows, steps_per_epoch
from pipeline.plan.schedule import PatchSchedule
from pipeline.settings import MOST_STEPS, Duration

_BUCKET_BYTES = 25_000_000  # of gradients, or of weights, that ZeRO-1 and 2 exchange at a time
_BYTES_EXCHANGED = {"fp32": 4, "bf16": 2}  # for a number, under ZeRO


@dataclass(frozen=True)
class MicroBatches:
    """How a rank's share of every global batch is cut into forward passes, by the number of patches kept.

    With ``most_tokens`` the micro batches grow where fewer are kept (at a lower keep rate, of a smaller image or of
    larger patches), so that each is about the same work: the largest that divide the share and stay within the limit.
    Work follows the tokens, not the pixels in them, which go through one matrix product alone. A smallest micro batch,
    of one image or one pair, is allowed to be over the limit. What is trained on stays the same, only rounding and the
    draws of dropout and drop path differ.

    Attributes:
        share: the rank's images in a global batch.
        smallest: images that cannot be parted: 2 where images are mixed in pairs, else 1.
        fixed_size: images in a micro batch where ``most_tokens`` is None.
        most_tokens: tokens in a forward pass at the most, where an image has one for each kept patch and one more.
    """

    share: int
    smallest: int
    fixed_size: int
    most_tokens: int | None = None

    def size(self, num_kept: int) -> int:
        """Images per forward pass on one rank."""
        if self.most_tokens is None:
            return self.fixed_size
        fitting = max(self.smallest, self.most_tokens // (num_kept + 1))
        return max(size for size in self._divisors if size <= fitting)

    def steps(self, num_kept: int) -> int:
        """Forward passes per optimizer step."""
        return self.share // self.size(num_kept)

    @cached_property
    def _divisors(self) -> list[int]:
        return [size for size in range(self.smallest, self.share + 1, self.smallest) if self.share % size == 0]


@dataclass(frozen=True)
class RunPlan:
    """What the trainer needs to know about time and batches.

    Attributes:
        eval_every, checkpoint_every: in steps, None for the end of the run only.
        keep_every: in steps, None if no checkpoint is kept for ever.
        decay_over: what the decay of the learning rate counts, one of ``DECAYS``.
    """

    schedule: PatchSchedule
    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    micro_batches: MicroBatches
    eval_every: int | None
    checkpoint_every: int | None
    keep_every: int | None
    decay_over: str = "steps"

    @cached_property
    def decay(self) -> Progress:
        """How far the decay of the learning rate has come at a step after the warm-up, 0 to 1."""
        return DECAYS[self.decay_over].progress(self.schedule, self.warmup_steps)

    @property
    def rows_per_rank(self) -> int:
        """A rank's part of the global batch."""
        return self.micro_batches.share


def build_schedule(config: RunConfig, num_train_samples: int) -> PatchSchedule:
    """The run's patch schedule. Needs the size of the training set and nothing else of it.

    Raises:
        ValueError: the batch is larger than the data set, or the run has no step, more than ``MOST_STEPS``, or none
            over what a set has grown by.
    """
    batch = config.train.global_batch_size
    per_epoch = steps_per_epoch(num_train_samples, batch)
    examples = config.schedule.examples
    earlier = earlier_epochs(config.data.growth, batch)
    keep = None if examples is None else examples.keep
    total_steps = run_steps(config.train.duration, per_epoch, batch, keep, earlier)
    if total_steps > MOST_STEPS:
        raise ValueError(
            f"train.duration {config.train.duration} comes to {total_steps:,} steps of {batch:,} images; a run has at "
            f"most {MOST_STEPS:,}: shorten it, or choose a larger train.global_batch_size"
        )
    if earlier and total_steps <= (first := int(EpochLengths(per_epoch, earlier).before(earlier[-1][0]))):
        raise ValueError(
            f"data.growth: nothing of the larger training set would be seen: it counts from step {first} on (epoch "
            f"{earlier[-1][0]}, from 0), and train.duration {config.train.duration} ends at step {total_steps}; raise "
            "it"
        )
    return PatchSchedule(
        config.schedule,
        config.data.num_patches,
        total_steps,
        per_epoch,
        batch,
        config.seed,
        config.data.image_size,
        config.data.patch_size,
        config.data.augment.schedules,
        earlier,
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
    micro_batches = plan_micro_batches(config, world_size)

    def steps(duration: Duration) -> int:
        return duration.steps(schedule.steps_per_epoch, batch)

    def interval(name: str, duration: Duration | None) -> int | None:
        if duration is not None and steps(duration) < 1:
            raise ValueError(f"{name} {duration} is less than one step of {batch} images")
        return None if duration is None else steps(duration)

    warmup_steps = run_steps(config.optim.warmup, schedule.steps_per_epoch, batch, None, schedule.earlier)
    if warmup_steps >= schedule.total_steps:
        raise ValueError(
            f"optim.warmup of {warmup_steps} steps does not fit a run of {schedule.total_steps} steps; shorten it"
        )
    return RunPlan(
        schedule=schedule,
        total_steps=schedule.total_steps,
        steps_per_epoch=schedule.steps_per_epoch,
        warmup_steps=warmup_steps,
        micro_batches=micro_batches,
        eval_every=interval("eval.every", config.eval.every),
        checkpoint_every=interval("checkpoint.every", config.checkpoint.every),
        keep_every=interval("checkpoint.keep_every", config.checkpoint.keep_every),
        decay_over=config.optim.decay_over,
    )


def plan_micro_batches(config: RunConfig, world_size: int) -> MicroBatches:
    """How each of ``world_size`` ranks cuts its share of a global batch.

    Raises:
        ValueError: as ``plan_run``.
    """
    batch = config.train.global_batch_size
    _, share = rank_rows(batch, 0, world_size)
    fixed = config.train.micro_batch_size or share
    if share % fixed:
        raise ValueError(
            f"train.global_batch_size {batch} on {world_size} ranks is {share} images a rank, which "
            f"train.micro_batch_size {fixed} does not divide; choose a multiple of {fixed * world_size}"
        )
    in_pairs = config.data.augment.mixes
    if in_pairs:
        check_pairs(fixed, "images in a micro batch")
    return MicroBatches(share, 2 if in_pairs else 1, fixed, config.train.tokens_per_micro_batch)


def clips_itself(config: RunConfig) -> bool:
    """Whether the trainer clips the gradients. Under ZeRO-3 DeepSpeed does, which divides every single one of them.

    DeepSpeed's clipping takes a norm and more for each parameter, an all-reduce for each group of them, and waits for
    the device.
    """
    return config.engine.zero_stage < 3


def trains_under_autocast(config: RunConfig) -> bool:
    """Whether weights are float32 throughout, and forward and backward passes compute in bfloat16 by autocast."""
    return config.engine.precision == "bf16" and config.engine.zero_stage == 0


def deepspeed_config(config: RunConfig, plan: RunPlan, *, load_universal: bool = False) -> dict[str, Any]:
    """The dictionary DeepSpeed is initialised with; it has no other source than the run's configuration.

    Its accumulation steps are those of the stage that takes most; the trainer says itself where a step ends.

    ``load_universal``: the checkpoint to be loaded is a conversion from another number of ranks.
    """
    most_kept = max(stage.num_kept for stage in plan.schedule.stages())
    return {
        "train_batch_size": config.train.global_batch_size,
        "train_micro_batch_size_per_gpu": plan.micro_batches.size(most_kept),
        "gradient_accumulation_steps": plan.micro_batches.steps(most_kept),
        "gradient_clipping": 0.0 if clips_itself(config) else config.train.clip_grad_norm or 0.0,
        "zero_optimization": _zero(config, num_ranks=config.train.global_batch_size // plan.rows_per_rank),
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # on a GPU it waits for the device twice a pass
        "checkpoint": {"load_universal": load_universal},
        **_precision(config),
    }


def _zero(config: RunConfig, num_ranks: int) -> dict[str, Any]:
    stage = config.engine.zero_stage
    if stage not in (1, 2):
        return {"stage": stage}
    bucket = _BUCKET_BYTES // _BYTES_EXCHANGED[config.engine.precision]
    return {
        "stage": stage,
        # A rank by itself has nothing to overlap, and with this on it waits for its device after each backward pass.
        "overlap_comm": num_ranks > 1,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }


def _precision(config: RunConfig) -> dict[str, Any]:
    if config.engine.precision == "fp32":
        return {}
    if trains_under_autocast(config):
        return {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}
    # The check takes a dozen operations for each parameter and a wait, and skips the step in silence. Gradients that
    # are not finite lead to weights that are not, which ends the run.
    return {"bf16": {"enabled": True, "check_grad_overflow": False}}
