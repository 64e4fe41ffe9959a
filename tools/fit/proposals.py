"""Schedules of every kind whose training steps take a share of those at full patches, by a profile."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from engine.config import RunConfig
from engine.run_plan import build_schedule, plan_run
from engine.values.text import explain
from tools.fit.families import FAMILIES, Way
from tools.fit.limits import Limits, limits_of
from tools.schedule.pace import Shape
from tools.schedule.prediction import Cost, Prediction, predict
from tools.schedule.told import doubts

CLOSE = 0.01  # of the budget that a proposal may leave
_FINEST = 10_000  # parts that what a family spends is told in


@dataclass(frozen=True)
class Proposal:
    """A schedule for a configuration.

    Attributes:
        kind: its name, one of ``FAMILIES``.
        config: with the schedule, ready to run.
        values: of the configuration, by key, that make it.
        prediction: of its time.
        full: of the configuration's steps as they were, all at full patches.
    """

    kind: str
    config: RunConfig
    values: dict[str, Any]
    prediction: Prediction
    full: "FullRun"

    @property
    def share(self) -> float:
        """Of the time at full patches."""
        return self.prediction.predicted_s / self.full.seconds

    @property
    def token_share(self) -> float:
        """Tokens of the run over those at full patches, the class token counted in."""
        stages = self.prediction.schedule.stages()
        return sum(one.num_steps * (one.num_kept + 1) for one in stages) / self.full.tokens

    @property
    def settings(self) -> str:
        """Arguments for a command line that has the configuration as it was."""
        words = []
        for key, value in self.values.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
            words += ["--set", f"{key}={text}"]
        return shlex.join(words)


@dataclass(frozen=True)
class FullRun:
    """What a budget is a share of: the configuration's number of steps, each at full patches.

    Attributes:
        tokens: of one image a step.
    """

    seconds: float
    tokens: int


@dataclass(frozen=True)
class Fitted:
    """What fits a budget, and what does not.

    Attributes:
        proposals: most tokens first.
        unfit: by kind, why there is none of it.
    """

    full: FullRun
    proposals: list[Proposal]
    unfit: dict[str, str]


def fit(config: RunConfig, cost: Cost, num_samples: int, budget: float) -> Fitted:
    """One schedule of each kind that takes the budget, or up to a hundredth of it less.

    Args:
        cost: of a step of this configuration in any stage.
        num_samples: of the training set.
        budget: share of the time of as many steps at full patches, above 0 and at most 1.

    Raises:
        ValueError: a task or a profile without full patches, or a budget that no kind fits.
    """
    if config.task == "pretrain":
        raise ValueError("a budget is a share of the time at full patches, which cannot be trained under task pretrain")
    schedule = build_schedule(config, num_samples)
    full = FullRun(schedule.total_steps * cost.full_step_s, schedule.total_steps * (schedule.num_patches + 1))
    limits = limits_of(config, cost, schedule.steps_per_epoch)
    trial = _Trial(config, cost, num_samples, budget, full)
    proposals, unfit = [], {}
    for kind in FAMILIES:
        found = trial.first_close(kind, limits)
        if isinstance(found, Proposal):
            proposals.append(found)
        else:
            unfit[kind] = found
    if not proposals:
        reasons = "; ".join(f"{kind}: {why}" for kind, why in unfit.items())
        raise ValueError(f"no schedule fits --budget {budget:g}: {reasons}; raise the budget")
    return Fitted(full, sorted(proposals, key=lambda one: -one.token_share), unfit)


@dataclass(frozen=True)
class _Trial:
    config: RunConfig
    cost: Cost
    num_samples: int
    budget: float
    full: FullRun

    def first_close(self, kind: str, limits: Limits) -> Proposal | str:
        """The first of a family's ways that takes the budget, or why none does."""
        nearest = 0.0
        try:
            ways = FAMILIES[kind](limits)
            for way in ways:
                found = self.best(kind, way)
                if found is not None and self.is_close(found):
                    return found
                nearest = max(nearest, 0.0 if found is None else found.share)
            if nearest:
                return f"the nearest below the budget takes {nearest:.1%}: the run is too short to be divided so"
            least = min(self.propose(kind, way, 0).share for way in ways)
        except ValidationError as error:
            return "; ".join(explain(detail, RunConfig) for detail in error.errors())
        except ValueError as error:
            return str(error)
        return f"with no step cheaper than the cheapest that was measured, it takes {least:.1%} at least"

    def is_close(self, proposal: Proposal) -> bool:
        return (1 - CLOSE) * self.budget <= proposal.share <= self.budget

    def best(self, kind: str, way: Way) -> Proposal | None:
        """The one that spends most within the budget, None where the least is too much."""
        found = self._most(lambda spend: self.propose(kind, way, spend), 0, _FINEST)
        if found is None or self.is_close(found):
            return found
        # Patches are whole, so one rate alone may leave more: steps at full patches in the end take it.
        schedule, values = found.prediction.schedule, found.values
        most = schedule.total_steps
        first = most - schedule.ramp_steps

        def cooled_down(steps: int) -> Proposal:
            return self._with(kind, {**values, "schedule.cooldown": f"{steps}steps"})

        return self._most(cooled_down, first, most - 1) or found

    def propose(self, kind: str, way: Way, spend: int) -> Proposal:
        return self._with(kind, way(spend / _FINEST))

    def _with(self, kind: str, values: dict[str, Any]) -> Proposal:
        changed, set_values = self.config.model_dump(mode="json"), {}
        for key, value in values.items():
            section, name = key.split(".")
            if value is not None or changed[section][name] is not None:
                changed[section][name] = set_values[key] = value
        config = RunConfig.model_validate(changed)
        # On one rank: how many there will be changes nothing of the schedule.
        schedule = plan_run(config, self.num_samples, world_size=1).schedule
        return Proposal(kind, config, set_values, predict(config, schedule, self.cost), self.full)

    def _most(self, make: Callable[[int], Proposal], low: int, high: int) -> Proposal | None:
        """What the largest number makes whose share of the time is within the budget, which rises with the number."""
        found = None
        while low <= high:
            middle = (low + high) // 2
            made = make(middle)
            if made.share <= self.budget:
                found, low = made, middle + 1
            else:
                high = middle - 1
        return found


def describe(found: Fitted, budget: float, cost: Cost) -> str:
    """Proposals as a table for people, each with what to add to a command line."""
    spent = f"{budget * found.full.seconds:,.1f} s of training steps"
    width = max(len(proposal.kind) for proposal in found.proposals)
    shapes: set[Shape] = {shape for proposal in found.proposals for shape in proposal.prediction.shapes}
    return "\n".join(
        [
            f"{budget:.1%} of full patches' {found.full.seconds:,.1f} s: {spent}, on {cost.where}",
            "",
            f"{'kind':>{width}} {'time':>7} {'seconds':>9} {'tokens':>7} {'mean keep':>10} {'stages':>7}",
            *(line for proposal in found.proposals for line in _lines(proposal, width)),
            *(f"no {kind}: {why}" for kind, why in found.unfit.items()),
            *doubts(cost, sorted(shapes)),
        ]
    )


def _lines(proposal: Proposal, width: int) -> Iterator[str]:
    schedule = proposal.prediction.schedule
    yield (
        f"{proposal.kind:>{width}} {proposal.share:>7.1%} {proposal.prediction.predicted_s:>9,.1f} "
        f"{proposal.token_share:>7.1%} {schedule.mean_keep_rate:>10.3f} {len(schedule.stages()):>7}"
    )
    yield f"          {proposal.settings}"
