"""The plan of a step: every decision about the input, as arrays, before a single image is read.

A plan is a pure function of (configuration, data set, step). Row i of the global batch is planned the same whatever the
number of ranks; a rank plans just its own rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from pipeline.config import DataConfig
from pipeline.plan.augmentation import AugmentPlan, check_repeats, plan_augment
from pipeline.plan.crops import NUM_CROP_DRAWS, centre_crops, pad_crops, resized_crops
from pipeline.plan.echo import plain_steps, views_left
from pipeline.plan.examples import SampleScores
from pipeline.plan.keyed import KeyedRows, Stream
from pipeline.plan.levels import scaled_crops, smallest_levels
from pipeline.plan.rows import earlier_epochs, rank_rows, steps_per_epoch, substitute
from pipeline.plan.schedule import PatchSchedule, Stage, num_kept_at
from pipeline.plan.short_epochs import SampleIds, ShortEpochs
from pipeline.plan.training_order import MixedOrder, PlainOrder, order_of


class Sizes(Protocol):
    """The sizes of images in pixels, int [num_samples] each."""

    @property
    def width(self) -> np.ndarray: ...
    @property
    def height(self) -> np.ndarray: ...


class Samples(SampleIds, Sizes, Protocol):
    """What a plan needs to know of a data set; a ``ShardIndex`` is one."""

    @property
    def label(self) -> np.ndarray: ...
    @property
    def levels(self) -> Sequence[Sizes]:
        """The same samples at smaller sizes, the largest first; empty where there is only the full size."""


class Selection(Protocol):
    """What a plan needs to know of how patches are selected."""

    def noise_columns(self, num_patches: int) -> int:
        """How many random numbers are taken for one image."""


CropKind = Literal["resized", "pad", "centre"]


@dataclass(frozen=True)
class StepPlan:
    """One rank's rows of one step.

    Shapes: B rows; C columns of noise, which is N (patches of an image), 1 (``grid``) or 0 (nothing is drawn).

    Attributes:
        step: training step, or number of the validation batch.
        first_row: position of row 0 in the global batch (validation: in the data set).
        sample_ids: int64 [B].
        labels: int64 [B].
        crops: float32 [B, 4], (top, left, bottom, right) in pixels of the image at full size; of the planner's ``crop``
            kind ``pad`` in pixels of the image resized to the stage's size, and it may reach beyond the border.
        flips: bool [B], True for the mirror image.
        noise: float32 [B, C] in [0, 1), the selection's random numbers.
        counted: bool [B], False for rows that only fill up a validation batch.
        augment: what is done to the images beyond crop and flip; None where nothing is.
        views_left: int64 [B], in how many more steps the same image will stand in the row; None without echo.
        weights: float32 [B], the factor of each row's loss where some examples stand for others; None where all are 1.
        levels: int64 [B], the size at which each image is read: 0 the full one, k the k-th of the samples' levels.
            None without levels.
        level_crops: float32 [B, 4], ``crops`` in pixels of the image at that size, not whole in general; None without.
    """

    step: int
    epoch: int
    stage: Stage
    first_row: int
    sample_ids: np.ndarray
    labels: np.ndarray
    crops: np.ndarray
    flips: np.ndarray
    noise: np.ndarray
    counted: np.ndarray
    augment: AugmentPlan | None = None
    views_left: np.ndarray | None = None
    weights: np.ndarray | None = None
    levels: np.ndarray | None = None
    level_crops: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        return len(self.sample_ids)

    @property
    def stored_crops(self) -> np.ndarray:
        """The crops in pixels of the images as they are read: float32 [B, 4]."""
        return self.crops if self.level_crops is None else self.level_crops

    def file_ids(self, num_rows: int) -> np.ndarray:
        """Rows of ``ShardIndex.files`` of an index of so many rows: int64 [B]."""
        return self.sample_ids if self.levels is None else self.sample_ids + num_rows * self.levels

    def rows(self, start: int, stop: int) -> "StepPlan":
        """The same plan for some of its rows."""
        parts = {
            f.name: getattr(self, f.name)[start:stop]
            for f in fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        augment = None if self.augment is None else self.augment.rows(start, stop)
        return replace(self, first_row=self.first_row + start, augment=augment, **parts)

    def micro_batches(self, micro_batch_size: int) -> Iterator["StepPlan"]:
        """The plan cut into the batches of gradient accumulation; the size must divide it."""
        assert self.num_rows % micro_batch_size == 0
        for start in range(0, self.num_rows, micro_batch_size):
            yield self.rows(start, start + micro_batch_size)


@dataclass(frozen=True)
class TrainPlanner:
    """Plans training steps. Holds no state: any step of any rank may be asked for at any time.

    Attributes:
        crop: how crops are made, at random: ``resized`` or ``pad``.
        training: images are augmented beyond crop and flip, where the configuration says so.
        order: which samples stand where.

    Raises:
        ValueError: the global batch is larger than an epoch, would hold a sample of one of several sources twice, or
            holds too few samples for its repeats; or an epoch is to see a single example.
    """

    samples: Samples
    data: DataConfig
    selection: Selection
    schedule: PatchSchedule
    global_batch_size: int
    seed: int
    order: PlainOrder | MixedOrder = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        order = order_of(self.samples, self.data, self.global_batch_size, self.seed)
        object.__setattr__(self, "order", order)
        steps_per_epoch(order.epoch_samples, self.global_batch_size)
        check_repeats(self.data.augment.repeats, self.global_batch_size)
        assert self.schedule.strengths == self.data.augment.schedules, "the schedule does not know data's strengths"
        of_growth = earlier_epochs(self.data.growth, self.global_batch_size)
        assert self.schedule.earlier == of_growth, "the schedule does not know of data's growth"
        assert len(self.samples.levels) == len(self.data.levels), "the samples were opened without their levels"
        self.short_epochs  # noqa: B018 - it checks its numbers

    @property
    def crop(self) -> CropKind:
        return self.data.augment.crop

    @property
    def training(self) -> bool:
        return True

    @property
    def sizes_vary(self) -> bool:
        """Whether stages tell other sizes of images and patches than ``data``."""
        return bool(self.schedule.config.sizes)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.order.epoch_samples, self.global_batch_size)

    @cached_property
    def short_epochs(self) -> ShortEpochs | None:
        """What the epochs see that leave examples out; None where none does."""
        examples, batch, data = self.schedule.config.examples, self.global_batch_size, self.data
        if examples is None:
            return None
        epochs = self.schedule.epochs
        return ShortEpochs(examples, epochs, self.samples, batch, self.seed, data.shuffle, data.window_shards)

    def needs_scores(self, step: int) -> bool:
        """Whether a step's samples follow from scores: see ``ShortEpochs``."""
        return self.short_epochs is not None and self.short_epochs.needs_scores(step)

    def plan(self, step: int, rank: int = 0, world_size: int = 1, scores: SampleScores | None = None) -> StepPlan:
        """The rows of ``rank`` in the global batch of ``step``.

        Args:
            scores: those in force in the step's epoch, where it ``needs_scores``; else they are not looked at.

        Raises:
            ValueError: a step outside the schedule's run, ranks that do not divide the batch, images to be mixed in
                pairs that the ranks do not divide, or a step that needs scores without those of its epoch.
        """
        return self.plan_at(self.schedule.stage(step), step, rank, world_size, scores)

    def plan_at(
        self, stage: Stage, step: int, rank: int = 0, world_size: int = 1, scores: SampleScores | None = None
    ) -> StepPlan:
        """``plan`` with another stage's patches in place of the schedule's. Strengths are always those of the step."""
        stage = replace(stage, strengths=self.schedule.strengths_at(step))
        data = self.data_at(stage)
        first_row, num_rows = rank_rows(self.global_batch_size, rank, world_size)
        rows, echo, echo_gap = first_row + np.arange(num_rows), self.data.echo, self.data.echo_gap
        keyed_rows = KeyedRows(self.seed, step, first_row, num_rows)
        epoch = self.schedule.epochs.split(step)[0]
        ids, weights = self._samples_of(step, rows, scores)
        labels = self.samples.label[ids].astype(np.int64)
        augment = data.augment.at(stage.strengths)
        plan = StepPlan(
            step=step,
            epoch=epoch,
            stage=stage,
            first_row=first_row,
            sample_ids=ids,
            labels=labels,
            crops=self._crops(keyed_rows, ids, data),
            flips=keyed_rows.uniform(Stream.FLIP, 1)[:, 0] < augment.flip_probability,
            noise=keyed_rows.uniform(Stream.SELECTION, self.selection.noise_columns(data.num_patches)),
            counted=np.ones(num_rows, dtype=bool),
            augment=plan_augment(augment, data.image_size, labels, keyed_rows, mixes=data.augment.mixes),
            views_left=views_left(step, rows, echo, echo_gap) if echo > 1 else None,
            weights=weights,
        )
        return self._at_levels(plan)

    def _samples_of(
        self, step: int, rows: np.ndarray, scores: SampleScores | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The samples at rows of a step (int64 [B]), and their weights, None where all are 1."""
        if self.short_epochs is not None and self.schedule.epochs.is_short(self.schedule.epochs.split(step)[0]):
            assert self.data.echo == self.data.augment.repeats == 1
            return self.short_epochs.samples_of(step, rows, scores)
        return self._sample_ids(plain_steps(step, rows, self.data.echo, self.data.echo_gap), rows), None

    def ids_ahead(self, step: int, world_size: int = 1) -> np.ndarray | None:
        """The samples of a step on all ranks, int64 [global batch]; None past the run, or where scores decide."""
        if step >= self.schedule.total_steps or self.needs_scores(step):
            return None
        return self._samples_of(step, np.arange(self.global_batch_size), None)[0]

    def source_rows(self, first_step: int, stop_step: int) -> dict[str, int] | None:
        """How many rows of these steps' global batches are of each source; None where there are no several."""
        if not isinstance(self.order, MixedOrder):
            return None
        counts = [self.order.rows_by_source(*self.schedule.epochs.split(step)) for step in range(first_step, stop_step)]
        return {name: sum(one[name] for one in counts) for name in counts[0]}

    def substitute(self, sample_id: int, attempt: int) -> int:
        """The sample that stands in for one that cannot be used; for each attempt, from 0, another one.

        It depends on the seed and the sample alone, so it is the same in every epoch, on every rank and after a resume.
        """
        return self.order.substitute(sample_id, attempt)

    def with_samples(self, plan: StepPlan, ids: np.ndarray) -> StepPlan:
        """The same rows with other samples: their labels, and the crops that the rows' own draws give their sizes.

        Rows that are mixed with them get their new labels too.
        """
        labels = self.samples.label[ids].astype(np.int64)
        replaced = replace(
            plan,
            sample_ids=ids,
            labels=labels,
            crops=self._crops(KeyedRows(self.seed, plan.step, plan.first_row, len(ids)), ids, self.data_at(plan.stage)),
            augment=None if plan.augment is None else plan.augment.with_labels(labels, plan.first_row),
        )
        return self._at_levels(replaced)

    def _sample_ids(self, steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The samples at these rows of these plain steps: int64 [B] each."""
        ids = np.empty_like(rows)
        for step in np.unique(steps):
            here = steps == step
            ids[here] = self.order.ids(*self.schedule.epochs.split(int(step)), rows[here])
        return ids

    def data_at(self, stage: Stage) -> DataConfig:
        """With the sizes that a stage tells."""
        return self.data.at(stage.image_size, stage.patch_size)

    def _crops(self, rows: KeyedRows, ids: np.ndarray, data: DataConfig) -> np.ndarray:
        augment = data.augment
        if augment.crop == "pad":
            return pad_crops(rows.uniform(Stream.CROP, 2), data.image_size, augment.pad_pixels)
        assert augment.crop == "resized"
        draws = rows.uniform(Stream.CROP, NUM_CROP_DRAWS)
        return resized_crops(self.samples.height[ids], self.samples.width[ids], draws, augment)

    def _at_levels(self, plan: StepPlan) -> StepPlan:
        """The plan with the level that each of its images is read at, where the samples have any."""
        every, ids = (self.samples, *self.samples.levels), plan.sample_ids
        if len(every) == 1:
            return plan
        sizes = np.stack([np.stack([one.height[ids], one.width[ids]], axis=1) for one in every])
        levels = smallest_levels(plan.crops, sizes[0], sizes[1:], self.data_at(plan.stage).image_size)
        stored_sizes = sizes[levels, np.arange(plan.num_rows)]
        return replace(plan, levels=levels, level_crops=scaled_crops(plan.crops, sizes[0], stored_sizes))


@dataclass(frozen=True)
class ValidationPlanner:
    """Plans one pass over a validation set at one keep rate, every sample counted exactly once.

    All ranks take the same number of batches, so that collective operations inside the model match; rows past the end
    of the data set repeat its first sample and are not counted.

    Attributes:
        first_row: of the first sample among all that rules draw for, where the set is one of several pieces.
        crop: how crops are made: the ``centre`` of the whole image resized.
        training: False: images are never augmented.
    """

    samples: Samples
    data: DataConfig
    selection: Selection
    keep_rate: float
    micro_batch_size: int
    seed: int
    first_row: int = 0

    @property
    def crop(self) -> CropKind:
        return "centre"

    @property
    def training(self) -> bool:
        return False

    @property
    def sizes_vary(self) -> bool:
        return False

    def num_batches(self, world_size: int = 1) -> int:
        """Batches that each rank takes."""
        return -(-self.samples.num_samples // (self.micro_batch_size * world_size))

    def ids_ahead(self, batch: int, world_size: int = 1) -> np.ndarray | None:
        """The samples of round ``batch`` on all ranks, int64; None past the pass."""
        num_rows = self.micro_batch_size * world_size
        positions = np.arange(batch * num_rows, min((batch + 1) * num_rows, self.samples.num_samples))
        return self.samples.sample_ids(positions) if len(positions) else None

    def plan(self, batch: int, rank: int = 0, world_size: int = 1) -> StepPlan:
        """The rows of ``rank`` in round ``batch`` of the pass."""
        first = (batch * world_size + rank) * self.micro_batch_size
        positions = first + np.arange(self.micro_batch_size)
        counted = positions < self.samples.num_samples
        ids = self.samples.sample_ids(np.where(counted, positions, 0))
        rows = KeyedRows(self.seed, 0, self.first_row + first, self.micro_batch_size)
        return StepPlan(
            step=batch,
            epoch=0,
            stage=Stage(self.keep_rate, num_kept_at(self.keep_rate, self.data.num_patches)),
            first_row=first,
            sample_ids=ids,
            labels=self.samples.label[ids].astype(np.int64),
            crops=self._crops(ids),
            flips=np.zeros(self.micro_batch_size, dtype=bool),
            noise=rows.uniform(Stream.VALIDATION_SELECTION, self.selection.noise_columns(self.data.num_patches)),
            counted=counted,
        )

    def substitute(self, sample_id: int, attempt: int) -> int:
        """A sample to fill the place of one that cannot be used, as in training."""
        return substitute(self.samples, self.seed, sample_id, attempt)

    def with_samples(self, plan: StepPlan, ids: np.ndarray) -> StepPlan:
        """The same rows with other samples, of which those that changed are no longer counted."""
        return replace(
            plan,
            sample_ids=ids,
            labels=self.samples.label[ids].astype(np.int64),
            crops=self._crops(ids),
            counted=plan.counted & (ids == plan.sample_ids),
        )

    def _crops(self, ids: np.ndarray) -> np.ndarray:
        heights, widths = self.samples.height[ids], self.samples.width[ids]
        return centre_crops(heights, widths, self.data.image_size, self.data.val_crop_fraction)
