"""The patch sampling schedule: a pure map from a training step to the share of patches kept.

The arithmetic of linear, cosine and cyclic is that of McDanel & Huynh, "Accelerating Vision Transformer Training via a
Patch Sampling Schedule" (arXiv 2208.09520): a *drop* ratio runs from 0.8 to -0.1, is clamped to [0, 1] and rounded to
the nearest 0.2. A step stands for the middle of its stretch of the ramp, so that a cycle falls as it rose. The ramp
overshoots 0 by half a rounding step so that full patches get as long a stage as the others.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.config import ScheduleConfig
from pipeline.plan import keyed
from pipeline.plan.keyed import Stream


def num_kept_at(keep_rate: float, num_patches: int) -> int:
    """Patches kept of ``num_patches``; the class token is counted in, as in the paper: round(rate * (N + 1)) - 1.

    Raises:
        ValueError: the rate lies outside (0, 1] or keeps no patch at all.
    """
    if not 0 < keep_rate <= 1:
        raise ValueError(f"a keep rate lies in (0, 1], got {keep_rate:g}")
    num_kept = round(keep_rate * (num_patches + 1)) - 1
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
        steps_per_epoch: length of a cycle of ``cyclic``, and of an epoch of cooldown.
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

    @property
    def ramp_steps(self) -> int:
        """Steps before the cooldown."""
        return self.total_steps - self.config.cooldown.steps(self.steps_per_epoch, self.global_batch_size)

    def keep_rates(self, steps: np.ndarray) -> np.ndarray:
        """Keep rate at each of ``steps``: float64, of the same shape. O(len(steps)), whatever the run's length."""
        steps = np.asarray(steps, dtype=np.int64)
        if steps.size and (steps.min() < 0 or steps.max() >= self.total_steps):
            raise ValueError(f"steps of this run are 0 to {self.total_steps - 1}, got {steps.min()} to {steps.max()}")
        kind = self.config.kind
        if kind == "constant":
            rates = np.full(steps.shape, self.config.rates()[0])
        elif kind == "steps":
            rates = self._listed(steps)
        elif kind == "choice":
            rates = self._chosen(steps)
        else:
            rates = self._ramp(steps)
        return np.where(steps < self.ramp_steps, rates, 1.0)

    def _ramp(self, steps: np.ndarray) -> np.ndarray:
        low, high = self.config.rates()
        rounding = self.config.rounding
        start, end = 1 - low, 1 - high - (rounding / 2 if rounding and low < high else 0)
        if self.config.kind == "cyclic":
            phase = (steps % self.steps_per_epoch + 0.5) / self.steps_per_epoch
            progress = 1 - np.abs(2 * phase - 1)
        else:
            progress = (steps + 0.5) / max(self.ramp_steps, 1)
        if self.config.kind == "cosine":
            progress = (1 - np.cos(math.pi * progress)) / 2
        drop = np.clip((1 - progress) * start + progress * end, 1 - high, 1 - low)
        if rounding:
            # Halves go to the smaller drop: then a ramp of 900 steps has stages of 100, 200, 200, 200 and 200 steps,
            # and no stage depends on the last bit of a sum.
            nearest = np.ceil(drop / rounding - 0.5 - 1e-9) * rounding
            drop = np.clip(nearest, 1 - high, 1 - low)
        return np.round(1 - drop, 9)

    def _listed(self, steps: np.ndarray) -> np.ndarray:
        fractions, rates = np.array(self.config.pairs()).T
        first_steps = np.ceil(fractions * self.ramp_steps - 1e-9)
        return rates[np.searchsorted(first_steps, steps, side="right") - 1]

    def _chosen(self, steps: np.ndarray) -> np.ndarray:
        rates, weights = np.array(self.config.pairs()).T
        edges = np.cumsum(weights) / weights.sum()
        flat = steps.reshape(-1)
        runs = np.split(flat, np.flatnonzero(np.diff(flat) != 1) + 1) if flat.size else []
        draws = [
            keyed.uniform(self.seed, Stream.KEEP_RATE, 0, first_row=int(run[0]), num_rows=len(run), num_columns=1)
            for run in runs
        ]
        drawn = np.concatenate(draws)[:, 0] if draws else np.empty(0)
        return rates[np.searchsorted(edges[:-1], drawn, side="right")].reshape(steps.shape)

    def stage(self, step: int) -> Stage:
        """The stage of one step, counted from 0."""
        keep_rate = float(self.keep_rates(np.array([step]))[0])
        return Stage(keep_rate, num_kept_at(keep_rate, self.num_patches))

    def _chunks(self, size: int = 1 << 20) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(0, self.total_steps, size):
            yield first, self.keep_rates(np.arange(first, min(first + size, self.total_steps)))

    def stages(self) -> list[StageSummary]:
        """The distinct stages of the run, fewest patches first. Known before the run, so every shape can be warmed up.

        Steps with the same ``num_kept`` are one stage. Where their keep rates differ (rounding off, or a fine grid on
        few patches), the stage's ``keep_rate`` is their mean.
        """
        found: dict[int, StageSummary] = {}
        for first, rates in self._chunks():
            tokens = np.round(rates * (self.num_patches + 1))
            order = np.argsort(tokens, kind="stable")
            for at in np.split(order, np.flatnonzero(np.diff(tokens[order])) + 1):
                new = self._summary(first + at, rates[at])
                old = found.get(new.num_kept)
                found[new.num_kept] = self._merged(old, new) if old else new
        return [found[num_kept] for num_kept in sorted(found)]

    def _summary(self, steps: np.ndarray, rates: np.ndarray) -> StageSummary:
        num_steps, rate = len(steps), float(rates[0])
        num_kept = num_kept_at(rate, self.num_patches)
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
