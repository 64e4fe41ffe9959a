"""What repeats tell of two speeds: which is the higher one, that it makes no difference, or that they cannot tell.

The stages of a profile are measured in turn, so that a minute in which the machine does something else reaches all of
them: the ratio of two stages is taken repeat by repeat. What counts is its 95 % interval.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tools.students import FEWEST, half_width

NOTICEABLE = 1.05  # a gain below this is no reason to drop patches
_MOST_REPEATS = 50


@dataclass(frozen=True)
class Ratio:
    """One speed or time over another.

    Attributes:
        middle: the mean over the repeats (the geometric one).
        low, high: the 95 % interval; None where there are fewer than three repeats.
        count: repeats.
    """

    middle: float
    low: float | None
    high: float | None
    count: int

    @classmethod
    def of(cls, repeats: Sequence[float]) -> "Ratio | None":
        """From the ratio in each repeat, above 0; None of no repeat."""
        if not repeats:
            return None
        logs = [math.log(one) for one in repeats]
        middle, half = statistics.mean(logs), half_width(logs)
        if half is None:
            return cls(math.exp(middle), None, None, len(repeats))
        return cls(math.exp(middle), math.exp(middle - half), math.exp(middle + half), len(repeats))

    @property
    def is_above(self) -> bool:
        """Whether it is clearly above 1."""
        return self.low is not None and self.low > 1

    @property
    def is_below(self) -> bool:
        """Whether it is clearly below 1."""
        return self.high is not None and self.high < 1

    @property
    def gains_nothing(self) -> bool:
        """Whether it is clearly no gain that anyone would notice."""
        return self.high is not None and self.high < NOTICEABLE

    def advice(self, *thresholds: float) -> str:
        """Why this cannot tell on which side of the thresholds it is, and what would: words behind "cannot tell"."""
        if self.low is None or self.high is None:
            return f"{self.count} repeat(s) are too few; run with --repeats {FEWEST + 2}"
        half = math.log(self.high / self.middle)
        farthest = max(abs(math.log(self.middle / threshold)) for threshold in thresholds)
        needed = math.ceil(self.count * (half / farthest) ** 2) + 1 if farthest > 0 else _MOST_REPEATS
        more = min(max(needed, self.count + 1), max(_MOST_REPEATS, self.count + 1))
        return (
            f"{self.count} repeats put the ratio at {self.low:.2f} to {self.high:.2f}; run with --repeats {more}, with "
            "nothing else on the machine"
        )


@dataclass(frozen=True)
class Pays:
    """How far down dropping patches pays.

    Attributes:
        down_to: the smallest keep rate that is clearly faster than all larger ones that are.
        undecided: smaller keep rates of which the repeats cannot tell, each with its speed over that of ``down_to``.
    """

    down_to: float
    undecided: dict[float, Ratio]


def pays(speeds: Sequence[tuple[float, Sequence[float]]]) -> Pays | None:
    """Walk from full patches down; None where nothing was measured.

    Args:
        speeds: keep rate, and images per second in each repeat, the same repeats at every rate; in any order.
    """
    best: tuple[float, Sequence[float]] | None = None
    undecided: dict[float, Ratio] = {}
    for keep_rate, repeats in sorted(speeds, key=lambda one: -one[0]):
        if best is None:
            best = keep_rate, repeats
            continue
        ratio = Ratio.of([one / other for one, other in zip(repeats, best[1], strict=True)])
        if ratio is None:
            continue
        if ratio.is_above:
            best, undecided = (keep_rate, repeats), {}
        elif not ratio.gains_nothing:
            undecided[keep_rate] = ratio
    return None if best is None else Pays(best[0], undecided)
