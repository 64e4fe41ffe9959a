"""How many rows of every global batch each of several sources has, and which: ``data.train`` with several folders.

A source's *share* is its part of the rows, and the shares sum to 1. A source's rows are counted over the whole run, so
that it is read through before any of its samples comes again, whatever its share and however long an epoch is.

Under ``batch`` every batch of B rows holds ``B * share`` rows of a source, rounded down or up, and so do the first k
batches of an epoch hold ``k * B * share``, rounded down or up. Whole rows go to each source at once; those that are
left over go one each to the sources that have to be served first, in the order of PD2 (Anderson and Srinivasan,
"Early-release fair scheduling", ECRTS 2000), which keeps to both bounds at every step. Of sources that are alike a key
decides.

Under ``epoch`` the epoch as a whole holds ``steps * B * share`` rows of a source, rounded down or up, and a keyed
permutation of all its rows says where they stand.

In either case a row's place among the others of its batch is a keyed permutation, so that ranks, which have consecutive
rows, have what chance gives them of the mixture. Nothing depends on their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil, gcd, lcm

import numpy as np

from pipeline.plan import keyed
from pipeline.plan.keyed import Stream
from pipeline.plan.order import permute
from pipeline.sources import MixPer

_ROUNDS = 8


@dataclass(frozen=True)
class Drawn:
    """What rows of a global batch show, int64 [B] each.

    Attributes:
        source: number of the source.
        count: how many rows of that source came before in the run.
    """

    source: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class Mixture:
    """The rows of a run by source. Holds no state.

    Args:
        shares: of the rows, one for each source; they are above 0 and sum to 1.
        epoch_steps: steps of an epoch.
    """

    shares: tuple[Fraction, ...]
    global_batch_size: int
    epoch_steps: int
    seed: int
    per: MixPer = "batch"

    def __post_init__(self) -> None:
        assert sum(self.shares) == 1, self.shares
        assert min(self.shares) > 0, self.shares

    def drawn(self, epoch: int, step_of_epoch: int, rows: np.ndarray) -> Drawn:
        """What stands at rows (int64 [B], each in [0, global_batch_size)) of a step of an epoch."""
        before, size = epoch * self.epoch_rows, self.global_batch_size
        if self.per == "batch":
            step = epoch * self.epoch_steps + step_of_epoch
            first, stop = self._rows_before(step_of_epoch), self._rows_before(step_of_epoch + 1)
            places = permute(rows, size, keyed.words(self.seed, Stream.MIXTURE, step, _ROUNDS))
            return _among(places, before + first, stop - first)
        assert self.per == "epoch", self.per
        words = keyed.words(self.seed, Stream.MIXTURE, epoch, _ROUNDS)
        places = permute(step_of_epoch * size + rows, self.epoch_steps * size, words)
        return _among(places, before, self.epoch_rows)

    def counts(self, epoch: int, step_of_epoch: int) -> np.ndarray:
        """Rows of each source in a step's global batch: int64 [sources]."""
        if self.per == "batch":
            return self._rows_before(step_of_epoch + 1) - self._rows_before(step_of_epoch)
        drawn = self.drawn(epoch, step_of_epoch, np.arange(self.global_batch_size))
        return np.bincount(drawn.source, minlength=len(self.shares))

    @cached_property
    def epoch_rows(self) -> np.ndarray:
        """Rows of each source in an epoch: int64 [sources]."""
        if self.per == "batch":
            return self._rows_before(self.epoch_steps)
        exact = [share * self.epoch_steps * self.global_batch_size for share in self.shares]
        rows = np.array([int(one) for one in exact], dtype=np.int64)
        left = self.epoch_steps * self.global_batch_size - int(rows.sum())
        largest = sorted(range(len(exact)), key=lambda i: (int(exact[i]) - exact[i], self._turns[i]))[:left]
        rows[largest] += 1
        return rows

    @cached_property
    def most_rows(self) -> np.ndarray:
        """Rows of each source in a global batch at the most, under ``batch``: int64 [sources]."""
        return np.array([ceil(share * self.global_batch_size) for share in self.shares], dtype=np.int64)

    @cached_property
    def _turns(self) -> list[int]:
        """Who is served first of sources that are alike."""
        words = keyed.words(self.seed, Stream.MIXTURE, 2**64 - 1, len(self.shares))
        return np.argsort(np.argsort(words)).tolist()

    @cached_property
    def _whole(self) -> np.ndarray:
        return np.array([share * self.global_batch_size // 1 for share in self.shares], dtype=np.int64)

    @cached_property
    def _left_over(self) -> np.ndarray:
        parts = [share * self.global_batch_size % 1 for share in self.shares]
        return np.cumsum(left_over_rows(parts, self.epoch_steps, self._turns), axis=0, dtype=np.int64)

    def _rows_before(self, step_of_epoch: int) -> np.ndarray:
        """Rows of each source in an epoch's steps before this one, under ``batch``: int64 [sources]."""
        periods, step = divmod(step_of_epoch, len(self._left_over) - 1)
        return step_of_epoch * self._whole + periods * self._left_over[-1] + self._left_over[step]


def _among(places: np.ndarray, before: np.ndarray, rows: np.ndarray) -> Drawn:
    """Who stands at places 0 to ``rows.sum()`` - 1, the sources one behind the other, each with its rows before."""
    ends = np.cumsum(rows)
    source = np.searchsorted(ends, places, side="right")
    return Drawn(source, before[source] + places - (ends - rows)[source])


def left_over_rows(parts: Sequence[Fraction], most_steps: int, turns: Sequence[int]) -> np.ndarray:
    """Which sources get one of the rows that are left over at each step: bool [steps + 1, sources], row 0 of none.

    After k steps source i has had ``k * parts[i]`` of them, rounded down or up. That repeats after as many steps as
    there are rows here but one, unless these are ``most_steps``.

    Args:
        parts: rows a step that are due to each source, in [0, 1); their sum is a whole number, the rows left over.
        turns: a number for each source; of those that are alike the lowest is served first.
    """
    whole = lcm(*(part.denominator for part in parts))
    dues = [int(part * whole) for part in parts]
    num_left, steps = sum(dues) // whole, min(most_steps, whole // gcd(whole, *dues))
    served, waiting = np.zeros((steps + 1, len(parts)), dtype=bool), [i for i, due in enumerate(dues) if due]
    had = [0] * len(parts)
    first_steps, urgencies = [0] * len(parts), [_urgency(due, whole, 1) if due else () for due in dues]
    for step in range(steps):
        ready = sorted((urgencies[i], turns[i], i) for i in waiting if first_steps[i] <= step)[:num_left]
        for _, _, i in ready:
            served[step + 1, i] = True
            had[i] += 1
            first_steps[i], urgencies[i] = had[i] * whole // dues[i], _urgency(dues[i], whole, had[i] + 1)
    return served


def _urgency(due: int, whole: int, number: int) -> tuple[int, int, int]:
    """How soon a source has to be served that gets ``due / whole`` rows a step, with its row of this number, from 1.

    The lower goes first: by the step before which it has to be; then where the next row's time begins before that; then
    by when a row of steps ends in each of which it will have to be served.
    """
    deadline = _up(number * whole, due)
    overlaps = number * whole % due != 0
    group = 0
    if overlaps and 2 * due >= whole:
        group = _up(_up(deadline * (whole - due), whole) * whole, whole - due)
    return deadline, -overlaps, -group


def _up(number: int, by: int) -> int:
    """The quotient, rounded up."""
    return -(-number // by)
