"""The watch over a run: signs of life, stopping when asked, and one clear report when a rank fails or is lost."""

import faulthandler
import os
import secrets
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch.distributed as dist

from engine.ranks.heartbeat import (
    DONE,
    FAILED,
    LOST_A_PEER,
    STOPPED,
    Beat,
    StallJudge,
    describe_loss,
    first_beat,
    has_fallen_silent,
    is_gone,
    log_path,
    log_tail,
    open_log,
    read_beats,
    write_beat,
)
from engine.ranks.launchers import Launchers
from engine.ranks.run_lock import Claim
from engine.ranks.stopping import Stopping
from engine.ranks.world import AgreedExit, World

_RANKS_PER_SECOND = 64  # beats written in a second by all ranks together: shared storage has better things to do
_LONGEST_REMARK = 200
_AFTER_A_LOSS_S = 5.0  # for a rank to end by itself once another is known to be lost
_LOOK_FOR_A_LOSS_S = 3.0  # a killed process's connections close a moment before it can be seen to be gone


class Watch:
    """What watches one rank of a run. Entering and leaving it is collective, and belongs to the main thread.

    An exception that comes out of the ``with`` block ends this process: 1, or a SystemExit's own code; but for an
    AgreedExit, in which all ranks part in order. The first rank that fails or notices a loss reports it on stderr, for
    all; the others write into their logs.

    Args:
        folder: the run folder, shared by all ranks.
        stop_grace_s, stall_report_s: as in the ``engine`` section of the configuration.
        launchers: the rank's launchers, if it watches them.
        lock: the first rank's claim to the run folder, which it gives up where it ends by force.
    """

    def __init__(
        self,
        world: World,
        folder: Path,
        *,
        stop_grace_s: float,
        stall_report_s: float,
        launchers: Launchers | None = None,
        lock: Claim | None = None,
    ) -> None:
        self._world, self._folder, self._launchers, self._lock = world, folder / "ranks", launchers, lock
        self._grace_s, self._stall_report_s = stop_grace_s, stall_report_s
        self._place = ("start", 0, time.monotonic())
        self._interval_s = max(1.0, world.size / _RANKS_PER_SECOND)
        self._closing = threading.Event()
        self._ending, self._writing = threading.Lock(), threading.Lock()
        self._last_own_stall_s = 0.0

    def __enter__(self) -> "Watch":
        if self._world.is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
            _clear(self._folder)
        launch = [secrets.token_hex(4)]
        dist.broadcast_object_list(launch, src=0, device=self._world.device)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._beat = first_beat(launch[0], self._world.rank)
        self._report = self._folder / f"failure-{launch[0]}.txt"
        self._log = open_log(self._folder, self._beat)
        faulthandler.enable(file=self._log, all_threads=False)
        with suppress(OSError):
            self._write_beat("start")
        self._stopping = Stopping(self._world, self._grace_s, self._cut_short)
        if self._launchers is not None:
            self._launchers.when_lost(lambda _: self._stopping.lose_launcher())
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def enter(self, phase: str, step: int) -> None:
        """Say what this rank does now. Costs nothing; the heartbeat passes it on."""
        self._place = (phase, step, time.monotonic())

    def agree(self) -> bool:
        """At a boundary: whether all ranks stop here. Collective, without waiting."""
        self._stopping.agree()
        return self.stopping

    def lose_store(self, why: BaseException) -> None:
        """Ask all ranks to stop, for this one gets no more shards."""
        self._say(f"rank {self._world.rank}: {why}")
        self._stopping.lose_store()

    @property
    def stopping(self) -> bool:
        """Whether the ranks have agreed to stop."""
        return self._stopping.stopping

    @property
    def reason(self) -> str:
        """What made the ranks stop."""
        return self._stopping.reason

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        agreed = isinstance(error, AgreedExit) or (isinstance(error, SystemExit) and error.code in (0, None))
        if error is not None and not agreed:
            self._fail(error)
        self._stopping.close()
        if self._launchers is not None:
            self._launchers.when_lost(None)
        self._closing.set()
        self._thread.join()
        with suppress(OSError):
            self._write_beat(FAILED if error is not None else STOPPED if self._stopping.stopping else DONE)
        faulthandler.disable()
        os.close(self._log)

    # The heartbeat's thread: everything that touches the shared folder.

    def _keep_beating(self) -> None:
        judge = StallJudge(self._stall_report_s, silence_s=4 * self._interval_s)
        while not self._closing.wait(self._interval_s):
            # A disk that is full or slow must not end a run that could go on without heartbeats.
            with suppress(OSError):
                self._write_beat(self._place[0])
                self._log_own_stall()
                if self._world.is_first:
                    for line in judge.judge(read_beats(self._folder, self._beat.launch).values(), time.monotonic()):
                        self._say(line)
                self._look_for_losses()

    def _write_beat(self, phase: str) -> None:
        _, step, since = self._place
        with self._writing:
            if self._beat.has_ended:  # those were the last words
                return
            now = time.monotonic()
            self._beat = replace(self._beat, phase=phase, step=step, phase_s=now - since, count=self._beat.count + 1)
            write_beat(self._folder, self._beat)

    def _log_own_stall(self) -> None:
        stood_s = self._beat.phase_s
        if stood_s < self._last_own_stall_s:
            self._last_own_stall_s = 0.0
        if stood_s >= max(self._stall_report_s, 2 * self._last_own_stall_s):
            self._last_own_stall_s = stood_s
            self._note(f"in {self._beat.where} for {stood_s:.0f} s; its threads:")
            faulthandler.dump_traceback(self._log)

    def _look_for_losses(self) -> None:
        """Ranks that hang in a collective, as NCCL lets them, learn here that another will never join it."""
        if self._report.exists():
            return self._stopping.lose_peer("another rank failed", _AFTER_A_LOSS_S)
        if self._stopping.is_asked and not self._stopping.stopping:  # by launch.py, perhaps, because a rank died
            lost = self._lost_peer(patience_s=0)
            if lost is not None:
                self._stopping.lose_peer(lost, _AFTER_A_LOSS_S)

    # The end.

    def _fail(self, error: BaseException) -> None:
        """End this process because of an exception. Does not return."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        patience_s = max(_LOOK_FOR_A_LOSS_S, 3 * self._interval_s)
        lost = self._lost_peer(patience_s if _is_about_a_connection(error) else 0)
        if lost is not None:
            self._end(1, LOST_A_PEER, f"{lost}\n{self._name} noticed: {_last_line(error)}", trace)
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else 1
            self._end(code, FAILED, None, f"{self._name} ended the run with exit code {code}")
        self._end(1, FAILED, f"{self._name} failed in {self._where}:\n{trace}", trace)

    def _cut_short(self, why: str, code: int) -> None:
        """End this process because it cannot be waited for any longer. Does not return."""
        faulthandler.dump_traceback(self._log)
        text = f"{self._name} is ended in {self._where}, without a new checkpoint: {why}"
        self._end(code, LOST_A_PEER, text, text)

    def _end(self, code: int, last_words: str, report: str | None, log: str) -> None:
        """``report``: what to say on stderr; None if that is done, and nobody else has to."""
        # One thread ends the process; another that comes here meanwhile waits for that.
        self._ending.acquire()
        with suppress(OSError):
            self._note(log)
        if self._claim(report or log) and report:
            with suppress(OSError):
                print(f"error: {report}", file=sys.stderr, flush=True)
        with suppress(OSError):
            self._write_beat(last_words)
        if self._lock is not None:
            self._lock.release()
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)

    def _claim(self, text: str) -> bool:
        """Whether this rank is the first of all to report; a report too many is better than none."""
        try:
            with self._report.open("x") as file:
                file.write(text + "\n")
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def _lost_peer(self, patience_s: float) -> str | None:
        """What is known about another rank that failed or is gone, looking for up to ``patience_s``."""
        until = time.monotonic() + patience_s
        others = self._others()
        while True:
            found = [beat for beat in self._others().values() if beat.phase == FAILED or is_gone(beat)]
            if found or time.monotonic() >= until:
                break
            time.sleep(0.1)
        if not found and patience_s:
            found = [b for rank, b in self._others().items() if rank in others and has_fallen_silent(others[rank], b)]
        if not found:
            return None
        beat = found[0]
        return describe_loss(beat, log_tail(self._folder, beat), log_path(self._folder, beat.rank))

    def _others(self) -> dict[int, Beat]:
        beats = read_beats(self._folder, self._beat.launch)
        beats.pop(self._world.rank, None)
        return beats

    @property
    def _name(self) -> str:
        return self._beat.who

    @property
    def _where(self) -> str:
        phase, step, _ = self._place
        return f"phase {phase} of step {step}"

    def _note(self, text: str) -> None:
        os.write(self._log, f"{text}\n".encode())

    def _say(self, line: str) -> None:
        self._note(line)
        print(line, file=sys.stderr, flush=True)


def _clear(folder: Path) -> None:
    for pattern in ("rank-*.json*", "failure-*.txt"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()[:_LONGEST_REMARK]


def _is_about_a_connection(error: BaseException) -> bool:
    """Whether another rank may be what is wrong."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("connection", "gloo", "nccl", "timed out", "timeout", "socket"))
