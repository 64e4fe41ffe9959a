"""Threads that work at the same time, where the work itself lets Python go on."""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any


class Helpers:
    """Some threads that make calls for the one that asks; started when they are first needed.

    They keep no process alive that wants to end while one of them hangs in a read, as those of ``concurrent.futures``
    would.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name, self._num_started = count, name, 0
        self._calls: SimpleQueue[tuple[int, Callable[[], Any]] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()

    @property
    def count(self) -> int:
        return self._count

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """What the calls return, in their order. Raises what one of them raised, once all have ended."""
        while self._num_started < min(self._count, len(calls)):
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
            self._num_started += 1
        for call in enumerate(calls):
            self._calls.put(call)
        done = sorted((self._results.get() for _ in calls), key=lambda one: one[0])
        for _, _, error in done:
            if error is not None:
                raise error
        return [result for _, result, _ in done]

    def _work(self) -> None:
        while (taken := self._calls.get()) is not None:
            number, call = taken
            try:
                self._results.put((number, call(), None))
            except BaseException as error:
                self._results.put((number, None, error))

    def close(self) -> None:
        """End the threads; the next call starts new ones."""
        for _ in range(self._num_started):
            self._calls.put(None)
        self._num_started = 0
