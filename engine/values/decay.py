"""How far the decay of the learning rate has come at a step, by what it counts. A new kind is one entry."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.plan.schedule import PatchSchedule

_BLOCK = 4096  # steps whose tokens are summed once and kept as one number

Progress = Callable[[int], float]  # from a step after the warm-up to a number that rises from 0 to 1


@dataclass(frozen=True)
class Decay:
    """about: what it counts, in a line. progress: of a schedule, from the first step after the warm-up on."""

    about: str
    progress: Callable[[PatchSchedule, int], Progress]


def by_steps(schedule: PatchSchedule, first_step: int) -> Progress:
    """Every step brings the decay as far."""
    return lambda step: (step - first_step) / (schedule.total_steps - first_step)


class ByTokens:
    """A step brings the decay as far as its image has tokens: one for each kept patch, and one more.

    So cheap steps at the start of a run leave the larger part of the decay to the dear ones after them, as where each
    stage is a share of the run's computation (EfficientTrain++, arXiv 2405.08768).
    """

    def __init__(self, schedule: PatchSchedule, first_step: int) -> None:
        self._schedule, self._first_step = schedule, first_step
        sums: list[np.ndarray] = []
        for steps in schedule.chunks(256 * _BLOCK):
            sums.append(np.add.reduceat(self._tokens(steps), np.arange(0, len(steps), _BLOCK)))
        self._before = np.concatenate([[0], np.cumsum(np.concatenate(sums))])  # of each block
        self._block, self._within = -1, np.empty(0, dtype=np.int64)

    def _tokens(self, steps: np.ndarray) -> np.ndarray:
        return np.where(steps >= self._first_step, self._schedule.nums_kept(steps) + 1, 0)

    def __call__(self, step: int) -> float:
        block, place = divmod(step, _BLOCK)
        if block != self._block:
            steps = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, self._schedule.total_steps))
            tokens = self._tokens(steps)
            self._block, self._within = block, np.cumsum(tokens) - tokens
        return int(self._before[block] + self._within[place]) / int(self._before[-1])


DECAYS: dict[str, Decay] = {
    "steps": Decay("steps", by_steps),
    "tokens": Decay("tokens, one for each kept patch and one more", ByTokens),
}
