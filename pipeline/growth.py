"""A training set that has grown while a run went on over it: what earlier epochs saw, and how long they were."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from pydantic import Field

from pipeline.settings import MOST_STEPS, Settings


class GrowthConfig(Settings):
    """What the training set was up to an epoch: its first shards, and how many samples they hold."""

    before_epoch: int = Field(ge=1, le=MOST_STEPS, description="epochs before this one, from 0, see these shards alone")
    shards: int = Field(ge=1, le=10**9, description="how many of the shards there are now, the first ones")
    samples: int = Field(ge=1, le=10**12, description="samples in them that are not excluded")


Growth = tuple[GrowthConfig, ...]


def check_growth(growth: Growth, *, is_mixed: bool, echo: int) -> None:
    """Raise ValueError if a set cannot have grown so. is_mixed: the training data are several sources."""
    for name in ("before_epoch", "shards", "samples"):
        values = [getattr(one, name) for one in growth]
        if values != sorted(set(values)):
            raise ValueError(f"growth goes from the earliest epochs to the latest, but {name} goes {values}")
    if growth and is_mixed:
        raise ValueError("growth is of a train that is one folder, and train names several sources; leave it out")
    if growth and echo > 1:
        raise ValueError(
            f"growth changes the samples between two epochs, and echo {echo} lets steps of both show the same; set "
            "echo to 1, or leave growth out"
        )


@dataclass(frozen=True)
class EpochLengths:
    """How many steps the epochs of a run have that leave no example out.

    Attributes:
        steps: of an epoch, from the last change on.
        earlier: for each change the epoch that it comes before, and the steps of an epoch until then.
    """

    steps: int
    earlier: tuple[tuple[int, int], ...] = ()

    @cached_property
    def _stretches(self) -> list[tuple[int, int, int]]:
        """First epoch, first step and steps of an epoch, of each stretch of equal ones."""
        found, epoch, step = [], 0, 0
        for until, steps in self.earlier:
            found.append((epoch, step, steps))
            step += (until - epoch) * steps
            epoch = until
        return [*found, (epoch, step, self.steps)]

    def split(self, step: int) -> tuple[int, int]:
        """The epoch that a step is in, from 0, and which of its steps it is."""
        epoch, first, steps = next(one for one in reversed(self._stretches) if one[1] <= step)
        done, step_of_epoch = divmod(step - first, steps)
        return epoch + done, step_of_epoch

    def before(self, epochs: Fraction | int) -> Fraction:
        """Steps of the first so many epochs, the last of which may be a part of one."""
        epoch, first, steps = next(one for one in reversed(self._stretches) if one[0] <= epochs)
        return Fraction(first) + (epochs - epoch) * steps

    def way(self, steps: np.ndarray) -> np.ndarray:
        """How far into its epoch the middle of each of ``steps`` is, 0 to 1: float64, of their shape."""
        _, first, lengths = np.array(self._stretches, dtype=np.int64).T
        at = np.searchsorted(first, steps, side="right") - 1
        return ((steps - first[at]) % lengths[at] + 0.5) / lengths[at]


def told(growth: Growth) -> str:
    """How a training set has grown, for people; empty where it has not."""
    parts = [
        f"the first {one.shards} shards ({one.samples:,} samples) before epoch {one.before_epoch}" for one in growth
    ]
    see = ", ".join([*parts, "all from then on"])
    return f"the training set has grown: epochs, from 0, see {see}" if growth else ""
