"""What differences over a few seeds tell: words that follow the statistics, and two seeds are called two seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tools.students import half_width

Word = Literal["clearly better", "clearly worse", "not told apart"]

CLEARLY = (
    "Clearly: the 95 % interval of the differences, paired by seed, leaves out 0 (Student's t, three seeds or more)."
)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Verdict:
    """What is known of a difference in accuracy.

    Attributes:
        differences: one of each seed, shares of 1; at least one.
    """

    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.differences)

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval of the mean; None for fewer than three seeds."""
        return half_width(self.differences)

    @property
    def word(self) -> Word:
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return "not told apart"
        return "clearly better" if self.mean > 0 else "clearly worse"

    @property
    def figures(self) -> str:
        """Such as ``+6.09 points, 95 % interval +0.57 to +11.61``; of one or two seeds what each of them gave."""
        text = f"{_points(self.mean)} points"
        if self.half_width is not None:
            low, high = self.mean - self.half_width, self.mean + self.half_width
            return f"{text}, 95\u00a0% interval {_points(low)} to {_points(high)}"
        if len(self.differences) == 1:
            return f"{text} in one seed"
        return f"{text} in two seeds: {' and '.join(map(_points, self.differences))}"


def seeds_in_words(counts: Sequence[int]) -> str:
    """How many seeds, such as ``one seed``, ``two seeds`` or, where variants have different numbers, ``one to 12``."""
    fewest, most = min(counts), max(counts)
    few, many = (_NUMBERS[count] if count < len(_NUMBERS) else str(count) for count in (fewest, most))
    return f"{few} seed{'' if fewest == 1 else 's'}" if fewest == most else f"{few} to {many} seeds"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"
