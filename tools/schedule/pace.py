"""How long a training step takes at numbers of patches that nobody measured, from those that somebody did.

Pure arithmetic over three measured times of a step: the loader's alone, the training step's alone, and that of one
feeding the other, which is the slower side's times what the two cost one another, their *strain*. The training step's
time runs straight over its operations, which are a quadratic of the tokens; the loader's over the patches that are
kept; the strain over the operations. All of them piece by piece, from each measured stage to the next one, so that
nothing swings out between two of them.
"""

from dataclasses import dataclass

import numpy as np

_FEWEST_FOR_AN_ERROR = 3  # stages


@dataclass(frozen=True)
class Sides:
    """Seconds of a training step, each float64 of the same shape.

    Attributes:
        loader: of the loader, slowed down by the training step beside it.
        step: of the training step, slowed down by the loader beside it.
    """

    loader: np.ndarray
    step: np.ndarray

    @property
    def together(self) -> np.ndarray:
        """Of one feeding the other."""
        return np.maximum(self.loader, self.step)


@dataclass(frozen=True)
class Measured:
    """Measured stages, fewest patches first; all of shape [stages].

    Attributes:
        num_kept: patches.
        flops: operations of a training step for an image.
        loader_s, step_s, both_s: seconds of a step: of the loader alone, the training step alone, and of both.
    """

    num_kept: np.ndarray
    flops: np.ndarray
    loader_s: np.ndarray
    step_s: np.ndarray
    both_s: np.ndarray

    def sides_at(self, num_kept: np.ndarray, flops: np.ndarray) -> Sides:
        """Both sides at stages of any number of patches, of the shape of ``num_kept``; as measured where measured."""
        strain = np.interp(flops, self.flops, self.both_s / np.maximum(self.loader_s, self.step_s))
        loader_s = straight(num_kept, self.num_kept, self.loader_s)
        return Sides(strain * loader_s, strain * straight(flops, self.flops, self.step_s))

    def without(self, place: int) -> "Measured":
        """All stages but one."""
        columns = (self.num_kept, self.flops, self.loader_s, self.step_s, self.both_s)
        return Measured(*(np.delete(column, place) for column in columns))


def straight(at: np.ndarray, known_at: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Times between known ones, along straight lines from each to the next; float64, of the shape of ``at``.

    Before the first and behind the last the line goes on, but a smaller step never costs more, nor less than its share
    of the work; and a larger one never less. One known time alone is taken to hold everywhere.

    Args:
        known_at: where times are known, float [stages], rising.
        known: seconds, above 0, [stages].
    """
    inside = np.interp(at, known_at, known)
    if len(known) == 1:
        return inside
    slopes = np.diff(known) / np.diff(known_at)
    before = known[0] + slopes[0] * (at - known_at[0])
    behind = known[-1] + slopes[-1] * (at - known_at[-1])
    before = np.minimum(np.maximum(before, known[0] * at / known_at[0]), known[0])
    return np.where(at < known_at[0], before, np.where(at > known_at[-1], np.maximum(behind, known[-1]), inside))


def left_out_error(measured: Measured) -> float | None:
    """How far the others miss a measured stage, as a share of its time: the worst of those between two others.

    None of fewer than three stages. It is above the error between two neighbours that were both measured, for the gap
    is twice as wide.
    """
    if len(measured.num_kept) < _FEWEST_FOR_AN_ERROR:
        return None
    errors = []
    for place in range(1, len(measured.num_kept) - 1):
        at = slice(place, place + 1)
        told = measured.without(place).sides_at(measured.num_kept[at], measured.flops[at]).together[0]
        errors.append(abs(told / measured.both_s[place] - 1))
    return float(max(errors))
