"""Which samples a training step shows: of one folder by its order, of several by their mixture and orders."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import numpy as np

from pipeline.config import DataConfig
from pipeline.growth import told
from pipeline.plan import keyed
from pipeline.plan.augmentation import order_positions
from pipeline.plan.keyed import Stream
from pipeline.plan.mixture import Mixture
from pipeline.plan.order import SampleOrder
from pipeline.plan.rows import steps_per_epoch, substitute
from pipeline.plan.short_epochs import SampleIds
from pipeline.sources import Sources, epoch_samples, shares_of


class SourceSamples(Protocol):
    """One of several sources: ``index`` has its samples by ids of its own, from 0, which ``first_id`` is added to."""

    @property
    def name(self) -> str: ...
    @property
    def first_id(self) -> int: ...
    @property
    def index(self) -> SampleIds: ...


class MixedSamples(Protocol):
    """What is known of a data set of several sources; a ``MixedIndex`` is one."""

    @property
    def sources(self) -> Sequence[SourceSamples]: ...


@dataclass(frozen=True)
class PlainOrder:
    """That of one folder. Holds no state, as ``MixedOrder`` does not, which takes its place.

    Raises:
        ValueError: the first shards do not hold as many samples as ``data.growth`` says.
    """

    samples: SampleIds
    data: DataConfig
    global_batch_size: int
    seed: int

    def __post_init__(self) -> None:
        sizes = np.asarray(self.samples.shard_sizes)
        for one in self.data.growth:
            if one.shards >= len(sizes) or sizes[: one.shards].sum() != one.samples:
                raise ValueError(
                    f"data.growth says that the training set had {one.shards} shards of {one.samples} samples before "
                    f"epoch {one.before_epoch}; now it has {len(sizes)}, of which the first {one.shards} hold "
                    f"{sizes[: one.shards].sum()}: bring back the set that has grown so, or correct data.growth"
                )

    @property
    def epoch_samples(self) -> int:
        """Samples that an epoch sees, where it leaves none out; of a set that has grown those from then on."""
        return self.samples.num_samples

    def ids(self, epoch: int, step_of_epoch: int, rows: np.ndarray) -> np.ndarray:
        """The samples at rows (int64 [B]) of a step's global batch: int64 [B]."""
        positions = order_positions(step_of_epoch, self.global_batch_size, self.data.augment.repeats, rows)
        order = self._orders[bisect_right([one.before_epoch for one in self.data.growth], epoch)]
        return self.samples.sample_ids(order.sample_ids(epoch, positions))

    def substitute(self, sample_id: int, attempt: int) -> int:
        """One of those that were there when the sample came, so that it stays the same when others come."""
        for one in self.data.growth:
            if sample_id <= self.samples.sample_ids(np.array([one.samples - 1]))[0]:
                return substitute(self.samples, self.seed, sample_id, attempt, one.samples)
        return substitute(self.samples, self.seed, sample_id, attempt)

    def told(self) -> str:
        """How the set has grown, for people; empty where it has not."""
        return told(self.data.growth)

    @cached_property
    def _orders(self) -> list[SampleOrder]:
        """That of the epochs before each change of the set, and of those behind the last one."""
        sizes = np.asarray(self.samples.shard_sizes)
        parts = [*(sizes[: one.shards] for one in self.data.growth), sizes]
        return [SampleOrder(part, self.seed, self.data.shuffle, self.data.window_shards) for part in parts]


@dataclass(frozen=True)
class MixedOrder:
    """That of several sources. Each has an order of its own, which follows from the seed and its name.

    Raises:
        ValueError: a global batch is larger than an epoch, or would hold a sample of some source more than once.
    """

    samples: MixedSamples
    data: DataConfig
    global_batch_size: int
    seed: int

    def __post_init__(self) -> None:
        assert [source.name for source in self.samples.sources] == [source.name for source in self.configured]
        if self.data.mix_per != "batch":
            return
        for source, most in zip(self.samples.sources, self.mixture.most_rows.tolist(), strict=True):
            if most > source.index.num_samples:
                raise ValueError(
                    f"data.train.{source.name} holds {source.index.num_samples} samples, but has {most} rows in a "
                    "global batch: an image would stand in it twice; give it less of the rows, or lower "
                    "train.global_batch_size"
                )

    @property
    def configured(self) -> Sources:
        assert isinstance(self.data.train, tuple)
        return self.data.train

    @property
    def epoch_samples(self) -> int:
        return epoch_samples(self.configured, self._sizes)

    @cached_property
    def mixture(self) -> Mixture:
        """Which rows are whose."""
        shares, batch = shares_of(self.configured, self._sizes), self.global_batch_size
        return Mixture(shares, batch, steps_per_epoch(self.epoch_samples, batch), self.seed, self.data.mix_per)

    def ids(self, epoch: int, step_of_epoch: int, rows: np.ndarray) -> np.ndarray:
        drawn, found = self.mixture.drawn(epoch, step_of_epoch, rows), np.empty(len(rows), dtype=np.int64)
        for number in np.unique(drawn.source).tolist():
            here, source = drawn.source == number, self.samples.sources[number]
            passes, positions = np.divmod(drawn.count[here], source.index.num_samples)
            places = np.empty_like(positions)
            for one in np.unique(passes).tolist():
                places[passes == one] = self._orders[number].sample_ids(one, positions[passes == one])
            found[here] = source.first_id + source.index.sample_ids(places)
        return found

    def substitute(self, sample_id: int, attempt: int) -> int:
        """One of the same source, so that the shares stay."""
        source = next(one for one in reversed(self.samples.sources) if one.first_id <= sample_id)
        return source.first_id + substitute(source.index, self.seed, sample_id, attempt)

    def rows_by_source(self, epoch: int, step_of_epoch: int) -> dict[str, int]:
        """How many rows of a step's global batch are of each source, by its name."""
        counts = self.mixture.counts(epoch, step_of_epoch).tolist()
        return {source.name: count for source, count in zip(self.configured, counts, strict=True)}

    def told(self) -> str:
        """The mixture, for people."""
        parts = [
            f"{source.name} {float(share):.4g} of the rows ({size} samples, {rows / size:.3g} passes an epoch)"
            for source, share, size, rows in zip(
                self.configured, self.mixture.shares, self._sizes, self.mixture.epoch_rows.tolist(), strict=True
            )
        ]
        return f"sources, mixed by the {self.data.mix_per}: {', '.join(parts)}"

    @cached_property
    def _sizes(self) -> list[int]:
        return [source.index.num_samples for source in self.samples.sources]

    @cached_property
    def _orders(self) -> list[SampleOrder]:
        shuffle, window = self.data.shuffle, self.data.window_shards
        return [
            SampleOrder(source.index.shard_sizes, _seed_of(source.name, self.seed), shuffle, window)
            for source in self.samples.sources
        ]


def order_of(samples: SampleIds, data: DataConfig, global_batch_size: int, seed: int) -> PlainOrder | MixedOrder:
    """The order of a run's training samples. Raises as ``MixedOrder``."""
    if isinstance(data.train, tuple):
        return MixedOrder(cast(MixedSamples, samples), data, global_batch_size, seed)
    return PlainOrder(samples, data, global_batch_size, seed)


def _seed_of(name: str, seed: int) -> int:
    counter = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return int(keyed.words(seed, Stream.SOURCE, counter, 1)[0])
