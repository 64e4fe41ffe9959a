"""Reads and prepares images in worker processes and hands the results on in order, a bounded number ahead.

Nothing heavy is imported here, because each worker starts by importing this module.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tools.shards.decoding.glimpse import Glimpse
from tools.shards.decoding.loader_decoder import BATCH_SIZE, batches_of, loader_decoder
from tools.shards.images import Encoding, prepare
from tools.shards.pool import worker_processes
from tools.shards.sources.source import ReadSample

if TYPE_CHECKING:
    from tools.shards.addressable import Transcoded


@dataclass(frozen=True)
class PreparedImage:
    """An image as it is stored, and as the loader can use it.

    stored: what came of making it addressable, None where nobody asked for that. reencoded, glimpse: see
    ``images.Stored``.
    """

    data: bytes
    extension: str
    label: int
    stored: "Transcoded | None"
    reencoded: str = ""
    glimpse: Glimpse | None = None


Prepared = PreparedImage | str
"""An image, or the reason why it is rejected."""

_CHUNK = BATCH_SIZE
_worker: "Preparer"


class Preparer:
    """Reads images by their positions and prepares them.

    num_classes: or how many there may be, where nothing names them.

    Every file that is to be stored is shown to the loader's own decoder. What that cannot use is encoded anew.

    Raises OSError where the decoder cannot work, or where images are to be addressable and jpegtran cannot be run; what
    is wrong with an image is told.
    """

    def __init__(self, read: ReadSample, encoding: Encoding, num_classes: int) -> None:
        self._read, self._encoding, self._num_classes = read, encoding, num_classes

    def __call__(self, positions: Sequence[int]) -> list[Prepared]:
        loader_decoder().start()  # it gets ready while we read
        found = [self._prepare(position) for position in positions]
        for place, reason in _refused(found, range(len(found))).items():
            found[place] = self._prepare(positions[place], reason)
        again = [place for place, one in enumerate(found) if isinstance(one, PreparedImage) and one.reencoded]
        for place, reason in _refused(found, again).items():
            found[place] = f"cannot be stored so that the loader can use it: {reason}"
        return found

    def _prepare(self, position: int, refused: str = "") -> Prepared:
        try:
            raw, label = self._read(position)
            if not 0 <= label < self._num_classes:
                return f"its label is {label}; the source has classes 0 to {self._num_classes - 1}"
            image = prepare(raw, self._encoding, refused)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except ValueError as error:
            return str(error)
        if not self._encoding.addressable:
            return PreparedImage(image.data, image.extension, label, None, image.reencoded, image.glimpse)
        from tools.shards.addressable import as_it_is, make_addressable

        stored = make_addressable(image.data) if self._encoding.transcodes else as_it_is(image.data)
        return PreparedImage(stored.data, image.extension, label, stored, image.reencoded, image.glimpse)


def _refused(found: Sequence[Prepared], places: Iterable[int]) -> dict[int, str]:
    """Which of the images at these places the loader cannot use, and why."""
    images = {place: one for place in places if isinstance(one := found[place], PreparedImage)}
    reasons, names = dict[int, str](), list(images)
    for batch in batches_of([len(images[place].data) for place in names]):
        verdicts = loader_decoder().look_at([images[names[number]].data for number in batch])
        for number, verdict in zip(batch, verdicts, strict=True):
            if reason := verdict.reason_against(images[names[number]].glimpse):
                reasons[names[number]] = reason
    return reasons


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
        for chunk in chunks:
            yield from preparer(chunk)
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
    loader_decoder().start()


def _prepare_chunk(positions: list[int]) -> list[Prepared]:
    return _worker(positions)
