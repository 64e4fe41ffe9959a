"""Samples that cannot be used: found row by row, named, and replaced by planned substitutes.

Whether a row is bad depends on its image's bytes, its entry in the index and what its plan needs of it alone, and its
substitute on (seed, sample id, attempt) alone. What is remembered from batch to batch says only where to look first.
So the rows that come out are the same on any number of ranks, under any prefetching and after a resume.

What cannot be seen: damage inside an image that decodes without complaint, and damage outside of what is decoded: the
planned window, and of an addressable JPEG what the kept patches need of it.
``python -m tools.shards verify`` finds the latter, and the former where dataset.json holds the shards' SHA-256.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pipeline.config import AugmentConfig
from pipeline.graph.graph import run_once
from pipeline.graph.image_decoder import ImageDecoder, check_is_about_images, failing_rows
from pipeline.graph.inputs import SourceArrays, file_sizes, needed_rows, source_arrays, told_rows
from pipeline.graph.score_maps import chosen_ids
from pipeline.graph.settings import GraphSettings
from pipeline.graph.spliced import SplicedReader, whole_files
from pipeline.plan.step import StepPlan
from pipeline.selection.maps import ScoreMaps
from pipeline.shards.image_header import image_size, why_undecodable, why_unparsable
from pipeline.shards.index import ShardIndex
from pipeline.shards.joined import folder_of
from pipeline.shards.reader import SampleReader

MAX_ATTEMPTS = 100
_NOT_READ = np.empty(0, dtype=np.uint8)
_SHOWN = 3


class Planner(Protocol):
    """Who knows the substitutes; a ``TrainPlanner`` and a ``ValidationPlanner`` do."""

    def substitute(self, sample_id: int, attempt: int) -> int: ...
    def with_samples(self, plan: StepPlan, ids: np.ndarray) -> StepPlan: ...


class BadSampleError(ValueError):
    """Samples of a batch cannot be used. ``rows``: those that are bad."""

    def __init__(self, message: str, rows: Sequence["BadRow"] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


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

    Attributes:
        images: uint8 [bytes] each, or once decoded uint8 [H, W, 3].
        ids: int32 [B, K], the kept patches where they are chosen before an image is looked at.
        origins: int32 [B, 2], (row, column) of the stored images at which ``images`` begin; None: all at 0.
        told: of ``inputs.told_rows``, where it is known already.
        num_bytes, num_pages: read from the shards' files, and the pages of a disk that hold them.
    """

    plan: StepPlan
    images: list[np.ndarray]
    bad: tuple[BadRow, ...]
    ids: np.ndarray | None = None
    origins: np.ndarray | None = None
    told: np.ndarray | None = None
    num_bytes: int = 0
    num_pages: int = 0

    def part(self, start: int, stop: int) -> "Rows":
        """Some of the rows, looked at alone: not augmented."""
        plan = replace(self.plan.rows(start, stop), augment=None)
        ids = None if self.ids is None else self.ids[start:stop]
        origins = None if self.origins is None else self.origins[start:stop]
        return Rows(plan, self.images[start:stop], (), ids, origins)


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
        self._files = index.files
        name = settings.selection.map
        self._maps = None if name is None else ScoreMaps(index, name)
        self._spliced = SplicedReader(index, reader, settings) if settings.splices else None
        # Rows that are tried alone are decoded and cropped: what comes after has no part in their failing.
        plain = AugmentConfig(crop=settings.data.augment.crop)
        self._plain = replace(settings, data=settings.data.model_copy(update={"augment": plain}), decoded=False)
        # What runs on a GPU fails for the GPU's own reasons too: there the processor is asked whether images decode.
        on_gpu = settings.device_id is not None
        self._decoder = ImageDecoder(settings.batch_size, settings.num_threads) if on_gpu else None
        self._suspects: set[int] = set()  # files of samples that have failed in the graph

    def read(self, plan: StepPlan, known: Collection[int] = ()) -> Rows:
        """The rows of a plan, bad ones replaced.

        Rows in ``known`` are known to be sound and are not read: their images are empty. A bad row that looks sound
        from outside and was never suspected is only found by the graph; see ``examine``.

        Raises:
            BadSampleError: a row is bad and there is no planner, or no substitute of it can be used.
            ValueError, OSError: see ``ShardIndex.check`` and ``SampleReader.read``.
        """
        files = self._file_ids(plan)
        self._index.check(plan.sample_ids)
        self._files.check(files)
        rows, in_doubt = self._read(plan, known)
        causes = {}
        for row in range(plan.num_rows) if self._suspects else in_doubt:
            cause = self._fault_outside(files[row], rows.images[row]) if row in in_doubt else None
            if cause is None and row not in known and int(files[row]) in self._suspects:
                cause = self._fault_inside(rows.part(row, row + 1))
            if cause is not None:
                causes[row] = cause
        return self._replaced(rows, causes, known) if causes else rows

    def _file_ids(self, plan: StepPlan) -> np.ndarray:
        """Rows of ``ShardIndex.files``: int64 [B]."""
        return plan.file_ids(len(self._index.shard))

    def _read(self, plan: StepPlan, known: Collection[int]) -> tuple[Rows, list[int]]:
        """The rows as they are planned, and those of them that may not be what the index says."""
        return self._read_needed(plan) if self._spliced is not None else self._read_whole(plan, known)

    def _read_whole(self, plan: StepPlan, known: Collection[int]) -> tuple[Rows, list[int]]:
        """As ``_read``, with whole files."""
        rows = [row for row in range(plan.num_rows) if row not in known]
        encoded, in_doubt, files = [_NOT_READ] * plan.num_rows, [], self._file_ids(plan)[rows]
        for row, image, is_sound in zip(rows, *self._reader.read_checked(files), strict=True):
            encoded[row] = image
            if not is_sound:
                in_doubt.append(row)
        num_bytes, num_pages = whole_files(self._files, files)
        ids = chosen_ids(plan, self._settings, self._index, self._maps)
        return Rows(plan, encoded, (), ids, num_bytes=num_bytes, num_pages=num_pages), in_doubt

    def _read_needed(self, plan: StepPlan) -> tuple[Rows, list[int]]:
        """As ``_read``, with no more of the files than the kept patches are made from."""
        assert self._spliced is not None
        settings, sizes = self._settings, file_sizes(plan, self._index)
        ids, needed, told = chosen_ids(plan, settings, self._index, self._maps), None, None
        if settings.selects_first and settings.last_part == "select":
            told = told_rows(plan, settings, sizes, ids)
        if not settings.needs_crops:
            assert ids is not None
            needed = needed_rows(plan, settings, sizes, ids) if told is None else told
        read = self._spliced.read(plan, sizes, needed)
        in_doubt = [row for row, is_sound in enumerate(read.is_sound) if not is_sound]
        rows = Rows(plan, read.images, (), ids, read.origins, told, read.num_bytes, read.num_pages)
        return rows, in_doubt

    def examine(self, rows: Rows) -> bool:
        """Look for the rows that a graph has failed on, and suspect their samples from now on.

        For a graph on a GPU they are those whose images the processor cannot decode either, as a whole.

        Returns:
            Whether there are any that were not suspected before.

        Raises:
            BadSampleError: there are, and there is no planner.
            RuntimeError: the graph fails on a row for another reason than its image, such as too little memory.
        """
        files = self._file_ids(rows.plan)
        failing = failing_rows(lambda start, stop: self._runs(rows.part(start, stop)), 0, rows.plan.num_rows)
        if failing and self._planner is None:
            self._replaced(rows, {row: self._why(int(files[row])) for row in failing}, ())
        found = {int(files[row]) for row in failing} - self._suspects
        self._suspects |= found
        return bool(found)

    def arrays(self, rows: Rows) -> SourceArrays:
        """The rows as the graph's inputs."""
        return self._arrays(rows, self._settings)

    def _arrays(self, rows: Rows, settings: GraphSettings) -> SourceArrays:
        sizes = file_sizes(rows.plan, self._index)
        return source_arrays(
            rows.plan, rows.images, settings, sizes, ids=rows.ids, origins=rows.origins, told=rows.told
        )

    def _fault_outside(self, file_id: int, image: np.ndarray) -> str | None:
        """What is wrong with an image by its header; a decompression bomb is never decoded."""
        if not len(image):
            return "the image is empty"
        size = image_size(image.data)
        if size is None:
            return why_unparsable(image.data) or why_undecodable(image.data)
        height, width = self._files.height[file_id], self._files.width[file_id]
        if size != (height, width):
            return f"is {size[1]}x{size[0]} pixels by its header, but {width}x{height} in the index"
        return why_unparsable(image.data)

    def _fault_inside(self, row: Rows) -> str | None:
        """What is wrong with one row's image by the graph itself, None where it runs."""
        return None if self._runs(row) else self._why(int(self._file_ids(row.plan)[0]))

    def _why(self, file_id: int) -> str:
        """What is wrong with a sample's image, of which no more than a part may have been read."""
        [image] = self._reader.read(np.array([file_id]))
        return why_undecodable(image.data)

    def _runs(self, rows: Rows) -> bool:
        try:
            if self._decoder is None:
                run_once(self._arrays(rows, self._plain), self._plain)
            else:
                self._decoder.whole(rows.images)
        except RuntimeError as error:
            check_is_about_images(error)
            return False
        return True

    def _replaced(self, rows: Rows, causes: dict[int, str], known: Collection[int]) -> Rows:
        plan = rows.plan
        bad = [self._describe(plan, row, cause) for row, cause in causes.items()]
        if self._planner is None:
            ids = plan.sample_ids[list(causes)]
            folders = " ".join(sorted({str(folder_of(self._index, number)) for number in self._index.shard[ids]}))
            raise BadSampleError(
                f"{folders}: {len(bad)} image(s) of step {plan.step} cannot be used: {_listed(bad)}. "
                f"To leave such samples out: python -m tools.shards verify {folders} --exclude; "
                "to go on with substitutes: data.on_bad_sample: skip",
                bad,
            )
        ids, images = plan.sample_ids.copy(), list(rows.images)
        origins = None if rows.origins is None else rows.origins.copy()
        for row in causes:
            ids[row], images[row] = self._substitute(plan, row)
            if origins is not None:
                origins[row] = 0
        replaced = self._planner.with_samples(plan, ids)
        counted = [
            replace(one, substitute_id=int(ids[row]) if replaced.counted[row] else None)
            for row, one in zip(causes, bad, strict=True)
            if plan.counted[row]
        ]
        if self._maps is not None:
            # Samples decide which patches are kept, of the rows they are mixed with too, and so what is read of those.
            again = self.read(replaced, known)
            return replace(again, bad=(*counted, *again.bad))
        return replace(rows, plan=replaced, images=images, bad=tuple(counted), origins=origins, told=None)

    def _substitute(self, plan: StepPlan, row: int) -> tuple[int, np.ndarray]:
        """The first planned substitute of a row that runs through the graph: its id and its image's bytes."""
        assert self._planner is not None
        sample_id = int(plan.sample_ids[row])
        for attempt in range(MAX_ATTEMPTS):
            candidate = np.array([self._planner.substitute(sample_id, attempt)])
            planned = self._planner.with_samples(plan.rows(row, row + 1), candidate)
            file = self._file_ids(planned)
            [image] = self._reader.read(file)
            if self._fault_outside(file[0], image) is None:
                kept = chosen_ids(planned, self._settings, self._index, self._maps)
                if self._fault_inside(Rows(planned, [image], (), kept).part(0, 1)) is None:
                    return int(candidate[0]), image
        raise BadSampleError(
            f"none of {MAX_ATTEMPTS} substitutes for {self._index.describe(sample_id)} can be decoded either; to see "
            f"what is wrong with the data set: python -m tools.shards verify "
            f"{folder_of(self._index, self._index.shard[sample_id])}"
        )

    def _describe(self, plan: StepPlan, row: int, cause: str) -> BadRow:
        files, file = self._files, int(self._file_ids(plan)[row])
        return BadRow(
            plan.step,
            plan.first_row + row,
            int(plan.sample_ids[row]),
            files.shards[files.shard[file]].name,
            files.key(file),
            int(files.offset[file]),
            cause,
            None,
        )


def _listed(bad: Sequence[BadRow]) -> str:
    shown = "; ".join(str(one) for one in bad[:_SHOWN])
    return shown + (f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else "")
