"""A run's schedule before the run: its stages, their shares, and what training costs against full patches."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np

from engine.config import RunConfig
from engine.run_plan import build_schedule
from pipeline.config import StrengthName
from pipeline.growth import told
from pipeline.plan.examples import describe as describe_examples
from pipeline.plan.schedule import PatchSchedule, StageSummary
from pipeline.ramps import LOW_AND_HIGH
from pipeline.shards.data_sets import training_samples

_SIZES_HEAD = f"{'image_size':>11} {'patch_size':>11} "
_TABLE_ROWS = 24  # with rounding off, a stage for every number of patches would fill screens


@dataclass(frozen=True)
class Preview:
    """A schedule laid over its run.

    Attributes:
        relative_flops: of each stage, a training step's operations over those of a step at full patches of data's
            sizes.
    """

    config: RunConfig
    schedule: PatchSchedule
    stages: list[StageSummary]
    relative_flops: list[float]

    @property
    def relative_training_flops(self) -> float:
        """Operations of the whole run over those of as many steps at full patches."""
        return sum(stage.num_steps * flops for stage, flops in zip(self.stages, self.relative_flops, strict=True)) / (
            self.schedule.total_steps
        )

    @cached_property
    def strengths(self) -> dict[StrengthName, dict[str, float]]:
        """Of augmentation, those that follow a schedule: at the first step, at the last one, and their mean."""
        schedule, found = self.schedule, dict[StrengthName, dict[str, float]]()
        for name in schedule.strengths:
            total = sum(float(schedule.strengths_over(name, steps).sum()) for steps in schedule.chunks())
            ends = schedule.strengths_over(name, np.array([0, schedule.total_steps - 1])).tolist()
            found[name] = {"first": ends[0], "last": ends[1], "mean": total / schedule.total_steps}
        return found

    def as_json(self) -> dict[str, Any]:
        of_each = {name: one.model_dump() for name, one in self.schedule.strengths.items()}
        strengths = {name: {**of_each[name], **numbers} for name, numbers in self.strengths.items()}
        return {
            "total_steps": self.schedule.total_steps,
            "num_patches": self.schedule.num_patches,
            "mean_keep_rate": self.schedule.mean_keep_rate,
            "relative_training_flops": self.relative_training_flops,
            "stages": [asdict(stage) for stage in self.stages],
            **({"strengths": strengths} if strengths else {}),
            **({} if self.config.schedule.examples is None else {"examples": self._examples()}),
        }

    def _examples(self) -> dict[str, Any]:
        """What ``schedule.examples`` makes of the epochs."""
        assert self.config.schedule.examples is not None
        return {
            **self.config.schedule.examples.model_dump(),
            "num_short_epochs": self.schedule.epochs.num_short,
            "short_epoch_steps": self.schedule.epochs.short_steps,
            "full_epoch_steps": self.schedule.epochs.full_steps,
            "share_of_full_epochs": self.schedule.epochs.share_of_full(self.schedule.total_steps),
        }


def preview(config: RunConfig) -> Preview:
    """The schedule of a run. Opens the training index where ``data.num_train_samples`` is not stated.

    Raises:
        ValueError, OSError: a configuration that cannot be used, or a training set that cannot be opened.
    """
    num_samples = training_samples(config.data)
    schedule = build_schedule(config, num_samples)
    stages = schedule.stages()
    flops_of = flops_counter(config)
    flops = [flops_of(stage.num_kept, stage.patch_size) for stage in stages]
    full = flops_of(schedule.num_patches, None)
    return Preview(config, schedule, stages, [one / full for one in flops])


def flops_per_image(
    config: RunConfig, nums_kept: list[int], patch_sizes: Sequence[int | None] | None = None
) -> list[int]:
    """Floating-point operations of a training step for one image, at each number of patches; no decoder's.

    Args:
        patch_sizes: of the patches, in pixels, one for each number; None: that of ``data``.
    """
    flops_of = flops_counter(config)
    return [flops_of(*stage) for stage in zip(nums_kept, patch_sizes or [None] * len(nums_kept), strict=True)]


def flops_counter(config: RunConfig) -> Callable[[int, int | None], int]:
    """What tells ``flops_per_image`` of one stage, from its number of patches and their size, again and again."""
    import torch  # here, so that a mistake in the configuration is reported at once

    from engine.evaluation.trained import build_run_model
    from engine.models.build import training_flops_per_image

    with torch.device("meta"):  # no weights: layer sizes are all that counts
        model = build_run_model(config)
    return cache(partial(training_flops_per_image, model))


def describe(shown: Preview) -> str:
    """The preview as a table for people."""
    config, schedule, with_sizes = shown.config, shown.schedule, bool(shown.config.schedule.sizes)
    lines = [
        f"{config.name}: {title_of(config)}; {schedule.num_patches} patches, {schedule.total_steps:,} steps of "
        f"{schedule.global_batch_size} images, {schedule.steps_per_epoch:,} steps an epoch",
        "",
        f"{'keep rate':>9} {'num_kept':>9} {_SIZES_HEAD if with_sizes else ''}{'share':>8} {'steps':>11} "
        f"{'first step':>11} {'last step':>11} {'FLOPs':>8}",
    ]
    rows = [
        f"{stage.keep_rate:>9.4g} {stage.num_kept:>9} {_sizes(stage) if with_sizes else ''}{stage.share:>8.1%} "
        f"{stage.num_steps:>11,} {stage.first_step:>11,} {stage.last_step:>11,} {flops:>8.1%}"
        for stage, flops in zip(shown.stages, shown.relative_flops, strict=True)
    ]
    if len(rows) > _TABLE_ROWS:
        half = _TABLE_ROWS // 2
        rows[half:-half] = [f"{'...':>9} {len(rows) - 2 * half} more stages (all of them with --json)"]
    return "\n".join(
        [
            *lines,
            *rows,
            "",
            f"mean keep rate {schedule.mean_keep_rate:.3f}; training FLOPs {shown.relative_training_flops:.1%} of "
            "those at full patches"
            + (f" of {config.data.image_size} pixels" if with_sizes else "")
            + (", without the decoder" if config.task == "pretrain" else ""),
            *(
                f"{name} {schedule.strengths[name].kind}: {of['first']:.4g} at the first step, {of['last']:.4g} at the "
                f"last, mean {of['mean']:.4g}"
                for name, of in shown.strengths.items()
            ),
            *describe_examples(config.schedule.examples, schedule.epochs, schedule.total_steps),
            *([told(config.data.growth)] if config.data.growth else []),
        ]
    )


def _sizes(stage: StageSummary) -> str:
    return f"{stage.image_size:>11} {stage.patch_size:>11} "


def title_of(config: RunConfig) -> str:
    """The schedule of a run in a few words, such as ``cyclic (0.2 to 1)``."""
    schedule = config.schedule
    if schedule.of_kind.form is LOW_AND_HIGH:
        low, high = schedule.rates()
        text = f"{schedule.kind} ({low:g} to {high:g})"
    else:
        text = schedule.kind
    for axis, one in schedule.sizes.items():
        text += f", {axis} {one.kind} ({min(one.named)} to {max(one.named)} pixels)"
    return f"{text}, cooldown {schedule.cooldown}" if schedule.cooldown.amount else text
