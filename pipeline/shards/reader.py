"""Raw image bytes of samples, read at the offsets that the index states."""

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pipeline.shards.index import ShardIndex, StaleIndexError
from pipeline.shards.joined import index_command_of
from pipeline.shards.kernels.reading import read_images
from pipeline.shards.memory import ReusedMemory
from pipeline.shards.tars import scan_shard
from pipeline.shards.threads import Helpers

# A disk or a network file system answers several reads at a time, and copying from memory takes a core's time, too.
_NUM_THREADS = 4
_ROWS_A_THREAD = 32  # and more; fewer are read sooner than handed over


class SampleReader:
    """Reads the still encoded images of samples. For one thread; open one reader for each.

    ``files``: of shards in a store, as this reader has them open; None of others.

    Where the index has levels, ids are those of ``ShardIndex.files``: the samples' own lead to their largest images.

    It uses pread and not a mapping of the tars: when a mapped file shrinks, touching the lost pages ends the
    whole process with SIGBUS and no message, while pread comes back short and can be reported.
    """

    def __init__(self, index: ShardIndex, max_open_shards: int = 256) -> None:
        if max_open_shards < 1:
            raise ValueError(f"max_open_shards is {max_open_shards}, but at least one shard must be open to be read")
        self._index = index = index.files
        self._max_open_shards = max_open_shards
        self._memory, self._helpers = ReusedMemory(), Helpers(_NUM_THREADS, "shard-reader")
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self.files = None if index.remote is None else index.remote.open()
        self._checked_mtimes_ns = {number: shard.mtime_ns for number, shard in enumerate(index.shards)}

    def read(self, sample_ids: npt.NDArray[np.integer]) -> list[npt.NDArray[np.uint8]]:
        """The bytes of each sample's image, in the order given: a list of uint8 arrays, each [length_bytes].

        Raises StaleIndexError (a shard is no longer what was indexed: it was shortened, replaced or written to),
        FileNotFoundError or another OSError (the shard is missing or cannot be read); each names shard, key and offset.
        """
        return self.read_checked(sample_ids)[0]

    def read_checked(self, sample_ids: npt.NDArray[np.integer]) -> tuple[list[npt.NDArray[np.uint8]], list[bool]]:
        """As ``read``, and for each image whether it is beyond doubt what the index says, by its header.

        That is a JPEG or PNG of the stated size whose parts lead the decoder to its data. ``image_header`` knows more
        about the others.
        """
        ids = np.asarray(sample_ids, dtype=np.int64)
        found = self._read_together(ids) if len(ids) else ([], [])
        # If anything is not as it should be: one by one, so that the first sample to fail is named.
        return ([self._read_one(int(sample_id)) for sample_id in ids], [False] * len(ids)) if found is None else found

    def _read_together(self, ids: npt.NDArray[np.int64]) -> tuple[list[npt.NDArray[np.uint8]], list[bool]] | None:
        """``read_checked`` in one call; None where it fails, for whatever reason. The images share their memory."""
        index = self._index
        if ids.min() < 0 or ids.max() >= len(index.shard):
            return None
        starts = np.zeros(len(ids) + 1, dtype=np.int64)
        np.cumsum(index.length[ids], out=starts[1:])
        memory, is_sound = self._memory.take(int(starts[-1])), np.empty(len(ids), dtype=bool)
        sizes, offsets = np.stack([index.height[ids], index.width[ids]], axis=1), index.offset[ids]

        def read(first: int, stop: int, descriptors: npt.NDArray[np.int32]) -> bool:
            rows, places = slice(first, stop), starts[first : stop + 1]
            return read_images(descriptors, offsets[rows], places, memory, sizes[rows], is_sound[rows])

        if not self.run(ids, read):
            return None
        ends = starts.tolist()
        return [memory[start:stop] for start, stop in itertools.pairwise(ends)], is_sound.tolist()

    def run(self, ids: npt.NDArray[np.int64], read: Callable[[int, int, npt.NDArray[np.int32]], bool]) -> bool:
        """Have something read from the samples' shards, by several threads where there are many samples.

        Args:
            read: called with parts of the samples: the place of the first in ``ids``, that behind the last, and the
                open shard of each, int32 [n]. It lets go of the interpreter, and returns whether all was well.

        Returns:
            Whether every part was well and no shard has been written to since it was indexed. If not, ``read_checked``
            names what is wrong, where it is the shards.
        """
        return all(
            self._run_some(ids[start : start + self._max_open_shards], start, read)
            for start in range(0, len(ids), self._max_open_shards)
        )

    def _run_some(
        self, ids: npt.NDArray[np.int64], place: int, read: Callable[[int, int, npt.NDArray[np.int32]], bool]
    ) -> bool:
        """``run`` for no more samples than shards may be open: each of them may lie in another one."""
        opened: dict[int, int] = {}
        numbers = self._index.shard[ids].tolist()
        try:
            for number, sample_id in zip(numbers, ids.tolist(), strict=True):
                if number not in opened:
                    opened[number] = self._open(sample_id)
        except (OSError, StaleIndexError):
            return False
        descriptors = np.array([opened[number] for number in numbers], dtype=np.int32)
        size = max(_ROWS_A_THREAD, -(-len(ids) // self._helpers.count))
        parts = [
            partial(read, place + first, place + min(first + size, len(ids)), descriptors[first : first + size])
            for first in range(0, len(ids), size)
        ]
        if not all(self._helpers.run(parts) if len(parts) > 1 else [parts[0]()]):
            return False
        # A shard that is written to from here on is noticed with the next batch: this one has been read.
        return all(
            os.fstat(descriptor).st_mtime_ns == self._checked_mtimes_ns[number] for number, descriptor in opened.items()
        )

    def _read_one(self, sample_id: int) -> npt.NDArray[np.uint8]:
        index = self._index
        if not 0 <= sample_id < len(index.shard):
            raise IndexError(f"sample id {sample_id}; {index.place} holds ids 0 to {len(index.shard) - 1}")
        offset, length = int(index.offset[sample_id]), int(index.length[sample_id])
        image = np.empty(length, dtype=np.uint8)
        view = image.data
        try:
            descriptor = self._open(sample_id)
            done = 0
            # One call is the rule; a signal or the kernel's limit of 2 GiB may cut it short.
            while done < length and (count := os.preadv(descriptor, [view[done:]], offset + done)):
                done += count
            if done == length:
                self._check_unchanged(sample_id, descriptor)
        except OSError as error:
            raise type(error)(
                error.errno, f"cannot read {index.describe(sample_id)}: {error.strerror}", str(index.place)
            ) from error
        if done < length:
            raise StaleIndexError(
                f"{index.place}: {index.describe(sample_id)} should have {length} bytes, but the shard "
                f"ends after {done} of them: it was shortened after it was indexed"
            )
        return image

    def _open(self, sample_id: int) -> int:
        number = int(self._index.shard[sample_id])
        if self.files is not None and self.files.remote.holds(number):
            return self.files.descriptor(number)
        if number in self._descriptors:
            self._descriptors.move_to_end(number)
            return self._descriptors[number]
        while len(self._descriptors) >= self._max_open_shards:
            os.close(self._descriptors.popitem(last=False)[1])
        shard = self._index.shards[number]
        descriptor = os.open(self._index.folder / shard.name, os.O_RDONLY | os.O_CLOEXEC)
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes != shard.size_bytes:
            os.close(descriptor)
            raise StaleIndexError(
                f"{self._index.place}: cannot read {self._index.describe(sample_id)}: the shard has "
                f"{size_bytes} bytes, but had {shard.size_bytes} when it was indexed; if the new content is "
                f"meant: {index_command_of(self._index, number)}"
            )
        self._descriptors[number] = descriptor
        return descriptor

    def _check_unchanged(self, sample_id: int, descriptor: int) -> None:
        """Raise StaleIndexError if the shard was written to while it is read, so that the index no longer fits it.

        Damaged images are left to those who decode them; offsets and labels have to be right.
        """
        number = int(self._index.shard[sample_id])
        mtime_ns = os.fstat(descriptor).st_mtime_ns
        if mtime_ns == self._checked_mtimes_ns[number]:
            return
        misfit = _misfit(self._index, number)
        if misfit:
            raise StaleIndexError(
                f"{self._index.place}: cannot read {self._index.describe(sample_id)}: the shard was written to and no "
                f"longer fits the index ({misfit}); bring the old content back, or, if the new one is meant: "
                f"{index_command_of(self._index, number)}"
            )
        self._checked_mtimes_ns[number] = mtime_ns

    def close(self) -> None:
        """Closes the shards; reading again opens them again, but for those of a store."""
        self._helpers.close()
        if self.files is not None:
            self.files.close()
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> "SampleReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _misfit(index: ShardIndex, number: int) -> str:
    """What a shard holds otherwise than the index says, in words; empty if every offset, length and label is right."""
    path = index.shard_path(number)
    index, number = index.own(number)
    scan = scan_shard(path, *index.members)
    for fault in scan.faults:
        if not fault.key:
            return fault.reason
    lengths = {(sample.key, member.offset_data): member.size for sample in scan.samples for _, member in sample.members}
    labels = {(row.key, row.offset): row.label for row in scan.rows}
    for i in range(*index.first_ids[number : number + 2].tolist()):
        place = (index.key(i), int(index.offset[i]))
        if lengths.get(place) != index.length[i]:
            return f"sample '{place[0]}' is not where it was"
        if labels.get(place, index.label[i]) != index.label[i]:
            return f"sample '{place[0]}' has label {labels[place]}, but {index.label[i]} in the index"
    return ""
