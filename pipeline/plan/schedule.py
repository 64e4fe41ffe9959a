"""The patch sampling schedule: a pure map from a training step to the share of patches kept, to their size, and to the
strengths of augmentation that follow a schedule.

What each kind of schedule does stands in ``pipeline/ramps.py``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from pipeline.config import StrengthName
from pipeline.plan.epochs import Epochs
from pipeline.plan.examples import ExamplesConfig
from pipeline.plan.keyed import Stream, uniform_of_steps
from pipeline.plan.sizes import STREAMS, Axis, SizeScheduleConfig, check_fit
from pipeline.ramps import KINDS, RATES, Kind, Laid, StrengthScheduleConfig, numbers_of
from pipeline.settings import Duration, DurationField, Settings, one_of

_FORMS = "; ".join(f"{name}: {kind.form.text(RATES)}, {kind.about}" for name, kind in KINDS.items())

STRENGTH_STREAMS: dict[StrengthName, Stream] = {
    "magnitude": Stream.MAGNITUDE,
    "mixup": Stream.MIXUP,
    "cutmix": Stream.CUTMIX,
}

_FINEST_ROUNDING = 1e-6  # keep rates are written with nine digits


class ScheduleConfig(Settings):
    """The share of patches kept at every step. What ``keep_rate`` holds depends on ``kind``, one of ``ramps.KINDS``."""

    kind: Annotated[str, one_of(KINDS)] = Field(
        "constant", description="how the rate runs; each takes its own keep_rate"
    )
    keep_rate: float | list[float] | list[tuple[float, float]] = Field(1.0, description=_FORMS)
    rounding: float | None = Field(
        0.2, description="grid that linear, cosine and cyclic are rounded to; null turns rounding off"
    )
    cooldown: DurationField = Field(
        Duration.parse("0epochs"), description="length at the end of the run at full patches, of data's sizes"
    )
    image_size: SizeScheduleConfig | None = Field(
        None, description="a schedule of the image's side, in pixels; null: data.image_size throughout"
    )
    patch_size: SizeScheduleConfig | None = Field(
        None, description="a schedule of a patch's side, in pixels; null: data.patch_size throughout"
    )
    examples: ExamplesConfig | None = Field(
        None, description="epochs leave some of the examples out, until the last eighth of them; null: they see all"
    )

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "ScheduleConfig":
        for rate in self.rates():
            if not 0 < rate <= 1:
                raise ValueError(f"keep_rate: a keep rate lies in (0, 1], got {rate:g} for schedule kind {self.kind!r}")
        if self.rounding is not None and not 0 < self.rounding <= 1:
            raise ValueError(f"rounding is a grid in (0, 1] or null, got {self.rounding:g}")
        if self.rounding is not None and self.rounding < _FINEST_ROUNDING:
            raise ValueError(f"rounding is {_FINEST_ROUNDING:g} or more; null turns it off, got {self.rounding:g}")
        self.of_kind.form.check(self.keep_rate, self.rounding, self.kind, RATES)
        return self

    @property
    def of_kind(self) -> Kind:
        return KINDS[self.kind]

    @property
    def sizes(self) -> dict[Axis, SizeScheduleConfig]:
        """The sizes that follow a schedule of their own, by axis."""
        axes: dict[Axis, SizeScheduleConfig | None] = {"image_size": self.image_size, "patch_size": self.patch_size}
        return {axis: one for axis, one in axes.items() if one is not None}

    def rates(self) -> list[float]:
        """Every keep rate the configuration names; raises as ``numbers_of``."""
        return numbers_of(self.kind, self.keep_rate, RATES)

    def keep_rates(self, laid: Laid) -> np.ndarray:
        """Keep rate at each of some steps before the cooldown: float64, of their shape."""
        return self.of_kind.keep_rates(self.keep_rate, laid)


def nums_kept_at(keep_rates: np.ndarray | np.float64, num_patches: np.ndarray | int) -> np.ndarray:
    """``num_kept_at`` of many rates at once, unchecked: int64, of the same shape. ``num_patches``: one, or as many."""
    return np.round(keep_rates * (num_patches + 1)).astype(np.int64) - 1


def num_kept_at(keep_rate: float, num_patches: int) -> int:
    """Patches kept of ``num_patches``; the class token is counted in, as in the paper: round(rate * (N + 1)) - 1.

    Raises:
        ValueError: the rate lies outside (0, 1] or keeps no patch at all.
    """
    if not 0 < keep_rate <= 1:
        raise ValueError(f"a keep rate lies in (0, 1], got {keep_rate:g}")
    num_kept = int(nums_kept_at(np.float64(keep_rate), num_patches))
    if num_kept < 1:
        smallest = 1.5 / (num_patches + 1)
        raise ValueError(
            f"keep rate {keep_rate:g} keeps none of {num_patches} patches; "
            f"the smallest rate that keeps one is about {smallest:.3g}"
        )
    return num_kept


@dataclass(frozen=True)
class Stage:
    """What the schedule says for a step.

    Attributes:
        num_kept: patches kept of each image, of those that an image of this size has.
        image_size, patch_size: sides in pixels; None: those of ``data``.
        strengths: of augmentation, those that follow a schedule. They change no shape, so stages are the same whatever
            they are.
    """

    keep_rate: float
    num_kept: int
    image_size: int | None = None
    patch_size: int | None = None
    strengths: Mapping[StrengthName, float] = field(default_factory=dict, compare=False)

    def whole(self, num_patches: int) -> "Stage":
        """The same size with all of its ``num_patches`` kept."""
        return replace(self, keep_rate=1.0, num_kept=num_patches)


@dataclass(frozen=True)
class StageSummary:
    """All steps of a run with one number of kept patches of one size. A cyclic schedule comes back to a stage again and
    again.
    """

    keep_rate: float
    num_kept: int
    share: float
    num_steps: int
    first_step: int
    last_step: int
    image_size: int | None = None
    patch_size: int | None = None

    @property
    def stage(self) -> Stage:
        """What a step of it is told."""
        return Stage(self.keep_rate, self.num_kept, self.image_size, self.patch_size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Patches kept, and the sides of image and patch in pixels (0: those of ``data``): what tells stages apart."""
        return self.num_kept, self.image_size or 0, self.patch_size or 0


