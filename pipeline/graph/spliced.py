"""Files of planned rows, as much of them as the kept patches are made from."""

from typing import NamedTuple

import numpy as np

from pipeline.graph.inputs import seen_corners
from pipeline.graph.kernels import splicing
from pipeline.graph.rows import mixing_of
from pipeline.graph.settings import GraphSettings
from pipeline.jpeg.kernels.splice import PAGE_BYTES
from pipeline.plan.step import StepPlan
from pipeline.shards.index import ShardIndex
from pipeline.shards.memory import ReusedMemory
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import ShardUnits, open_units

# Around a patch, for DALI's resize, whose filters are as wide as the kernels' but need not begin at the same pixel.
_MARGIN_PIXELS = 2


class Spliced(NamedTuple):
    """Rows as they were read.

    Attributes:
        images: uint8 [bytes] each: a file, or of an addressable JPEG one of just the needed units.
        origins: int32 [B, 2], (row, column) of the stored image at which each begins.
        is_sound: whether each is beyond doubt what the index says.
        num_bytes, num_pages: taken out of the shards and the files of units beside them, and pages of the disk.
    """

    images: list[np.ndarray]
    origins: np.ndarray
    is_sound: list[bool]
    num_bytes: int
    num_pages: int


class SplicedReader:
    """Reads rows for a graph that decodes windows of images, and leaves out what no kept patch needs.

    An image that is not addressable comes whole, and so does one whose data is not where it should be.
    """

    def __init__(self, index: ShardIndex, reader: SampleReader, settings: GraphSettings) -> None:
        self._index, self._reader, self._settings = index.files, reader, settings
        self._num_samples = len(index.shard)
        self._memory = ReusedMemory()
        num_shards, self._first_ids = len(self._index.shards), self._index.first_ids
        self._units: dict[int, ShardUnits | None] = {}  # of the shards that were read from
        self._tables = np.zeros((num_shards, 4), np.int64)

    def read(self, plan: StepPlan, sizes: np.ndarray, told: np.ndarray | None) -> Spliced:
        """The rows of a plan.

        Args:
            sizes: of ``inputs.file_sizes``.
            told: of ``rows.kernel_rows``, regions and windows counted from ``seen_corners``; None where all of the
                windows is needed.

        Raises:
            ValueError, OSError: see ``SampleReader.read``, ``open_units`` and ``ShardUnits.check_whole``.
        """
        index, settings, ids = self._index, self._settings, plan.file_ids(self._num_samples)
        numbers = index.shard[ids].astype(np.int64)
        self._open(numbers)
        files = np.stack([index.offset[ids], index.length[ids], ids - self._first_ids[numbers]], axis=1)
        start, stop = seen_corners(plan, settings, sizes)
        corners = np.concatenate([start, stop], axis=1).astype(np.int64)
        places = np.zeros(len(ids) + 1, np.int64)
        np.cumsum(files[:, 1] + splicing.SPARE_BYTES, out=places[1:])
        memory, found = self._memory.take(int(places[-1])), np.empty((len(ids), splicing.FOUND_SIZE), np.int64)
        margin = 0 if settings.selects_first else _MARGIN_PIXELS
        everything, told = told is None, np.empty((0, 0), np.float32) if told is None else told
        how = (told, mixing_of(plan)[0], settings.at(plan.stage).data.patch_size, margin, everything)
        tables, sizes = self._tables[numbers], sizes.astype(np.int32)

        def read(first: int, stop: int, descriptors: np.ndarray) -> bool:
            return splicing.read_spliced(
                first, stop, how, descriptors, files, tables, sizes, corners, places, memory, found
            )

        if not self._reader.run(ids, read):
            return self._one_by_one(ids)
        lengths = found[:, splicing.NUM_BYTES].tolist()
        return Spliced(
            [memory[at : at + length] for at, length in zip(places[:-1].tolist(), lengths, strict=True)],
            found[:, splicing.ORIGIN_Y : splicing.ORIGIN_X + 1].astype(np.int32),
            (found[:, splicing.HOW] != splicing.UNSURE).tolist(),
            int(found[:, splicing.BYTES_READ].sum()),
            int(found[:, splicing.PAGES_READ].sum()),
        )

    def _open(self, numbers: np.ndarray) -> None:
        """Map the files of units of shards that are new, and look that those of the others are still whole."""
        for number in np.unique(numbers).tolist():
            if number in self._units:
                units = self._units[number]
                if units is not None:
                    units.check_whole()
                continue
            units = self._units[number] = open_units(self._index.folder, self._index.shards[number])
            if units is not None:
                arrays = units.header_bytes, units.starts, units.lengths
                self._tables[number] = [*(array.ctypes.data for array in arrays), len(units.lengths)]

    def _one_by_one(self, ids: np.ndarray) -> Spliced:
        """Whole files, where reading together has failed: the first that cannot be read is named."""
        images, is_sound = self._reader.read_checked(ids)
        return Spliced(images, np.zeros((len(ids), 2), np.int32), is_sound, *whole_files(self._index, ids))


def whole_files(index: ShardIndex, ids: np.ndarray) -> tuple[int, int]:
    """Bytes of samples' files, and the pages of a disk that they lie on. index: of ``ShardIndex.files``."""
    offset, length = index.offset[ids], index.length[ids]
    pages = (offset + length - 1) // PAGE_BYTES - offset // PAGE_BYTES + 1
    return int(length.sum()), int(pages[length > 0].sum())
