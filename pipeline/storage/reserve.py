"""Batches held back for the case that a store is lost, so that ranks which need one another can part in order."""

import threading
from collections.abc import Callable

from pipeline.storage.errors import StoreGoneError


class Reserve:
    """Lets a batch be taken only while ``size`` more are ready behind it, as long as more are being made.

    Where nothing more is made, be it at the end, before a snapshot or because the store is lost, all are given out.

    Args:
        size: 0: nothing is held back.
        on_lost: called once, by ``keep``, when the store is lost.
    """

    def __init__(self, size: int, on_lost: Callable[[StoreGoneError], object]) -> None:
        self.size, self._on_lost = size, on_lost
        self._changed = threading.Condition()
        self._makes = True
        self._error: StoreGoneError | None = None
        self._was_told = False

    def makes(self, more: bool) -> None:
        """Whether batches are being made, without which nothing would be waited for."""
        with self._changed:
            self._makes = more
            self._changed.notify_all()

    def has_come(self) -> None:
        """A batch is ready."""
        with self._changed:
            self._changed.notify_all()

    def lose(self, error: StoreGoneError) -> None:
        """The store is lost: what is ready, and what is under way without it, is all that comes."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def keep(self, num_ready: Callable[[], int], is_over: Callable[[], bool]) -> None:
        """Wait until a batch may be taken."""
        if not self.size:
            return
        with self._changed:
            while self._makes and self._error is None and num_ready() <= self.size and not is_over():
                self._changed.wait(timeout=0.5)
        if self._error is not None and not self._was_told:
            self._was_told = True
            self._on_lost(self._error)
