"""Stopping a run from outside: every rank saves the same checkpoint and ends with exit code 75.

SIGTERM, SIGINT and SIGUSR1 (Slurm's warning before a time limit or a preemption) ask a rank to stop, and so does a
launcher that vanishes, or a store that gives no more shards. The ranks agree at step boundaries, save a checkpoint, and
end with 75 (EX_TEMPFAIL: the same command goes on from there). The same signal again, later than three seconds after
the first (a launcher repeats what the terminal or Slurm sent to everybody), ends the rank at once with 128 + its
number. If no boundary comes within ``engine.stop_grace_s``, or the checkpoint takes longer than this, the rank ends
with 1 and the last checkpoint holds.

What reaches the ranks, and what each level of DeepSpeed 0.19.8's launcher returns then, on one machine:

============================  =================================  =====  =========  ===========
signal to                     the ranks learn of it through      ranks  launch.py  deepspeed
============================  =================================  =====  =========  ===========
a rank, SIGTERM or SIGUSR1    the signal                         75     75         75
launch.py, SIGTERM            SIGTERM from launch.py             75     1          1
launch.py, SIGUSR1, SIGKILL   the launcher that is gone          75     killed     **0**
deepspeed, any of these       the launcher that is gone          75     75         killed
process group (Ctrl-C)        SIGINT, and SIGTERM to rank 0      75     1          killed
a rank, SIGKILL               the closed connection, launch.py   1      1 or 247   1 or 247
============================  =================================  =====  =========  ===========

Only a signal to the ranks gets 75 out of ``deepspeed``. In a job script write ``trap '' USR1`` before ``deepspeed``:
both levels of the launcher inherit that and ignore SIGUSR1, which can then be sent to all processes of the job.
After SIGTERM launch.py waits 30 s for a rank and kills it then, whatever ``engine.stop_grace_s`` says: where two steps
and a checkpoint may take longer, send the ranks SIGUSR1.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from engine.ranks.world import World, close_group, open_group

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_REPEATED_AFTER_S = 3.0
_SECONDS_BETWEEN_LOOKS = 0.25
_LAUNCHER_IS_GONE, _STORE_IS_GONE = 128, 129  # above every signal's number


def encode_wish(number: int, rank: int) -> int:
    """A wish to stop as one integer that ranks can take the maximum of; 0 is no wish."""
    return number << 32 | rank


def describe_wish(wish: int) -> str:
    """What a wish says, for people."""
    number, rank = wish >> 32, wish & 0xFFFFFFFF
    if number == _LAUNCHER_IS_GONE:
        return f"the loss of its launcher, seen by rank {rank}"
    if number == _STORE_IS_GONE:
        return f"the loss of the store that the shards lie in, seen by rank {rank}"
    return f"{signal.Signals(number).name} to rank {rank}"


class Deadline:
    """When a rank that should stop is ended the hard way. Times are of one monotonic clock, in seconds.

    Args:
        grace_s: allowed from the first wish to the next step boundary, and from there to the end of the checkpoint.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._first: dict[int, float] = {}
        self.at: float | None = None

    def signal(self, number: int, now: float) -> bool:
        """Note a signal; True if it repeats an earlier one, and so means now."""
        first = self._first.setdefault(number, now)
        self.wish(now)
        return now - first >= _REPEATED_AFTER_S

    def wish(self, now: float) -> None:
        if self.at is None:
            self.at = now + self._grace_s

    def boundary(self, now: float) -> None:
        """The step boundary has come at which all ranks stop."""
        self.at = now + self._grace_s

    def no_later_than(self, latest: float) -> None:
        self.at = latest if self.at is None else min(self.at, latest)