@dataclass(frozen=True)
class PatchSchedule:
    """A schedule laid over a run of ``total_steps`` steps.

    Args:
        config: kind, rates, rounding, cooldown, sizes.
        num_patches: patches of the full image (N).
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: of an epoch of all examples: length of a cycle of ``cyclic``, and of an epoch of cooldown.
        global_batch_size: samples per step, for a cooldown given in samples.
        seed: key of ``choice``.
        image_size, patch_size: sides of the full image and its patches in pixels. None: stages tell numbers of patches
            alone, and no size follows a schedule.
        strengths: of augmentation that follow a schedule, ``AugmentConfig.schedules``.
        earlier: of a training set that has grown, see ``EpochLengths``; ``steps_per_epoch`` is of it as it is now.

    Raises:
        ValueError: no steps, a cooldown longer than the run, a rate that keeps no patch, or sizes that come together
            and do not fit.
    """

    config: ScheduleConfig
    num_patches: int
    total_steps: int
    steps_per_epoch: int
    global_batch_size: int
    seed: int = 0
    image_size: int | None = None
    patch_size: int | None = None
    strengths: Mapping[StrengthName, StrengthScheduleConfig] = field(default_factory=dict)
    earlier: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ValueError(f"a run has at least one step, got {self.total_steps}")
        if self.ramp_steps < 0:
            raise ValueError(
                f"the cooldown of {self.config.cooldown} is longer than the run of {self.total_steps} steps; shorten it"
            )
        if not self.config.sizes:
            for rate in self.config.rates():
                num_kept_at(rate, self.num_patches)
            return
        assert self.image_size is not None
        assert self.patch_size is not None
        for stage in self.stages():
            if stage.num_kept < 1:
                num_patches = self._num_patches_at(stage.stage)
                raise ValueError(
                    f"schedule: keep rate {stage.keep_rate:g} keeps none of the {num_patches} patches of step "
                    f"{stage.first_step}, whose image has {stage.image_size} pixels; choose a larger keep rate or size"
                )

    @cached_property
    def epochs(self) -> Epochs:
        """How the steps are cut into epochs, some of which ``config.examples`` makes short."""
        examples = self.config.examples
        keep = None if examples is None else examples.keep
        return Epochs.of(self.total_steps, self.steps_per_epoch, keep, self.earlier)

    @property
    def ramp_steps(self) -> int:
        """Steps before the cooldown."""
        return self.total_steps - self.config.cooldown.steps(self.steps_per_epoch, self.global_batch_size)

    def _laid(self, steps: np.ndarray, rounding: float | None, stream: Stream) -> Laid:
        draw = partial(uniform_of_steps, self.seed, stream)
        return Laid(steps, self.ramp_steps, self.epochs.lengths, rounding, draw)

    def _checked(self, steps: np.ndarray) -> np.ndarray:
        steps = np.asarray(steps, dtype=np.int64)
        if steps.size and (steps.min() < 0 or steps.max() >= self.total_steps):
            raise ValueError(f"steps of this run are 0 to {self.total_steps - 1}, got {steps.min()} to {steps.max()}")
        return steps

    def keep_rates(self, steps: np.ndarray) -> np.ndarray:
        """Keep rate at each of ``steps``: float64, of the same shape. O(len(steps)), whatever the run's length."""
        steps = self._checked(steps)
        rates = self.config.keep_rates(self._laid(steps, self.config.rounding, Stream.KEEP_RATE))
        return np.where(steps < self.ramp_steps, rates, 1.0)

    def image_sizes(self, steps: np.ndarray) -> np.ndarray:
        """Side of the image in pixels at each of ``steps``: int64, of the same shape; 0 where it is not known."""
        return self._sizes("image_size", self.image_size, steps)

    def patch_sizes(self, steps: np.ndarray) -> np.ndarray:
        """Side of a patch in pixels at each of ``steps``: int64, of the same shape; 0 where it is not known."""
        return self._sizes("patch_size", self.patch_size, steps)

    def _sizes(self, axis: Axis, full: int | None, steps: np.ndarray) -> np.ndarray:
        steps, config = self._checked(steps), self.config.sizes.get(axis)
        if config is None or full is None or self.patch_size is None:
            return np.full(steps.shape, full or 0)
        laid = self._laid(steps, config.rounded_to(self.patch_size), STREAMS[axis])
        return np.where(steps < self.ramp_steps, config.sizes(laid), full)

    def strengths_over(self, name: StrengthName, steps: np.ndarray) -> np.ndarray:
        """A strength that follows a schedule, at each of ``steps``: float64, of their shape. No cooldown stops it."""
        config = self.strengths[name]
        return config.at(self._laid(self._checked(steps), config.rounding, STRENGTH_STREAMS[name]))

    def strengths_at(self, step: int) -> dict[StrengthName, float]:
        """Every strength that follows a schedule, at one step."""
        return {name: float(self.strengths_over(name, np.array([step]))[0]) for name in self.strengths}

    def strengths_told(self) -> str:
        """The strengths that follow a schedule, such as ``magnitude linear (0 to 9)``; empty where none does."""
        every = {name: (one.kind, sorted(one.numbers())) for name, one in self.strengths.items()}
        return ", ".join(f"{name} {kind} ({of[0]:g} to {of[-1]:g})" for name, (kind, of) in every.items())

    def nums_patches(self, steps: np.ndarray) -> np.ndarray:
        """Patches of an image at each of ``steps``, kept or not: int64, of the same shape.

        Raises:
            ValueError: the patches of a step do not tile its image.
        """
        if not self.config.sizes:
            return np.full(self._checked(steps).shape, self.num_patches)
        image_sizes, patch_sizes = self.image_sizes(steps), self.patch_sizes(steps)
        for place in np.flatnonzero(image_sizes % patch_sizes)[:1]:
            try:
                check_fit(int(image_sizes.flat[place]), int(patch_sizes.flat[place]))
            except ValueError as error:
                raise ValueError(f"schedule: at step {np.asarray(steps).flat[place]} {error}") from None
        return (image_sizes // patch_sizes) ** 2

    def nums_kept(self, steps: np.ndarray) -> np.ndarray:
        """Patches kept at each of ``steps``: int64, of the same shape."""
        return nums_kept_at(self.keep_rates(steps), self.nums_patches(steps))

    def stage(self, step: int) -> Stage:
        """The stage of one step, counted from 0."""
        at = np.array([step])
        keep_rate, sizes = float(self.keep_rates(at)[0]), (int(self.image_sizes(at)[0]), int(self.patch_sizes(at)[0]))
        num_kept = num_kept_at(keep_rate, int(self.nums_patches(at)[0]))
        return Stage(keep_rate, num_kept, sizes[0] or None, sizes[1] or None, self.strengths_at(step))

    def full_stage(self) -> Stage:
        """That of a step in the cooldown: all patches, of the full image."""
        return Stage(1.0, self.num_patches, self.image_size, self.patch_size)

    def _num_patches_at(self, stage: Stage) -> int:
        if stage.image_size is None or stage.patch_size is None:
            return self.num_patches
        return (stage.image_size // stage.patch_size) ** 2

    def stages(self) -> list[StageSummary]:
        """The distinct stages of the run, fewest patches first. Known before the run, so every shape can be warmed up.

        Steps with the same ``num_kept`` of the same sizes are one stage. Where their keep rates differ (rounding off,
        or a fine grid on few patches), the stage's ``keep_rate`` is their mean.
        """
        found: dict[tuple[int, int, int], StageSummary] = {}
        for steps in self.chunks():
            rates = self.keep_rates(steps)
            shapes = np.stack([self.nums_kept(steps), self.image_sizes(steps), self.patch_sizes(steps)])
            order = np.lexsort(shapes[::-1])
            starts = np.flatnonzero(np.diff(shapes[:, order]).any(axis=0)) + 1
            for at in np.split(order, starts):
                new = self._summary(steps[at], rates[at], *shapes[:, at[0]].tolist())
                old = found.get(new.shape)
                found[new.shape] = self._merged(old, new) if old else new
        return [found[shape] for shape in sorted(found)]

    def chunks(self, size: int = 1 << 20) -> Iterator[np.ndarray]:
        """All steps of the run in turn, int64, a million or so at a time."""
        for first in range(0, self.total_steps, size):
            yield np.arange(first, min(first + size, self.total_steps))

    def _summary(
        self, steps: np.ndarray, rates: np.ndarray, num_kept: int, image_size: int, patch_size: int
    ) -> StageSummary:
        num_steps, rate = len(steps), float(rates[0])
        mean = rate if rates.min() == rates.max() else float(rates.mean())
        return StageSummary(
            mean,
            num_kept,
            num_steps / self.total_steps,
            num_steps,
            int(steps[0]),
            int(steps[-1]),
            image_size or None,
            patch_size or None,
        )

    def _merged(self, a: StageSummary, b: StageSummary) -> StageSummary:
        num_steps = a.num_steps + b.num_steps
        mean = a.keep_rate + (b.keep_rate - a.keep_rate) * (b.num_steps / num_steps)
        return replace(
            a,
            keep_rate=mean,
            share=num_steps / self.total_steps,
            num_steps=num_steps,
            first_step=min(a.first_step, b.first_step),
            last_step=max(a.last_step, b.last_step),
        )

    @property
    def mean_keep_rate(self) -> float:
        return sum(stage.keep_rate * stage.share for stage in self.stages())
