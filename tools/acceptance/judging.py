"""What the losses of the smoke runs say. Pure."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tools.acceptance.runs import SmokeRun

_ENDS = 5  # steps at either end of a run, over which losses are averaged
MOST_OFF_PRECISION = 0.02  # of the mean loss, between precisions
MOST_OFF_RESUMED = 0.01  # of any step's loss, where arithmetic on the device does not repeat


def problem_of_losses(losses: Sequence[float], num_steps: int) -> str | None:
    """What is wrong with the losses of a run, step by step; None where nothing is."""
    if len(losses) != num_steps:
        return f"{len(losses)} of {num_steps} steps have a loss"
    wrong = [step for step, loss in enumerate(losses) if not math.isfinite(loss)]
    if wrong:
        return f"the loss of step {wrong[0]} is {losses[wrong[0]]}"
    first, last = _mean(losses[:_ENDS]), _mean(losses[-_ENDS:])
    return None if last < first else f"the loss does not fall: {first:.3f} at first, {last:.3f} in the end"


def apart(losses: Sequence[float], others: Sequence[float]) -> float:
    """By what share of it the loss of a step differs at most; infinite where the steps are not the same ones."""
    if len(losses) != len(others) or not losses:
        return math.inf
    return max(abs(one - other) / max(abs(other), 1e-12) for one, other in zip(losses, others, strict=True))


def precisions(losses: Mapping[SmokeRun, Sequence[float]]) -> list[dict[str, Any]]:
    """Each run of bf16 beside one of float32 that saw the same images and patches.

    Returns:
        For each: ``run``, ``beside``, ``mean_apart`` (of the mean losses, a share of that of float32), ``most_apart``
        (of a step's) and ``problem``, None where the means are close enough.
    """
    found = []

    def seen(run: SmokeRun) -> tuple[str, str]:
        return run.device, run.rule

    for _, group in groupby(sorted(losses, key=seen), key=seen):
        runs = list(group)
        exact = next((run for run in runs if run.precision == "fp32"), None)
        for run in (one for one in runs if one.precision == "bf16" and exact is not None):
            assert exact is not None
            mean_apart = apart([_mean(losses[run])], [_mean(losses[exact])])
            close = mean_apart <= MOST_OFF_PRECISION
            found.append(
                {
                    "run": run.name,
                    "beside": exact.name,
                    "mean_apart": mean_apart,
                    "most_apart": apart(losses[run], losses[exact]),
                    "problem": None if close else f"{run.name} and {exact.name}: mean losses {mean_apart:.1%} apart",
                }
            )
    return found


def resumed(name: str, through: Sequence[float], in_two: Sequence[float]) -> dict[str, Any]:
    """A run that was stopped and went on, beside one that ran through: ``exact``, ``most_apart`` and ``problem``."""
    most_apart = apart(in_two, through)
    close = most_apart <= MOST_OFF_RESUMED
    return {
        "run": name,
        "exact": most_apart == 0.0,
        "most_apart": most_apart,
        "problem": None if close else f"{name}: losses up to {most_apart:.2%} apart after it went on",
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
