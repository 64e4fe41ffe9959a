"""Signs of life in ``RUN/ranks``: what each rank is doing, who is gone, who is stuck.

``rank-00003.json`` is one rank's latest beat, rewritten about once a second; ``rank-00003.log`` holds its uncaught
tracebacks, those of fatal signals, and where its threads were when it stalled. Clocks of machines are never compared:
a beat carries durations measured by its rank, and a counter whose standing still the reader times himself.
"""

import json
import os
import socket
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.ranks.processes import Process, find_process, this_machine
from pipeline.files import write_atomically

# What a rank says last. One that ends without any of these is gone.
DONE, STOPPED, FAILED, LOST_A_PEER = "done", "stopped", "failed", "lost a peer"
_LAST_WORDS = (DONE, STOPPED, FAILED, LOST_A_PEER)
_HEADER = "=== launch "
_TAIL_LINES, _LINE_LENGTH = 40, 200
_NAMED_RANKS = 4


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself.

    Attributes:
        launch: names this start of the run; beats of earlier starts count for nothing.
        machine: ``this_machine()`` of the rank.
        started: tells its process from a later one with its number.
        step: the step that it works on, or that it has done where ``phase`` is eval or checkpoint.
        phase: start, loader, step, eval, checkpoint or finish; at the end done, stopped, failed or lost a peer.
        phase_s: seconds since it last moved on.
        count: beats so far.
    """

    launch: str
    rank: int
    host: str
    machine: str
    pid: int
    started: int
    step: int
    phase: str
    phase_s: float
    count: int

    @property
    def who(self) -> str:
        return f"rank {self.rank} ({self.host}, process {self.pid})"

    @property
    def where(self) -> str:
        return f"phase {self.phase} of step {self.step}"

    @property
    def has_ended(self) -> bool:
        return self.phase in _LAST_WORDS

    @property
    def position(self) -> tuple[int, bool]:
        """How far it is. Within a step, whoever still waits for the loader is behind those who compute."""
        return self.step, self.phase != "loader"


def first_beat(launch: str, rank: int) -> Beat:
    """The beat of this process before it has done anything."""
    this = find_process(os.getpid())
    assert this is not None
    return Beat(launch, rank, socket.gethostname(), this_machine(), this.pid, this.started, 0, "start", 0.0, 0)


def beat_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.json"


def log_path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:05d}.log"


def write_beat(folder: Path, beat: Beat) -> None:
    """Put a beat in the place of the last one; a reader sees either, whole.

    Raises:
        OSError: the folder cannot be written.
    """
    write_atomically(beat_path(folder, beat.rank), json.dumps(asdict(beat)) + "\n", sync=False)


def read_beats(folder: Path, launch: str | None = None) -> dict[int, Beat]:
    """The latest beat of each rank of ``launch`` (None: of any) that can be read."""
    beats = {}
    for path in sorted(folder.glob("rank-*.json")):
        try:
            beat = Beat(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):  # replaced just now, or another version's
            continue
        if launch in (None, beat.launch):
            beats[beat.rank] = beat
    return beats


def is_gone(beat: Beat) -> bool:
    """Whether the process of a rank on this machine is no more, though it never said that it was ending.

    False for a rank on another machine, whose processes cannot be seen from here.
    """
    return not beat.has_ended and beat.machine == this_machine() and not Process(beat.pid, beat.started).is_alive


def has_fallen_silent(earlier: Beat, later: Beat) -> bool:
    """Whether a rank on another machine did not beat between two readings some beats apart, nor said that it ends."""
    return not later.has_ended and later.count == earlier.count and later.machine != this_machine()


def open_log(folder: Path, beat: Beat) -> int:
    """A descriptor of the rank's log, which goes on after that of an earlier start."""
    descriptor = os.open(log_path(folder, beat.rank), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.write(descriptor, f"{_HEADER}{beat.launch}: {beat.who}\n".encode())
    return descriptor


def log_tail(folder: Path, beat: Beat) -> list[str]:
    """The last lines that a rank wrote into its log since its start."""
    try:
        lines = log_path(folder, beat.rank).read_text(errors="replace").splitlines()
    except OSError:
        return []
    headers = [number for number, line in enumerate(lines) if line.startswith(_HEADER + beat.launch)]
    return [line[:_LINE_LENGTH] for line in lines[headers[-1] + 1 :][-_TAIL_LINES:]] if headers else []


def describe_loss(beat: Beat, tail: list[str], log: Path) -> str:
    """What is known about a rank that is gone, or that failed."""
    if beat.phase == FAILED:
        return "\n".join([f"{beat.who} failed in step {beat.step}; {log} ends with:", *tail])
    text = f"{beat.who} is gone; it was last seen in {beat.where}, {beat.phase_s:.0f} s after this began"
    if tail:
        return "\n".join([f"{text}; {log} ends with:", *tail])
    return f"{text}; it left no word in its log, as after kill -9 or when the machine runs out of memory (see dmesg)"


class StallJudge:
    """Tells from beats which ranks hold up the others, and when to say so again.

    Args:
        after_s: how long a rank may stay where it is; it is named then, after twice that time, four times, ...
        silence_s: a rank that has not beaten for so long is taken for what the others wait for.
    """

    def __init__(self, after_s: float, silence_s: float = 4.0) -> None:
        self._after_s, self._silence_s = after_s, min(silence_s, after_s)
        self._last_moved: dict[int, tuple[int, float]] = {}  # by rank: count of beats, when this was seen to change
        self._said: dict[int, tuple[tuple[int, str], float]] = {}  # by rank: where, and the time it was named with

    def judge(self, beats: Iterable[Beat], now: float) -> list[str]:
        """Lines to say now. ``now``: seconds on the caller's monotonic clock."""
        running = [beat for beat in beats if not beat.has_ended]
        silent_s = {beat.rank: self._silent_s(beat, now) for beat in running}
        silent = [beat for beat in running if silent_s[beat.rank] >= self._silence_s]
        # Whoever waits for a rank that stands still stands still too: the ranks furthest behind are the cause.
        stuck = silent or [beat for beat in running if beat.position == min(other.position for other in running)]
        groups: dict[str, list[tuple[Beat, float]]] = defaultdict(list)
        for beat in stuck:
            stood_s = silent_s[beat.rank] if silent else beat.phase_s
            if stood_s >= self._due_s(beat):
                self._said[beat.rank] = ((beat.step, beat.phase), stood_s)
                groups[beat.where].append((beat, stood_s))
        return [_stall_line(where, group, bool(silent)) for where, group in groups.items()]

    def _silent_s(self, beat: Beat, now: float) -> float:
        count, since = self._last_moved.get(beat.rank, (-1, now))
        if count != beat.count:
            since = now
            self._last_moved[beat.rank] = beat.count, now
        return now - since

    def _due_s(self, beat: Beat) -> float:
        where, said_s = self._said.get(beat.rank, (None, 0.0))
        return max(self._after_s, 2 * said_s) if where == (beat.step, beat.phase) else self._after_s


def _stall_line(where: str, group: list[tuple[Beat, float]], silent: bool) -> str:
    names = ", ".join(beat.who for beat, _ in group[:_NAMED_RANKS])
    if len(group) > _NAMED_RANKS:
        names += f" and {len(group) - _NAMED_RANKS} more"
    verb = "has" if len(group) == 1 else "have"
    stood_s = max(stood_s for _, stood_s in group)
    if silent:
        return f"stalled: {names} {verb} given no sign of life for {stood_s:.0f} s, last seen in {where}"
    return f"stalled: {names} {verb} been in {where} for {stood_s:.0f} s"
