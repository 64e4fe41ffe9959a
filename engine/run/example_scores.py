"""The trainer's side of ``schedule.examples``: what every sample scored when last visited, the same on all ranks.

Each rank keeps what its rows came to on its device. Before an epoch that needs scores, and for a checkpoint, the ranks
exchange these and take them in step by step and row by row, in the order of the global batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from engine.checkpoints.state_files import read_state
from engine.losses import topk_correct
from engine.metrics import MetricsFile
from engine.ranks.world import World
from engine.task import Outcome
from pipeline.batch import Batch
from pipeline.plan.examples import SampleScores
from pipeline.plan.step import TrainPlanner
from pipeline.selection.snapshots import ScoreBoard

SCORES_FILE = "example_scores.pt"  # in a checkpoint


@dataclass(frozen=True)
class Tally:
    """What is known of the samples, by id.

    Attributes:
        scores: float32 [ids], NaN where nothing is known.
        were_right: bool [ids], whether each was classified right at its last visit; False where it was not visited.
    """

    scores: np.ndarray
    were_right: np.ndarray

    @classmethod
    def empty(cls, num_ids: int) -> "Tally":
        return cls(SampleScores.unknown(0, num_ids).scores, np.zeros(num_ids, dtype=bool))


def losses_of(batch: Batch, outcome: Outcome) -> Tensor:
    """The loss of each row, unweighted: float32 [B]."""
    return outcome.losses.detach()


def rights_of(batch: Batch, outcome: Outcome) -> Tensor:
    """1 for each row whose likeliest class is its label, 0 else: float32 [B]. Of two mixed labels the weightier."""
    assert outcome.logits is not None
    labels = batch.labels
    if batch.mix_labels is not None and batch.mix_weights is not None:
        labels = torch.where(batch.mix_weights >= 0.5, labels, batch.mix_labels)
    return topk_correct(outcome.logits.detach(), labels, 1).float()


def take_losses(tally: Tally, ids: np.ndarray, losses: np.ndarray) -> None:
    """The score is the loss at the last visit."""
    tally.scores[ids] = losses


def take_rights(tally: Tally, ids: np.ndarray, rights: np.ndarray) -> None:
    """The score counts how often a sample was right and at the next visit wrong; unknown until it is right once."""
    is_right = rights > 0
    forgotten, learnt = ids[~is_right & tally.were_right[ids]], ids[is_right & np.isnan(tally.scores[ids])]
    tally.scores[forgotten] += 1
    tally.scores[learnt] = 0
    tally.were_right[ids] = is_right


@dataclass(frozen=True)
class Recorded:
    """What a rule wants to know of each visit, and what becomes of it."""

    seen: Callable[[Batch, Outcome], Tensor]
    take: Callable[[Tally, np.ndarray, np.ndarray], None]


RECORDED = {"loss": Recorded(losses_of, take_losses), "forgetting": Recorded(rights_of, take_rights)}


@dataclass
class ScoreRecord:
    """Collects, exchanges, hands over and saves.

    Attributes:
        recorded: an entry of ``RECORDED``.
        rows_per_rank: this rank's rows of each global batch.
    """

    planner: TrainPlanner
    recorded: Recorded
    rows_per_rank: int
    world: World
    board: ScoreBoard = field(init=False)

    def __post_init__(self) -> None:
        self.board = ScoreBoard(self.planner.schedule.epochs.first_step)
        self._tally = Tally.empty(len(self.planner.samples.label))
        self._ids: list[np.ndarray] = []
        self._seen: list[Tensor] = []

    def observe(self, batch: Batch, outcome: Outcome) -> None:
        """Note what a micro batch came to; waits for nothing. What full epochs come to, no epoch after them needs."""
        if self._records(batch.plan.step):
            self._ids.append(batch.plan.sample_ids)
            self._seen.append(self.recorded.seen(batch, outcome))

    def publish_if_due(self, step: int, metrics: MetricsFile) -> None:
        """Before training ``step``: hand the loader the scores, if an epoch begins that needs them. Collective."""
        if not self.planner.needs_scores(step) or self.board.moment_of(step) != step:
            return
        self._exchange()
        self.board.publish(SampleScores(step, self._tally.scores.copy()))
        known = self._tally.scores[~np.isnan(self._tally.scores)]
        mean = known.mean(dtype=np.float64) if known.size else None
        metrics.write(
            {
                "event": "examples",
                "step": step,
                "epoch": self.planner.schedule.epochs.split(step)[0],
                "num_known": len(known),
                "mean_score": None if mean is None else float(mean),
                "num_above_mean": 0 if mean is None else int((known > mean).sum()),
            }
        )

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the scores in force, and what has been seen since. Collective."""
        self._exchange()
        newest = self.board.newest
        in_force = {} if newest is None else {"step": newest.step, "in_force": torch.from_numpy(newest.scores)}
        return {
            "scores": torch.from_numpy(self._tally.scores.copy()),
            "were_right": torch.from_numpy(self._tally.were_right.copy()),
            **in_force,
        }

    def restore(self, checkpoint: Path, step: int) -> None:
        """Go on at ``step`` from what ``state`` returned.

        Raises:
            ValueError: the step needs scores that are not in the checkpoint.
            OSError: it cannot be read.
        """
        if not self._records(step):
            return
        path, moment = checkpoint / SCORES_FILE, self.board.moment_of(step)
        state = read_state(path) if path.exists() else {}
        num_ids = len(self._tally.scores)
        fits = "scores" in state and len(state["scores"]) == num_ids
        in_force = self.planner.needs_scores(step) and moment < step
        if not fits or (in_force and state.get("step") != moment):
            found = f"those of {len(state['scores'])} samples at step {state.get('step')}" if state else "none"
            raise ValueError(
                f"to go on at step {step}, schedule.examples needs the scores of {num_ids} samples as they were at "
                f"step {moment}, and {checkpoint} holds {found}; go on from a checkpoint of this run and of "
                "these samples, "
                "or give --resume never to start anew"
            )
        self._tally = Tally(state["scores"].numpy().copy(), state["were_right"].numpy().copy())
        if in_force:
            self.board.publish(SampleScores(moment, state["in_force"].numpy().copy()))

    def _records(self, step: int) -> bool:
        epochs = self.planner.schedule.epochs
        return epochs.is_short(epochs.split(step)[0])

    def _exchange(self) -> None:
        """Take in what all ranks have seen since the last time. Collective."""
        if not self._ids:
            return
        own = np.concatenate(self._ids), torch.cat(self._seen)
        self._ids, self._seen = [], []
        ids = _of_all_ranks(torch.from_numpy(own[0]).to(self.world.device), self.rows_per_rank, self.world)
        seen = _of_all_ranks(own[1], self.rows_per_rank, self.world)
        for ids_of_step, seen_of_step in zip(ids, seen, strict=True):
            self.recorded.take(self._tally, ids_of_step, seen_of_step)


def _of_all_ranks(own: Tensor, rows_per_rank: int, world: World) -> np.ndarray:
    """What the ranks have of some steps, [steps * rows_per_rank] each: [steps, rows of the global batch]."""
    parts = [own]
    if world.size > 1:
        parts = [torch.empty_like(own) for _ in range(world.size)]
        dist.all_gather(parts, own)
    whole = torch.stack([part.view(-1, rows_per_rank) for part in parts], dim=1)
    return whole.flatten(1).cpu().numpy()


def open_scores(planner: TrainPlanner, rows_per_rank: int, world: World) -> ScoreRecord | None:
    """What records the scores of a run; None where no epoch needs any."""
    examples = planner.schedule.config.examples
    if examples is None or not examples.of_rule.is_scored:
        return None
    return ScoreRecord(planner, RECORDED[examples.rule], rows_per_rank, world)
