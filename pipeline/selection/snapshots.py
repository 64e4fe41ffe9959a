"""When the pipeline sees the model's embedding, and how a snapshot of it gets from the trainer to the loader.

The moments are planned: they follow from the configuration, as everything else on the input side does. So no batch is
ever made under a snapshot that is out of date: the loader makes the batches up to a moment, and waits there until the
trainer, having come to that step, hands over the embedding as it is before it.
"""

import threading
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from pipeline.plan.examples import SampleScores
from pipeline.plan.schedule import PatchSchedule
from pipeline.selection.magnitude import EmbeddingSnapshot

_STEPS_AT_A_TIME = 4096
_SECONDS_BETWEEN_LOOKS = 0.1


class SnapshotMoments:
    """Steps before which a new snapshot is taken.

    Args:
        at: ``start``: step 0 only; ``epoch``: the first step of each epoch; ``stage``: wherever ``num_kept`` changes.
    """

    def __init__(self, at: Literal["start", "epoch", "stage"], schedule: PatchSchedule) -> None:
        self._at, self._schedule = at, schedule
        self._stretch = range(0)  # steps known to be of one stage, with the stage's first step

    def of(self, step: int) -> int:
        """The step of the snapshot that decides on the patches of ``step``; at most ``step``."""
        if self._at == "start":
            return 0
        if self._at == "epoch":
            return self._schedule.epochs.first_step(step)
        known = self._stretch  # read once: the trainer's thread and the loader's both ask
        if step not in known:
            known = range(self._stage_start(step, known), self._stage_known_until(step))
            self._stretch = known
        return known.start

    def _stage_start(self, step: int, known: range) -> int:
        if step > 0 and step == known.stop and not len(self._changes(step - 1, step + 1)):
            return known.start
        last = step
        while last > 0:
            first = max(0, last - _STEPS_AT_A_TIME)
            changes = self._changes(first, last + 1)
            if len(changes):
                return int(changes[-1])
            last = first
        return 0

    def _stage_known_until(self, step: int) -> int:
        stop = min(step + _STEPS_AT_A_TIME, self._schedule.total_steps)
        changes = self._changes(step, stop)
        return int(changes[0]) if len(changes) else stop

    def _changes(self, start: int, stop: int) -> np.ndarray:
        """Those of the steps ``start + 1`` to ``stop - 1`` that keep another number of patches than the one before."""
        return start + 1 + np.flatnonzero(np.diff(self._schedule.nums_kept(np.arange(start, stop))))


class Snapshot(Protocol):
    """What the input side sees of a run as it was before a step."""

    @property
    def step(self) -> int: ...


S = TypeVar("S", bound=Snapshot)


class Board(Generic[S]):
    """Where the trainer leaves a snapshot and the loader's thread finds it.

    Args:
        moment_of: the step of the snapshot that a step needs.
    """

    def __init__(self, moment_of: Callable[[int], int]) -> None:
        self.moment_of = moment_of
        self.newest: S | None = None
        self._changed = threading.Condition()

    def publish(self, snapshot: S) -> None:
        """Hand over a snapshot; it takes the place of the one before, which no later step needs."""
        with self._changed:
            self.newest = snapshot
            self._changed.notify_all()

    def wait_for(self, moment: int, is_over: Callable[[], bool]) -> S | None:
        """The snapshot of a moment, once it is there; None if ``is_over()`` comes true before.

        Raises:
            RuntimeError: the board holds a later one, so that this one will never come.
        """
        with self._changed:
            while self.newest is None or self.newest.step < moment:
                if is_over():
                    return None
                self._changed.wait(_SECONDS_BETWEEN_LOOKS)
            if self.newest.step > moment:
                raise RuntimeError(f"the snapshot of step {moment} is gone; the newest is of step {self.newest.step}")
            return self.newest


SnapshotBoard = Board[EmbeddingSnapshot]
ScoreBoard = Board[SampleScores]


def fixed_board(snapshot: EmbeddingSnapshot) -> SnapshotBoard:
    """A board with one snapshot for whatever step, as validation uses it."""
    board = SnapshotBoard(lambda _: snapshot.step)
    board.publish(snapshot)
    return board
