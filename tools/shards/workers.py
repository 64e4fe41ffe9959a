"""Reads and prepares images in worker processes and hands the results on in order, a bounded number ahead.

Nothing heavy is imported here, because each worker starts by importing this module.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tools.shards.images import Encoding, prepare
from tools.shards.pool import worker_processes
from tools.shards.sources.source import ReadSample

if TYPE_CHECKING:
    from tools.shards.addressable import Transcoded


@dataclass(frozen=True)
class PreparedImage:
    """An image as it is stored. stored: what came of making it addressable, None where nobody asked for that."""

    data: bytes
    extension: str
    label: int
    stored: "Transcoded | None"


Prepared = PreparedImage | str
"""An image, or the reason why it is rejected."""

_CHUNK = 64
_worker: "Preparer"


class Preparer:
    """Reads one image by its position and prepares it. num_classes: or how many there may be, where nothing names them.

    Raises OSError where images are to be addressable and jpegtran cannot be run; what is wrong with an image is told.
    """

    def __init__(self, read: ReadSample, encoding: Encoding, num_classes: int) -> None:
        self._read, self._encoding, self._num_classes = read, encoding, num_classes

    def __call__(self, position: int) -> Prepared:
        try:
            raw, label = self._read(position)
            if not 0 <= label < self._num_classes:
                return f"its label is {label}; the source has classes 0 to {self._num_classes - 1}"
            data, extension = prepare(raw, self._encoding)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except ValueError as error:
            return str(error)
        if not self._encoding.addressable:
            return PreparedImage(data, extension, label, None)
        from tools.shards.addressable import as_it_is, make_addressable

        stored = make_addressable(data) if self._encoding.transcodes else as_it_is(data)
        return PreparedImage(stored.data, extension, label, stored)


def prepare_in_order(
    read: ReadSample,
    positions: npt.NDArray[np.int64],
    encoding: Encoding,
    num_classes: int,
    workers: int,
) -> Iterator[Prepared]:
    """One result per position, in the order of positions. With one worker no process is started."""
    chunks = [positions[start : start + _CHUNK].tolist() for start in range(0, len(positions), _CHUNK)]
    workers = min(workers, len(chunks))
    if workers <= 1:
        preparer = Preparer(read, encoding, num_classes)
        yield from (preparer(position) for chunk in chunks for position in chunk)
        return
    pending: deque[Future[list[Prepared]]] = deque()
    with worker_processes(workers, _start, (Preparer(read, encoding, num_classes),)) as pool:
        for chunk in chunks:
            pending.append(pool.submit(_prepare_chunk, chunk))
            if len(pending) > 4 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _start(preparer: Preparer) -> None:
    global _worker  # noqa: PLW0603 (one preparer for the life of a worker process)
    _worker = preparer


def _prepare_chunk(positions: list[int]) -> list[Prepared]:
    return [_worker(position) for position in positions]
