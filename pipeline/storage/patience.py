"""How long one waits for a store that does not answer, and how often one asks."""

import time
from collections.abc import Callable

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 15.0


class Patience:
    """Pauses between attempts, each twice as long as the last. What comes from the store makes it begin anew.

    now_s: a monotonic clock.
    """

    def __init__(self, patience_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._patience_s, self._now_s = patience_s, now_s
        self._pause_s, self._since_s, self._seen = _FIRST_PAUSE_S, now_s(), 0

    @property
    def waited_s(self) -> float:
        """Since there was progress."""
        return self._now_s() - self._since_s

    @property
    def is_over(self) -> bool:
        return self.waited_s >= self._patience_s

    def progress(self, num_bytes: int) -> None:
        """Say how many bytes of the file have come so far."""
        if num_bytes > self._seen:
            self._pause_s, self._since_s = _FIRST_PAUSE_S, self._now_s()
        self._seen = num_bytes

    def next_pause_s(self) -> float:
        """Seconds until the next attempt, no longer than patience lasts."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return max(0.0, min(pause_s, self._patience_s - self.waited_s))
