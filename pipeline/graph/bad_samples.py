"""Samples that cannot be used: found row by row, named, and replaced by planned substitutes.

Whether a row is bad depends on its image's bytes, its entry in the index and its planned window alone, and its
substitute on (seed, sample id, attempt) alone. What is remembered from batch to batch says only where to look first.
So the rows that come out are the same on any number of ranks, under any prefetching and after a resume.

What cannot be seen: damage inside an image that decodes without complaint, and damage outside of the decoded window.
``python -m tools.shards verify`` finds the latter, and the former where dataset.json holds the shards' SHA-256.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pipeline.config import AugmentConfig
from pipeline.graph.graph import GraphSettings, SourceArrays, row_sizes, run_once, source_arrays
from pipeline.plan.step import StepPlan
from pipeline.shards.image_header import image_size, is_parsable, why_undecodable
from pipeline.shards.index import ShardIndex
from pipeline.shards.reader import SampleReader

MAX_ATTEMPTS = 100
_NOT_READ = np.empty(0, dtype=np.uint8)
_SHOWN = 3


class Planner(Protocol):
    """Who knows the substitutes; a ``TrainPlanner`` and a ``ValidationPlanner`` do."""

    def substitute(self, sample_id: int, attempt: int) -> int: ...
    def with_samples(self, plan: StepPlan, ids: np.ndarray) -> StepPlan: ...


class BadSampleError(ValueError):
    """Samples of a batch cannot be used."""


@dataclass(frozen=True)
class BadRow:
    """A row whose planned sample cannot be used.

    Attributes:
        step, row: training step (validation: batch) and row of its global batch.
        offset: of the image's bytes within the shard.
        substitute_id: the sample in its place; None in validation, where the row is not counted.
    """

    step: int
    row: int
    sample_id: int
    shard: str
    key: str
    offset: int
    cause: str
    substitute_id: int | None

    def __str__(self) -> str:
        return f"sample {self.key!r} in {self.shard} at byte {self.offset}: {self.cause}"


@dataclass(frozen=True)
class Rows:
    """A plan as it can be carried out: with its images, and what had to be replaced.

    images: uint8 [bytes] each, or once decoded uint8 [H, W, 3].
    """

    plan: StepPlan
    images: list[np.ndarray]
    bad: tuple[BadRow, ...]


class RowReader:
    """Reads the images of plans, and keeps bad ones away from the graph.

    Args:
        settings: of the graph that the rows are for.
        planner: gives bad rows substitutes; None: a bad row is an error.
    """

    def __init__(
        self, index: ShardIndex, reader: SampleReader, settings: GraphSettings, planner: Planner | None
    ) -> None:
        self._index, self._reader, self._settings, self._planner = index, reader, settings, planner
        # Rows that are tried alone are decoded and cropped: what comes after has no part in their failing.
        plain = AugmentConfig(crop=settings.data.augment.crop)
        self._plain = replace(settings, data=settings.data.model_copy(update={"augment": plain}))
        self._suspects: set[int] = set()  # ids of samples that have failed in the graph

    def read(self, plan: StepPlan, known: Collection[int] = ()) -> Rows:
        """The rows of a plan, bad ones replaced.

        Rows in ``known`` are known to be sound and are not read: their images are empty. A bad row that looks sound
        from outside and was never suspected is only found by the graph; see ``examine``.

        Raises:
            BadSampleError: a row is bad and there is no planner, or no substitute of it can be used.
            ValueError, OSError: see ``SampleReader.read``.
        """
        rows = [row for row in range(plan.num_rows) if row not in known]
        encoded = [_NOT_READ] * plan.num_rows
        causes = {}
        for row, image, is_sound in zip(rows, *self._reader.read_checked(plan.sample_ids[rows]), strict=True):
            encoded[row] = image
            if is_sound and not self._suspects:
                continue
            sample_id = plan.sample_ids[row]
            cause = None if is_sound else self._fault_outside(sample_id, image)
            if cause is None and int(sample_id) in self._suspects:
                cause = self._fault_inside(plan.rows(row, row + 1), image)
            if cause is not None:
                causes[row] = cause
        return self._replaced(plan, encoded, causes) if causes else Rows(plan, encoded, ())

    def examine(self, rows: Rows) -> bool:
        """Look for the rows that a graph has failed on, and suspect their samples from now on.

        Returns:
            Whether there are any that were not suspected before.

        Raises:
            BadSampleError: there are, and there is no planner.
        """
        failing = failing_rows(lambda start, stop: self._runs(rows, start, stop), 0, rows.plan.num_rows)
        if failing and self._planner is None:
            self._replaced(rows.plan, rows.images, {row: why_undecodable(rows.images[row].data) for row in failing})
        found = {int(rows.plan.sample_ids[row]) for row in failing} - self._suspects
        self._suspects |= found
        return bool(found)

    def arrays(self, rows: Rows) -> SourceArrays:
        """The rows as the graph's inputs."""
        return self._arrays(rows, self._settings)

    def _arrays(self, rows: Rows, settings: GraphSettings) -> SourceArrays:
        return source_arrays(rows.plan, rows.images, settings, row_sizes(rows.plan, self._index))

    def _fault_outside(self, sample_id: int, image: np.ndarray) -> str | None:
        """What is wrong with an image by its header; a decompression bomb is never decoded."""
        if not len(image):
            return "the image is empty"
        size = image_size(image.data)
        if size is None:
            return why_undecodable(image.data)
        height, width = self._index.height[sample_id], self._index.width[sample_id]
        if size != (height, width):
            return f"is {size[1]}x{size[0]} pixels by its header, but {width}x{height} in the index"
        return None if is_parsable(image.data) else why_undecodable(image.data)

    def _fault_inside(self, plan: StepPlan, image: np.ndarray) -> str | None:
        """What is wrong with one row's image by the graph itself, None where it runs."""
        return None if self._runs(Rows(plan, [image], ()), 0, 1) else why_undecodable(image.data)

    def _runs(self, rows: Rows, start: int, stop: int) -> bool:
        part = Rows(replace(rows.plan.rows(start, stop), augment=None), rows.images[start:stop], ())
        try:
            run_once(self._arrays(part, self._plain), self._plain)
        except RuntimeError:
            return False
        return True

    def _replaced(self, plan: StepPlan, encoded: list[np.ndarray], causes: dict[int, str]) -> Rows:
        bad = [self._describe(plan, row, cause) for row, cause in causes.items()]
        if self._planner is None:
            raise BadSampleError(
                f"{self._index.folder}: {len(bad)} image(s) of step {plan.step} cannot be used: {_listed(bad)}. "
                f"To leave such samples out: python -m tools.shards verify {self._index.folder} --exclude; "
                "to go on with substitutes: data.on_bad_sample: skip"
            )
        ids, encoded = plan.sample_ids.copy(), list(encoded)
        for row in causes:
            ids[row], encoded[row] = self._substitute(plan, row)
        replaced = self._planner.with_samples(plan, ids)
        counted = [
            replace(one, substitute_id=int(ids[row]) if replaced.counted[row] else None)
            for row, one in zip(causes, bad, strict=True)
            if plan.counted[row]
        ]
        return Rows(replaced, encoded, tuple(counted))

    def _substitute(self, plan: StepPlan, row: int) -> tuple[int, np.ndarray]:
        """The first planned substitute of a row that runs through the graph: its id and its image's bytes."""
        assert self._planner is not None
        sample_id = int(plan.sample_ids[row])
        for attempt in range(MAX_ATTEMPTS):
            candidate = np.array([self._planner.substitute(sample_id, attempt)])
            [image] = self._reader.read(candidate)
            if self._fault_outside(candidate[0], image) is None:
                planned = self._planner.with_samples(plan.rows(row, row + 1), candidate)
                if self._fault_inside(planned, image) is None:
                    return int(candidate[0]), image
        raise BadSampleError(
            f"none of {MAX_ATTEMPTS} substitutes for {self._index.describe(sample_id)} can be decoded either; to see "
            f"what is wrong with the data set: python -m tools.shards verify {self._index.folder}"
        )

    def _describe(self, plan: StepPlan, row: int, cause: str) -> BadRow:
        sample_id = int(plan.sample_ids[row])
        index = self._index
        return BadRow(
            plan.step,
            plan.first_row + row,
            sample_id,
            index.shards[index.shard[sample_id]].name,
            index.key(sample_id),
            int(index.offset[sample_id]),
            cause,
            None,
        )


def failing_rows(runs: Callable[[int, int], bool], start: int, stop: int) -> list[int]:
    """The rows from ``start`` to ``stop - 1`` on which ``runs(start, stop)`` fails, by halving."""
    if runs(start, stop):
        return []
    if stop - start == 1:
        return [start]
    middle = (start + stop) // 2
    return failing_rows(runs, start, middle) + failing_rows(runs, middle, stop)


def _listed(bad: Sequence[BadRow]) -> str:
    shown = "; ".join(str(one) for one in bad[:_SHOWN])
    return shown + (f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
