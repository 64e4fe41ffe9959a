"""The plans of a rank's training steps, one after the other, as far as they can be made yet."""

from collections import deque
from collections.abc import Callable

from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.snapshots import ScoreBoard


class NotYetError(Exception):
    """The next plan needs scores that come of training the steps before it; ask again once they are there."""

    def __init__(self, moment: int) -> None:
        super().__init__(f"the scores of step {moment} are not there yet")
        self.moment = moment


class TrainPlans:
    """A rank's micro batches of the steps ``first_step`` to ``stop_step - 1``, in order: an iterator that may pause.

    Args:
        micro_batch_size: rows in each, or their number by the number of patches that a step keeps.
        scores: where the scores are found that some epochs' examples follow from; None where no step needs any.

    Raises:
        NotYetError: by ``next``, which goes on from there when it is asked again.
    """

    def __init__(
        self,
        planner: TrainPlanner,
        *,
        first_step: int,
        stop_step: int,
        micro_batch_size: int | Callable[[int], int],
        rank: int = 0,
        world_size: int = 1,
        scores: ScoreBoard | None = None,
    ) -> None:
        self._planner, self._step, self._stop_step = planner, first_step, stop_step
        self._micro_batch_size, self._rank, self._world_size = micro_batch_size, rank, world_size
        self._scores = scores
        self._left: deque[StepPlan] = deque()

    def __iter__(self) -> "TrainPlans":
        return self

    def __next__(self) -> StepPlan:
        if not self._left:
            if self._step >= self._stop_step:
                raise StopIteration
            self._left.extend(self._next_step())
            self._step += 1
        return self._left.popleft()

    def wait(self, moment: int, is_over: Callable[[], bool]) -> bool:
        """Wait until what a ``NotYetError`` named is there; False if ``is_over()`` comes true before."""
        assert self._scores is not None
        return self._scores.wait_for(moment, is_over) is not None

    def _next_step(self) -> list[StepPlan]:
        scores = None
        if self._scores is not None and self._planner.needs_scores(self._step):
            scores, moment = self._scores.newest, self._scores.moment_of(self._step)
            if scores is None or scores.step < moment:
                raise NotYetError(moment)
        plan = self._planner.plan(self._step, self._rank, self._world_size, scores)
        size = self._micro_batch_size
        return list(plan.micro_batches(size if isinstance(size, int) else size(plan.stage.num_kept)))
