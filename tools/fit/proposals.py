"""Schedules of every kind whose training steps take a share of those at full patches, by a profile."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from engine.config import RunConfig
from engine.run_plan import build_schedule
from pipeline.plan.schedule import ScheduleConfig
from pipeline.ramps import KINDS
from tools.fit.families import FAMILIES, Family
from tools.schedule.prediction import Cost, Prediction, predict
from tools.schedule.told import doubts

CLOSE = 0.01  # of the budget that a proposal may leave
_FINEST = 10_000  # parts that what a family spends is told in


@dataclass(frozen=True)
class Proposal:
    """A schedule for a configuration.

    Attributes:
        config: with the schedule, ready to run.
        values: of the section schedule, by key, that make it.
        prediction: of its time.
    """

    config: RunConfig
    values: dict[str, Any]
    prediction: Prediction

    @property
    def kind(self) -> str:
        return self.config.schedule.kind

    @property
    def share(self) -> float:
        """Of the time at full patches."""
        assert self.prediction.share_of_full is not None
        return self.prediction.share_of_full

    @property
    def token_share(self) -> float:
        """Tokens of the run over those at full patches, the class token counted in."""
        schedule = self.prediction.schedule
        return sum(one.share * (one.num_kept + 1) for one in schedule.stages()) / (schedule.num_patches + 1)

    @property
    def settings(self) -> str:
        """Arguments for a command line that has the configuration as it was."""
        words = []
        for key, value in self.values.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
            words += ["--set", f"schedule.{key}={text}"]
        return shlex.join(words)


@dataclass(frozen=True)
class Fitted:
    """What fits a budget, and what does not.

    Attributes:
        proposals: most tokens first.
        unfit: by kind, why there is none of it.
    """

    proposals: list[Proposal]
    unfit: dict[str, str]


def fit(config: RunConfig, cost: Cost, lowest: float, num_samples: int, budget: float) -> Fitted:
    """One schedule of each kind that takes the budget, or up to a hundredth of it less.

    Args:
        cost: of a step of this configuration at any number of patches.
        lowest: the smallest keep rate to use.
        num_samples: of the training set.
        budget: share of the time of as many steps at full patches, above 0 and at most 1.

    Raises:
        ValueError: a task or a profile without full patches, or a budget that no kind fits.
    """
    if config.task == "pretrain":
        raise ValueError("a budget is a share of the time at full patches, which cannot be trained under task pretrain")
    trial = _Trial(config, cost, num_samples, budget)
    proposals, unfit = [], {}
    for kind, about in KINDS.items():
        found = [trial.best(kind, family, lowest) for family in FAMILIES[about.form]]
        fitting = next((one for one in found if one is not None and trial.is_close(one)), None)
        if fitting is not None:
            proposals.append(fitting)
        elif all(one is None for one in found):
            least = min(trial.propose(kind, family, lowest, 0).share for family in FAMILIES[about.form])
            unfit[kind] = f"with keep rate {lowest:.4g}, the smallest that was measured, it takes {least:.1%} at least"
        else:
            nearest = max(one.share for one in found if one is not None)
            unfit[kind] = f"the nearest below the budget takes {nearest:.1%}: the run is too short to be divided so"
    if not proposals:
        reasons = "; ".join(f"{kind}: {why}" for kind, why in unfit.items())
        raise ValueError(f"no schedule fits --budget {budget:g}: {reasons}; raise the budget")
    return Fitted(sorted(proposals, key=lambda one: -one.token_share), unfit)


@dataclass(frozen=True)
class _Trial:
    config: RunConfig
    cost: Cost
    num_samples: int
    budget: float

    def is_close(self, proposal: Proposal) -> bool:
        return (1 - CLOSE) * self.budget <= proposal.share <= self.budget

    def best(self, kind: str, family: Family, lowest: float) -> Proposal | None:
        """The one that spends most within the budget, None where the least is too much."""
        found = self._most(lambda spend: self.propose(kind, family, lowest, spend), 0, _FINEST)
        if found is None or self.is_close(found):
            return found
        # Patches are whole, so one rate alone may leave more: steps at full patches in the end take it.
        schedule = found.prediction.schedule
        most = schedule.total_steps
        first = most - schedule.ramp_steps
        values = found.values
        return self._most(lambda steps: self._with({**values, "cooldown": f"{steps}steps"}), first, most - 1) or found

    def propose(self, kind: str, family: Family, lowest: float, spend: int) -> Proposal:
        return self._with({"kind": kind, **family(spend / _FINEST, lowest)})

    def _with(self, values: dict[str, Any]) -> Proposal:
        settings = {**self.config.schedule.model_dump(mode="json"), **values}
        config = self.config.model_copy(update={"schedule": ScheduleConfig.model_validate(settings)})
        return Proposal(config, values, predict(config, build_schedule(config, self.num_samples), self.cost))

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
    full_s = found.proposals[0].prediction.full_s
    assert full_s is not None
    spent = f"{budget * full_s:,.1f} s of training steps"
    return "\n".join(
        [
            f"{budget:.1%} of full patches' {full_s:,.1f} s: {spent}, on {cost.where}",
            "",
            f"{'kind':>9} {'time':>7} {'seconds':>9} {'tokens':>7} {'mean keep':>10} {'stages':>7}",
            *(line for proposal in found.proposals for line in _lines(proposal)),
            *(f"no {kind}: {why}" for kind, why in found.unfit.items()),
            *doubts(cost),
        ]
    )


def _lines(proposal: Proposal) -> Iterator[str]:
    schedule = proposal.prediction.schedule
    yield (
        f"{proposal.kind:>9} {proposal.share:>7.1%} {proposal.prediction.predicted_s:>9,.1f} "
        f"{proposal.token_share:>7.1%} {schedule.mean_keep_rate:>10.3f} {len(schedule.stages()):>7}"
    )
    yield f"          {proposal.settings}"
