"""Rows with their images decoded ahead of the graph, so that one decoded image can serve several steps.

Used where there is something to gain: under ``data.echo`` an image is held from its first view to its last, under
``data.cache`` for as long as there is room. Whole images are held, and the window that a plan asks for is cut out of
them: it holds the very pixels that decoding the window alone gives, which ``tests/pipeline/graph/test_decoded.py``
checks for every format. So what is held, and what had to be decoded anew after a restart, decides nothing.
"""

from dataclasses import replace

import numpy as np
import nvidia.dali

from pipeline.graph.bad_samples import RowReader, Rows
from pipeline.graph.image_decoder import ImageDecoder, check_is_about_images, failing_rows
from pipeline.graph.inputs import SourceArrays, file_sizes, source_arrays, window_corners
from pipeline.graph.pixel_cache import PixelCache
from pipeline.graph.settings import GraphSettings
from pipeline.plan.step import StepPlan
from pipeline.shards.index import ShardIndex

DECODER = f"nvidia-dali {nvidia.dali.__version__}"


class DecodedRows:
    """What ``RowReader`` does, for a graph whose images come decoded.

    An image whose whole is damaged and whose planned window is not is used, as ever; it is just not held.

    Args:
        rows: reads the image files and replaces the bad ones.
        settings: of the graph.
        cache: closed by whoever opened it.
    """

    def __init__(
        self, index: ShardIndex, rows: RowReader, settings: GraphSettings, cache: PixelCache | None = None
    ) -> None:
        assert settings.decoded
        self._index, self._rows, self._settings, self._cache = index, rows, settings, cache
        self._decoder = ImageDecoder(settings.batch_size, settings.num_threads)
        # Echoed images, at most one for each row and step of the gap: (row, step modulo gap) to (file, image).
        self._held: dict[tuple[int, int], tuple[int, np.ndarray]] = {}
        self._damaged: set[int] = set()  # files of samples that do not decode as a whole

    @property
    def held_bytes(self) -> int:
        """What echo holds now, the cache aside."""
        return sum(image.nbytes for _, image in self._held.values())

    def read(self, plan: StepPlan) -> Rows:
        """The rows of a plan, decoded, bad ones replaced. Raises what ``RowReader.read`` and ``examine`` raise."""
        known = {row: image for row in range(plan.num_rows) if (image := self._find(plan, row)) is not None}
        while True:
            rows = self._rows.read(plan, known)
            fresh = [row for row in range(plan.num_rows) if row not in known]
            files = self._files(rows.plan)
            damaged = [row for row in fresh if files[row] in self._damaged]
            if damaged and self._rows.examine(self._rows.read(plan)):
                continue  # the planned window is damaged too: now the row will be replaced
            whole = [row for row in fresh if row not in damaged]
            try:
                decoded = self._decoder.whole([rows.images[row] for row in whole])
            except RuntimeError as error:
                check_is_about_images(error)
                if not self._find_damaged(rows, whole):
                    raise
                continue
            images = known | dict(zip(whole, decoded, strict=True))
            self._keep(plan, rows.plan, images)
            images |= {row: self._around_window(rows, row) for row in damaged}
            return replace(rows, images=[images[row] for row in range(plan.num_rows)])

    def examine(self, rows: Rows) -> bool:
        """Bad rows are found before they come to the graph, so if it fails it is not their fault."""
        return False

    def arrays(self, rows: Rows) -> SourceArrays:
        """The rows as the graph's inputs."""
        return source_arrays(rows.plan, rows.images, self._settings, file_sizes(rows.plan, self._index), ids=rows.ids)

    def _find(self, plan: StepPlan, row: int) -> np.ndarray | None:
        file = self._files(plan)[row]
        if self._cache is not None and (cached := self._cache.get(file)) is not None:
            return cached
        held, image = self._held.get(self._place(plan, row), (None, None))
        return image if held == file else None

    def _files(self, plan: StepPlan) -> list[int]:
        """What images are known by: a sample's differ from level to level."""
        return plan.file_ids(len(self._index.shard)).tolist()

    def _place(self, plan: StepPlan, row: int) -> tuple[int, int]:
        return plan.first_row + row, plan.step % self._settings.data.echo_gap

    def _keep(self, plan: StepPlan, carried_out: StepPlan, images: dict[int, np.ndarray]) -> None:
        """Hold images for as long as they will be of use.

        Args:
            carried_out: the plan with its substitutes; they stand in for others row by row, and are not echoed.
        """
        files, of_plan = self._files(carried_out), self._files(plan)
        for row, image in images.items():
            cached = self._cache is not None and self._cache.put(files[row], image)
            planned = files[row] == of_plan[row]
            if not cached and planned and plan.views_left is not None and plan.views_left[row] > 0:
                self._held[self._place(plan, row)] = files[row], image
            else:
                self._held.pop(self._place(plan, row), None)

    def _find_damaged(self, rows: Rows, tried: list[int]) -> bool:
        """Remember the rows, of those tried, that do not decode as a whole; whether there are any."""

        def runs(start: int, stop: int) -> bool:
            try:
                self._decoder.whole([rows.images[row] for row in tried[start:stop]])
            except RuntimeError as error:
                check_is_about_images(error)
                return False
            return True

        files = self._files(rows.plan)
        found = {files[tried[i]] for i in failing_rows(runs, 0, len(tried))}
        self._damaged |= found
        return bool(found)

    def _around_window(self, rows: Rows, row: int) -> np.ndarray:
        """A damaged image with its planned window decoded and nothing else: uint8 [H, W, 3]."""
        one = rows.plan.rows(row, row + 1)
        sizes = file_sizes(one, self._index)
        image = np.zeros((*sizes[0], 3), dtype=np.uint8)
        [start], [stop] = window_corners(one, self._settings, sizes)
        image[start[0] : stop[0], start[1] : stop[1]] = self._decoder.window(rows.images[row], start, stop)
        return image
