"""How a run's steps are cut into epochs: short ones first, in which only some of the examples are seen, then full ones.

Without ``schedule.examples`` every epoch is full. With it a run of D epochs (rounded up to whole ones) has its first
7D/8 of them short, rounded down; what is left, at least the last eighth, is full. All of it follows from the number of
steps alone, so it is known before the run.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil

from pipeline.growth import EpochLengths
from pipeline.settings import Duration

_EIGHTHS_SHORT = 7


def short_steps_of(full_steps: int, keep: float) -> int:
    """Steps of an epoch that sees a share ``keep`` of the examples: rounded to the nearest, at least one."""
    return max(1, int(Fraction(keep).limit_denominator(10**9) * full_steps + Fraction(1, 2)))


def _num_short(num_epochs: int) -> int:
    return _EIGHTHS_SHORT * num_epochs // 8


@dataclass(frozen=True)
class Epochs:
    """The epochs of a run.

    Attributes:
        full_steps: of an epoch of all examples.
        short_steps: of one of the first ``num_short`` epochs.
        earlier: of a training set that has grown, see ``EpochLengths``; no epoch is short then.
    """

    full_steps: int
    short_steps: int
    num_short: int
    earlier: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(
        cls, total_steps: int, full_steps: int, keep: float | None, earlier: tuple[tuple[int, int], ...] = ()
    ) -> "Epochs":
        """Those of a run of ``total_steps``: the fewest whole epochs that reach so far are laid out.

        Args:
            keep: the share of the examples that a short epoch sees; None for full epochs only.
        """
        if keep is None:
            return cls(full_steps, full_steps, 0, earlier)
        assert not earlier
        short_steps = short_steps_of(full_steps, keep)
        blocks, rest = divmod(total_steps, _EIGHTHS_SHORT * short_steps + full_steps)
        in_block = 0
        while _length(in_block, short_steps, full_steps) < rest:
            in_block += 1
        return cls(full_steps, short_steps, _num_short(8 * blocks + in_block))

    @cached_property
    def lengths(self) -> EpochLengths:
        """Of the epochs that leave no example out."""
        return EpochLengths(self.full_steps, self.earlier)

    def split(self, step: int) -> tuple[int, int]:
        """The epoch that a step is in, from 0, and which of its steps it is."""
        all_short = self.num_short * self.short_steps
        if step < all_short:
            return divmod(step, self.short_steps)
        epoch, step_of_epoch = self.lengths.split(step - all_short)
        return self.num_short + epoch, step_of_epoch

    def share_of_full(self, total_steps: int) -> float:
        """Steps of a run over those of as many full epochs."""
        saved_steps = self.num_short * (self.full_steps - self.short_steps)
        return total_steps / (total_steps + saved_steps)

    def is_short(self, epoch: int) -> bool:
        return epoch < self.num_short

    def first_step(self, step: int) -> int:
        """The first step of the epoch that ``step`` is in."""
        return step - self.split(step)[1]


def _length(num_epochs: int | Fraction, short_steps: int, full_steps: int) -> Fraction:
    """Steps of that many epochs, the last of which may be a part of one."""
    num_short = _num_short(ceil(num_epochs))
    return Fraction(num_short * short_steps) + (num_epochs - num_short) * full_steps


def run_steps(
    duration: Duration,
    full_steps: int,
    global_batch_size: int,
    keep: float | None,
    earlier: tuple[tuple[int, int], ...] = (),
) -> int:
    """The length of a run, or of its beginning, in optimizer steps, rounded to the nearest (halves up).

    Epochs are counted as they are: with a ``keep`` the first seven eighths of them are short, and those before a
    training set has grown have the length that they had (``earlier``, see ``EpochLengths``).
    """
    if earlier and duration.unit == "epochs":
        return int(EpochLengths(full_steps, earlier).before(duration.amount) + Fraction(1, 2))
    if keep is None or duration.unit != "epochs":
        return duration.steps(full_steps, global_batch_size)
    return int(_length(duration.amount, short_steps_of(full_steps, keep), full_steps) + Fraction(1, 2))
