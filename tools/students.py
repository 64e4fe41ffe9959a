"""How far a mean of a few measurements can be trusted: Student's t."""

import math
import statistics
from collections.abc import Sequence

FEWEST = 3  # of two the interval is thirteen standard errors wide to either side: it would pretend to know a spread
# What 95 % lie within, for 2 degrees of freedom and more; for still more than these the last one serves.
_T95 = (
    *(4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11, 2.1),
)


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of some measurements; None of fewer than three."""
    if len(values) < FEWEST:
        return None
    t = _T95[min(len(values) - FEWEST, len(_T95) - 1)]
    return t * statistics.stdev(values) / math.sqrt(len(values))
