"""The patch sampling schedule: a pure map from a training step to the share of patches kept.

What each kind of schedule does stands in ``pipeline/plan/ramps.py``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from pipeline.config import Duration, DurationField, Settings, one_of
from pipeline.plan.epochs import Epochs
from pipeline.plan.examples import ExamplesConfig
from pipeline.plan.ramps import KINDS, Kind, Laid

_FORMS = "; ".join(f"{name}: {kind.form.text}, {kind.about}" for name, kind in KINDS.items())

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
        Duration.parse("0epochs"), description="length at the end of the run at full patches"
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
        self.of_kind.form.check(self.keep_rate, self.rounding, self.kind)
        return self

    @property
    def of_kind(self) -> Kind:
        return KINDS[self.kind]

    def rates(self) -> list[float]:
        """Every keep rate the configuration names.

        Raises:
            ValueError: ``keep_rate`` is not of the form that the kind asks for.
        """
        form = self.of_kind.form
        try:
            return form.rates(self.keep_rate)
        except (ValueError, TypeError):
            raise ValueError(f"keep_rate for {self.kind!r} is {form.text}; got {self.keep_rate}") from None

    def keep_rates(self, laid: Laid) -> np.ndarray:
        """Keep rate at each of some steps before the cooldown: float64, of their shape."""
        return self.of_kind.keep_rates(self.keep_rate, laid)


def nums_kept_at(keep_rates: np.ndarray | np.float64, num_patches: int) -> np.ndarray:
    """``num_kept_at`` of many rates at once, unchecked: int64, of the same shape."""
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
    """What the schedule says for a step."""

    keep_rate: float
    num_kept: int


@dataclass(frozen=True)
class StageSummary:
    """All steps of a run with one number of kept patches. A cyclic schedule comes back to a stage again and again."""

    keep_rate: float
    num_kept: int
    share: float
    num_steps: int
    first_step: int
    last_step: int


@dataclass(frozen=True)
class PatchSchedule:
    """A schedule laid over a run of ``total_steps`` steps.

    Args:
        config: kind, rates, rounding, cooldown.
        num_patches: patches of the full image (N).
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: of an epoch of all examples: length of a cycle of ``cyclic``, and of an epoch of cooldown.
        global_batch_size: samples per step, for a cooldown given in samples.
        seed: key of ``choice``.

    Raises:
        ValueError: no steps, a cooldown longer than the run, or a rate that keeps no patch.
    """

    config: ScheduleConfig
    num_patches: int
    total_steps: int
    steps_per_epoch: int
    global_batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ValueError(f"a run has at least one step, got {self.total_steps}")
        if self.ramp_steps < 0:
            raise ValueError(
                f"the cooldown of {self.config.cooldown} is longer than the run of {self.total_steps} steps; shorten it"
            )
        for rate in self.config.rates():
            num_kept_at(rate, self.num_patches)

    @cached_property
    def epochs(self) -> Epochs:
        """How the steps are cut into epochs, some of which ``config.examples`` makes short."""
        examples = self.config.examples
        return Epochs.of(self.total_steps, self.steps_per_epoch, None if examples is None else examples.keep)

    @property
    def ramp_steps(self) -> int:
        """Steps before the cooldown."""
        return self.total_steps - self.config.cooldown.steps(self.steps_per_epoch, self.global_batch_size)

    def keep_rates(self, steps: np.ndarray) -> np.ndarray:
        """Keep rate at each of ``steps``: float64, of the same shape. O(len(steps)), whatever the run's length."""
        steps = np.asarray(steps, dtype=np.int64)
        if steps.size and (steps.min() < 0 or steps.max() >= self.total_steps):
            raise ValueError(f"steps of this run are 0 to {self.total_steps - 1}, got {steps.min()} to {steps.max()}")
        laid = Laid(steps, self.ramp_steps, self.steps_per_epoch, self.config.rounding, self.seed)
        return np.where(steps < self.ramp_steps, self.config.keep_rates(laid), 1.0)

    def nums_kept(self, steps: np.ndarray) -> np.ndarray:
        """Patches kept at each of ``steps``: int64, of the same shape."""
        return nums_kept_at(self.keep_rates(steps), self.num_patches)

    def stage(self, step: int) -> Stage:
        """The stage of one step, counted from 0."""
        keep_rate = float(self.keep_rates(np.array([step]))[0])
        return Stage(keep_rate, num_kept_at(keep_rate, self.num_patches))

    def stages(self) -> list[StageSummary]:
        """The distinct stages of the run, fewest patches first. Known before the run, so every shape can be warmed up.

        Steps with the same ``num_kept`` are one stage. Where their keep rates differ (rounding off, or a fine grid on
        few patches), the stage's ``keep_rate`` is their mean.
        """
        found: dict[int, StageSummary] = {}
        for steps in self._chunks():
            rates, nums_kept = self.keep_rates(steps), self.nums_kept(steps)
            order = np.argsort(nums_kept, kind="stable")
            for at in np.split(order, np.flatnonzero(np.diff(nums_kept[order])) + 1):
                new = self._summary(steps[at], rates[at], int(nums_kept[at[0]]))
                old = found.get(new.num_kept)
                found[new.num_kept] = self._merged(old, new) if old else new
        return [found[num_kept] for num_kept in sorted(found)]

    def _chunks(self, size: int = 1 << 20) -> Iterator[np.ndarray]:
        for first in range(0, self.total_steps, size):
            yield np.arange(first, min(first + size, self.total_steps))

    def _summary(self, steps: np.ndarray, rates: np.ndarray, num_kept: int) -> StageSummary:
        num_steps, rate = len(steps), float(rates[0])
        mean = rate if rates.min() == rates.max() else float(rates.mean())
        return StageSummary(mean, num_kept, num_steps / self.total_steps, num_steps, int(steps[0]), int(steps[-1]))

    def _merged(self, a: StageSummary, b: StageSummary) -> StageSummary:
        num_steps = a.num_steps + b.num_steps
        mean = a.keep_rate + (b.keep_rate - a.keep_rate) * (b.num_steps / num_steps)
        return StageSummary(
            mean,
            a.num_kept,
            num_steps / self.total_steps,
            num_steps,
            min(a.first_step, b.first_step),
            max(a.last_step, b.last_step),
        )

    @property
    def mean_keep_rate(self) -> float:
        return sum(stage.keep_rate * stage.share for stage in self.stages())
