"""Reads and prepares images in worker processes and hands the results on in order, a bounded number ahead.

Nothing heavy is imported here, because each worker starts by importing this module.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import numpy.typing as npt

from tools.shards.images import Encoding, prepare
from tools.shards.sources.source import ReadSample

Prepared = tuple[bytes, str, int] | str
"""(image bytes, extension, label), or the reason why the image is rejected."""

_CHUNK = 64
_worker: "Preparer"


class Preparer:
    """Reads one image by its position and prepares it. num_classes: 0 where it is not known yet."""

    def __init__(self, read: ReadSample, encoding: Encoding, num_classes: int) -> None:
        self._read, self._encoding, self._num_classes = read, encoding, num_classes

    def __call__(self, position: int) -> Prepared:
        try:
            raw, label = self._read(position)
            if label < 0 or (self._num_classes and label >= self._num_classes):
                return f"its label is {label}; the source has classes 0 to {self._num_classes - 1}"
            return (*prepare(raw, self._encoding), label)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except ValueError as error:
            return str(error)


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
    pool = ProcessPoolExecutor(
        workers,
        # Not fork: the parent runs threads (the progress bar's, Arrow's), which a forked child would inherit torn.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(Preparer(read, encoding, num_classes),),
    )
    pending: deque[Future[list[Prepared]]] = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(_prepare_chunk, chunk))
            if len(pending) > 4 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise OSError(
            "a worker process was ended from outside, as happens when memory runs out; "
            "run the same command again, perhaps with fewer --workers, and it goes on where it stopped"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(preparer: Preparer) -> None:
    global _worker  # noqa: PLW0603 (one preparer for the life of a worker process)
    _worker = preparer
    follow_parent()


def follow_parent() -> None:
    """In a worker process: leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # the parent was killed; without this the worker would wait for work for ever


def _prepare_chunk(positions: list[int]) -> list[Prepared]:
    return [_worker(position) for position in positions]
