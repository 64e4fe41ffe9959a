"""The samples of epochs that leave examples out: chosen once an epoch, then in an order of their own."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np

from pipeline.plan.epochs import Epochs
from pipeline.plan.examples import ExamplesConfig, SampleScores, choose_examples
from pipeline.plan.order import SampleOrder


class SampleIds(Protocol):
    """Which samples a data set has."""

    @property
    def num_samples(self) -> int: ...
    @property
    def shard_sizes(self) -> np.ndarray: ...
    def sample_ids(self, positions: np.ndarray) -> np.ndarray:
        """Ids (rows of ``label``, ``width``, ``height``) of the samples at these places, 0 to num_samples - 1."""


class ShortEpoch(NamedTuple):
    """What one epoch sees.

    Attributes:
        places: int64 [M], the places of its samples among all, ascending.
        weights: float32 [M]; None where all weigh 1.
        order: of the M samples.
    """

    places: np.ndarray
    weights: np.ndarray | None
    order: SampleOrder


@dataclass(frozen=True)
class ShortEpochs:
    """All of a run's short epochs. Holds nothing but the epoch that was asked for last, to save the time.

    Args:
        shuffle, window_shards: as for ``SampleOrder``.

    Raises:
        ValueError: an epoch is to see a single example.
    """

    config: ExamplesConfig
    epochs: Epochs
    samples: SampleIds
    global_batch_size: int
    seed: int
    shuffle: Literal["global", "window"]
    window_shards: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_epoch", lru_cache(maxsize=1)(self._choose))
        if self.num_kept < 2:
            raise ValueError(
                f"schedule.examples keeps {self.num_kept} example of {self.samples.num_samples} in an epoch, and at "
                "least two are needed; raise schedule.examples.keep or train.global_batch_size"
            )

    @property
    def num_kept(self) -> int:
        """Examples that an epoch sees: whole steps of them."""
        return self.epochs.short_steps * self.global_batch_size

    def needs_scores(self, step: int) -> bool:
        """Whether a step's samples follow from the scores as they are where its epoch begins.

        They do not in the first epoch, before which nothing is known.
        """
        epoch = self.epochs.split(step)[0]
        return self.config.of_rule.is_scored and epoch > 0 and self.epochs.is_short(epoch)

    def samples_of(
        self, step: int, rows: np.ndarray, scores: SampleScores | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The sample ids at rows (int64 [B]) of a short epoch's step, and their weights (float32 [B]; None: all 1).

        Raises:
            ValueError: the step needs scores, and these are none or not those of its epoch.
        """
        epoch, step_of_epoch = self.epochs.split(step)
        first_step = step - step_of_epoch
        if not self.needs_scores(step):
            scores = None
        elif scores is None or scores.step != first_step:
            found = "none are there" if scores is None else f"those at hand are of step {scores.step}"
            raise ValueError(
                f"the examples of step {step} follow from the scores of all samples at step {first_step}, and {found}: "
                "a training run has them, and its checkpoints"
            )
        chosen: ShortEpoch = self._epoch(epoch, scores)  # type: ignore[attr-defined]
        at = chosen.order.sample_ids(epoch, step_of_epoch * self.global_batch_size + rows)
        return self.samples.sample_ids(chosen.places[at]), None if chosen.weights is None else chosen.weights[at]

    def _choose(self, epoch: int, scores: SampleScores | None) -> ShortEpoch:
        """Takes time and memory for every sample of the data set."""
        num_samples = self.samples.num_samples
        places, weights = choose_examples(
            self.config,
            None if scores is None else scores.scores[self.samples.sample_ids(np.arange(num_samples))],
            seed=self.seed,
            epoch=epoch,
            num_samples=num_samples,
            num_kept=self.num_kept,
        )
        ends_of_shards = np.cumsum(np.asarray(self.samples.shard_sizes, dtype=np.int64))
        kept_of_shards = np.diff(np.searchsorted(places, ends_of_shards), prepend=0)
        return ShortEpoch(places, weights, SampleOrder(kept_of_shards, self.seed, self.shuffle, self.window_shards))