class Stopping:
    """This rank's ear for signals, and the ranks' agreement. Made on the main thread of every rank: collective.

    Signals are taken by a thread: Python runs its own handlers on the main thread only, which may hang in a collective
    that a lost rank never joins.

    Args:
        cut_short: ends this process with the given exit code; called on the thread with the reason.

    Attributes:
        stopping: all ranks have agreed to stop at the present step boundary.
        reason: what made them, once they have.
    """

    def __init__(self, world: World, grace_s: float, cut_short: Callable[[str, int], None]) -> None:
        self.stopping = False
        self.reason = ""
        self._world, self._grace_s, self._cut_short = world, grace_s, cut_short
        self._wish = 0
        self._deadline = Deadline(grace_s)
        self._why_now = ""
        self._closed = False
        # A gloo group of its own: the vote is on the CPU, beside whatever the device and the other group are doing.
        self._group: Any = open_group(world) if world.size > 1 else None
        self._votes = torch.zeros(1, dtype=torch.int64)
        self._pending: dist.Work | None = None
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _taken_by_the_thread) for number in _SIGNALS}
        self._thread = threading.Thread(target=self._listen, name="stopping", daemon=True)
        self._thread.start()

    @property
    def is_asked(self) -> bool:
        """This rank was asked to stop, whether or not the others know."""
        return self._wish != 0

    def agree(self) -> None:
        """At a boundary: take the vote begun at the boundary before, and begin the next. Collective.

        The vote had a whole step's time, so nobody waits for it, and all ranks read the same at the same boundary.
        """
        if self.stopping:
            return
        if self._group is None:
            decided = self._wish
        else:
            decided = self._finish_vote()
            if not decided:
                self._votes = torch.tensor([self._wish])
                self._pending = dist.all_reduce(self._votes, dist.ReduceOp.MAX, group=self._group, async_op=True)
        if decided:
            self.reason = describe_wish(decided)
            self._deadline.boundary(time.monotonic())
            self.stopping = True

    def _finish_vote(self) -> int:
        if self._pending is None:
            return 0
        self._pending.wait()
        self._pending = None
        return int(self._votes.item())

    def lose_launcher(self) -> None:
        """A launcher that vanished counts as a signal."""
        self._deadline.wish(time.monotonic())
        self._wish = self._wish or encode_wish(_LAUNCHER_IS_GONE, self._world.rank)

    def lose_store(self) -> None:
        """A store that gives no shards counts as a signal."""
        self._deadline.wish(time.monotonic())
        self._wish = self._wish or encode_wish(_STORE_IS_GONE, self._world.rank)

    def lose_peer(self, why: str, within_s: float) -> None:
        """Another rank will never reach a boundary: this one ends in ``within_s``, unless it does so by itself."""
        self._why_now = why
        self._deadline.no_later_than(time.monotonic() + within_s)

    def close(self) -> None:
        """Leave signals to others again. Collective.

        Once the ranks have stopped, signals are ignored: the checkpoint is there, and the exit code says so.
        """
        self._finish_vote()
        self._closed = True
        self._thread.join()
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, signal.SIG_IGN if self.stopping else handler)
        os.close(self._read_end)
        os.close(self._write_end)
        if self._group is not None:
            close_group(self._group)

    def _listen(self) -> None:
        while not self._closed:
            ready, _, _ = select.select([self._read_end], [], [], _SECONDS_BETWEEN_LOOKS)
            now = time.monotonic()
            for number in os.read(self._read_end, 64) if ready else b"":
                if number not in _SIGNALS:
                    continue
                if self._deadline.signal(number, now):
                    self._cut_short(f"{signal.Signals(number).name} came again", 128 + number)
                self._wish = self._wish or encode_wish(number, self._world.rank)
            if self._deadline.at is not None and now >= self._deadline.at:
                self._cut_short(self._why_now or self._overdue(), 1)

    def _overdue(self) -> str:
        what = "saving the checkpoint took longer than" if self.stopping else "no step boundary came within"
        return f"it was asked to stop, and {what} engine.stop_grace_s, {self._grace_s:g} s"


def _taken_by_the_thread(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor has it already."""
