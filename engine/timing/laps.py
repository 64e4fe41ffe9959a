"""Seconds by part of a loop, by the clock of the device that does the work.

A GPU lags behind the host that gives it work: the host's clock tells when work was given, not when it was done. There
marks in the stream of work, CUDA's events, take the times. The host reads them once they have passed, and waits for
none of them.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Protocol, Self

import torch


class Mark(Protocol):
    """A moment between two pieces of work."""

    def has_passed(self) -> bool: ...

    def wait(self) -> None: ...

    def seconds_since(self, earlier: Any) -> float:
        """From an earlier mark of the same kind; both have passed."""
        ...


class HostMark:
    """Now, on the host's clock: for a CPU, whose work is done when the call that gave it returns."""

    def __init__(self) -> None:
        self._at_s = time.perf_counter()

    def has_passed(self) -> bool:
        return True

    def wait(self) -> None:
        """Nothing: it has passed."""

    def seconds_since(self, earlier: Self) -> float:
        return self._at_s - earlier._at_s


class EventMark:
    """The moment at which the current stream of the current GPU has done all that it was given so far."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def has_passed(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()

    def seconds_since(self, earlier: Self) -> float:
        return float(earlier._event.elapsed_time(self._event)) / 1000


# By the kind of device.
MARKS: dict[str, Callable[[], Mark]] = {"cpu": HostMark, "cuda": EventMark}


class Laps:
    """Seconds spent in each part of a loop since the last ``start``.

    Marks that have passed are added up and dropped, so no more are held than the host is ahead of the device.

    Args:
        new_mark: makes a mark, one of ``MARKS``. All marks are made in the same stream.
    """

    def __init__(self, new_mark: Callable[[], Mark]) -> None:
        self._new_mark = new_mark
        self.start()

    @classmethod
    def on(cls, device: torch.device) -> Self:
        """By the clock of a device. Raises ValueError for a kind of device that has none."""
        if device.type not in MARKS:
            raise ValueError(f"no clock for a device of kind {device.type!r}; there are clocks for {', '.join(MARKS)}")
        return cls(MARKS[device.type])

    def start(self) -> None:
        """Forget what was timed, and begin anew here."""
        self._seconds: dict[str, float] = defaultdict(float)
        self._ahead: deque[tuple[str, Mark]] = deque()
        self._last = self._new_mark()

    def end(self, part: str) -> None:
        """What was given to the device since the mark before this one is of the part. Does not wait for it."""
        self._ahead.append((part, self._new_mark()))
        while self._ahead and self._ahead[0][1].has_passed():
            self._add_up()

    def seconds(self) -> dict[str, float]:
        """By part. Waits until the device has come to the last mark."""
        while self._ahead:
            self._ahead[0][1].wait()
            self._add_up()
        return dict(self._seconds)

    def _add_up(self) -> None:
        part, mark = self._ahead.popleft()
        self._seconds[part] += mark.seconds_since(self._last)
        self._last = mark
