"""How a schedule of each form spends more or less: one number from 0 to 1, and what stands in the configuration for it.

A larger number never keeps fewer patches at any step, so that a budget has one answer. A new form is an entry of
``FAMILIES``; a new kind of a form that is there needs nothing.
"""

import math
from collections.abc import Callable
from typing import Any

from pipeline.ramps import LOW_AND_HIGH, ONE_RATE, RATE_FROM, WEIGHTED, Form

# Keys of the section schedule, from how much to spend, 0 to 1, and the smallest keep rate to use.
Family = Callable[[float, float], dict[str, Any]]

_RAMP_STAGES = 5  # as many as the paper's ramps have
_LEAST = 1e-4  # of a grid, of a fraction


def _one_rate(spend: float, lowest: float) -> dict[str, Any]:
    return {"keep_rate": round(lowest + spend * (1 - lowest), 4)}


def _ramp_to(end: int) -> Family:
    """Ramps of as many stages, on a grid of their own, whose last one drops ``end`` of its steps."""

    def ramp(spend: float, lowest: float) -> dict[str, Any]:
        start = end + _RAMP_STAGES - 1
        # Cut off, not rounded: the ramp starts no lower. What is added is the last bit of a quotient.
        grid = max(math.floor((1 - spend) * (1 - lowest) / start * 1e5 + 1e-6) / 1e5, _LEAST)
        return {"keep_rate": [round(1 - start * grid, 9), round(1 - end * grid, 9)], "rounding": grid}

    return ramp


def _coarse_then_full(spend: float, lowest: float) -> dict[str, Any]:
    return {"keep_rate": [[0.0, lowest], [min(max(round(1 - spend, 5), _LEAST), 1 - _LEAST), 1.0]]}


def _coarse_or_full(spend: float, lowest: float) -> dict[str, Any]:
    return {"keep_rate": [[lowest, round(1 - spend, 5)], [1.0, round(spend, 5)]]}


# Of each form, those to try in turn: ramps that end at full patches before those that end below.
FAMILIES: dict[Form, tuple[Family, ...]] = {
    ONE_RATE: (_one_rate,),
    LOW_AND_HIGH: tuple(_ramp_to(end) for end in range(_RAMP_STAGES)),
    RATE_FROM: (_coarse_then_full,),
    WEIGHTED: (_coarse_or_full,),
}
