"""One run folder, one run: a lock that the first rank holds, on one host and on a file system that several share.

The lock is a folder ``run.lock`` with one file, ``TOKEN.json``, in it; the token is drawn by its owner. Each change of
hands is one rename, which of all who try it succeeds for one alone, on NFS too:

- to take a free folder: a prepared ``run.lock`` is renamed into place, which fails while there is a file in one there;
- to take over from an owner who is gone: his file is renamed to one's own token, which fails once it is not there;
- to release it: the file is deleted. Who finds his file gone has lost the folder.

Whether an owner is gone: on his own host his process says it. Of other hosts no process can be seen; there an owner
renews his file every few seconds, and one that does not is gone. Clocks of hosts are never compared: a file's age is
that beside a file written now to the same file system, or what the one who looks has timed himself.
"""

import json
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from engine.ranks.heartbeat import Beat, is_gone, read_beats
from engine.ranks.processes import Process, find_process, this_machine
from engine.ranks.world import World, on_first_rank, one_clear_error

LOCK = "run.lock"
RENEWED_EVERY_S = 5.0
STALE_AFTER_S = 60.0
SEEN_STILL_S = 3 * RENEWED_EVERY_S  # a file server that hangs keeps a living owner from renewing, too
LINGERS_S = 40.0  # a launcher kills what it started after 30 s
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Owner:
    """Whose a lock is.

    Attributes:
        machine: ``this_machine()`` of the first rank; empty where the file does not say.
        pid, started: of the first rank's process, as in ``Process``.
        launchers: the same of the launcher's processes above it, its parent first; empty without a launcher.
        since: for people.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: int
    launchers: tuple[tuple[int, int], ...]
    since: str

    @property
    def is_here(self) -> bool:
        """Whether its processes can be seen from here. Hosts of some clouds have all the same boot id."""
        return self.machine == this_machine() and self.host == socket.gethostname()

    @property
    def who(self) -> str:
        if not self.machine:
            return "an unknown run"
        launcher = f", started by process {self.launchers[-1][0]}" if self.launchers else ""
        return f"another run (host {self.host}, process {self.pid}{launcher}, since {self.since})"


class Claim:
    """The first rank's claim to a run folder, from the first look at it until it is released.

    Args:
        launchers: the processes of the launcher above this one, its parent first.
        lost: called on a thread if the folder, once held, was taken over by somebody else.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        folder: Path,
        launchers: Sequence[Process] = (),
        *,
        lost: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        this = find_process(os.getpid())
        assert this is not None
        above = tuple((process.pid, process.started) for process in launchers)
        now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self._folder, self._lock, self._clock = folder, folder / LOCK, clock
        self._me = Owner(secrets.token_hex(8), socket.gethostname(), this_machine(), this.pid, this.started, above, now)
        self._lost = lost or _end_now
        self._made_folder = False
        self._watched: tuple[str, int, float] | None = None  # token, time of the file, when this was first seen
        self._closing = threading.Event()

    @property
    def _file(self) -> Path:
        return self._lock / f"{self._me.token}.json"

    def attempt(self) -> bool:
        """Take the folder if it is free or its owner is gone. False: it is not clear yet; ask again in a second.

        Raises:
            ValueError: it is in use; says by whom, and what to do.
            OSError: the folder cannot be written.
        """
        found = self._look()
        if found is None:
            taken = self._put()
        else:
            owner, changed_ns = found
            why_gone = self._why_gone(owner, changed_ns)
            taken = why_gone is not None and self._take_over(owner)
            if taken:
                print(f"took over {self._folder} from {owner.who}: {why_gone}", flush=True)
        if taken:
            threading.Thread(target=self._keep_renewing, name="run lock", daemon=True).start()
        return taken

    def release(self) -> None:
        """Leave the folder to others. May be called twice, by any thread, and by who never got it."""
        self._closing.set()
        with suppress(OSError):
            self._file.unlink()
            self._lock.rmdir()
        if self._made_folder:
            with suppress(OSError):  # it is not empty: the run began
                self._folder.rmdir()

    def _put(self) -> bool:
        if not self._folder.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._made_folder = True
        prepared = self._folder / f".{LOCK}.{self._me.token}"
        prepared.mkdir()
        try:
            (prepared / self._file.name).write_text(json.dumps(asdict(self._me)) + "\n")
            prepared.rename(self._lock)
        except OSError as error:
            shutil.rmtree(prepared, ignore_errors=True)
            if error.errno in (EEXIST, ENOTEMPTY):
                return False
            raise
        return True

    def _look(self) -> tuple[Owner, int] | None:
        """The owner, and when his file was renewed, in nanoseconds by the file system's clock."""
        for path in self._lock.glob("*.json"):
            # Opening makes a network file system look again.
            with suppress(FileNotFoundError), path.open(errors="replace") as file:
                return _read_owner(path.stem, file.read()), os.fstat(file.fileno()).st_mtime_ns
        return None

    def _take_over(self, owner: Owner) -> bool:
        try:
            (self._lock / f"{owner.token}.json").rename(self._file)
            with self._file.open("r+") as file:  # not a new file: it is there only as long as it is ours
                file.truncate()
                file.write(json.dumps(asdict(self._me)) + "\n")
        except FileNotFoundError:
            return False
        return True

    def _why_gone(self, owner: Owner, changed_ns: int) -> str | None:
        """Why the owner is no more; None while this is not known.

        Raises:
            ValueError: he is there.
        """
        before, now = self._watched, self._clock()
        if before is None or before[0] != owner.token:
            self._watched = before = owner.token, changed_ns, now
        if owner.is_here:
            return self._why_gone_here(owner, waited_s=now - before[2])
        if changed_ns != before[1]:
            raise ValueError(self._refusal(owner))
        # What does not say whose it is may be about to change hands, and its age is that of the owner before.
        age_s = (self._now_ns() - changed_ns) / 1e9 if owner.machine else 0.0
        still_s = now - before[2]
        if still_s >= STALE_AFTER_S or (age_s >= STALE_AFTER_S and still_s >= SEEN_STILL_S):
            return f"it has not renewed {LOCK} for {max(still_s, age_s):.0f} s"
        if still_s == 0:
            print(
                f"{self._folder} belongs to {owner.who}; waiting up to {STALE_AFTER_S:.0f} s to see whether it lives",
                flush=True,
            )
        return None

    def _why_gone_here(self, owner: Owner, waited_s: float) -> str | None:
        first_lives = Process(owner.pid, owner.started).is_alive
        if not first_lives and not self._living_ranks():
            return "its process is gone"
        complete = first_lives and all(Process(*launcher).is_alive for launcher in owner.launchers)
        if complete or waited_s >= LINGERS_S:
            raise ValueError(self._refusal(owner))
        if waited_s == 0:
            print(
                f"{self._folder} belongs to {owner.who}, which is about to end: its launcher or its first rank is "
                f"gone, other processes are not; waiting up to {LINGERS_S:.0f} s for them",
                flush=True,
            )
        return None

    def _living_ranks(self) -> list[Beat]:
        """Ranks on this host that have not said that they end; those of a run whose first rank was killed linger."""
        here = this_machine(), socket.gethostname()
        beats = [beat for beat in read_beats(self._folder / "ranks").values() if (beat.machine, beat.host) == here]
        return [beat for beat in beats if not beat.has_ended and not is_gone(beat)]

    def _refusal(self, owner: Owner) -> str:
        return (
            f"the run folder {self._folder} is in use by {owner.who}; wait until it ends, stop it (SIGUSR1 to that "
            f"process saves a checkpoint first), or give another --out. If {self._folder} is a copy of that run's "
            f"folder, delete {self._lock}"
        )

    def _now_ns(self) -> int:
        """The time of the file system that the run folder is on."""
        probe = self._folder / f".{LOCK}.{self._me.token}.now"
        probe.touch()
        try:
            return probe.stat().st_mtime_ns
        finally:
            probe.unlink()

    def _keep_renewing(self) -> None:
        while not self._closing.wait(RENEWED_EVERY_S):
            if not self.renew() and not self._closing.is_set():
                return self._lost(
                    f"{self._lock} is not this run's any more: another run has taken over {self._folder}, or somebody "
                    "deleted it; this run ends without touching the folder again"
                )

    def renew(self) -> bool:
        """Show that the owner is alive. False: the folder is no longer his."""
        try:
            os.utime(self._file)
        except FileNotFoundError:
            return False
        except OSError:  # a disk that is full or slow is no reason to end a run
            pass
        return True


@contextmanager
def held(folder: Path, world: World, launchers: Sequence[Process] = ()) -> Iterator[Claim | None]:
    """Hold a run folder as long as the block lasts. Collective; the first rank gets the claim, the others None.

    Raises:
        SystemExit: with code 2, on every rank, if another run holds it, or it cannot be written.
    """
    claim = Claim(folder, launchers) if world.is_first else None
    try:
        while not _attempt(claim, world):
            time.sleep(_LOOK_EVERY_S)
        yield claim
    finally:
        if claim is not None:
            claim.release()


def _attempt(claim: Claim | None, world: World) -> bool:
    taken = False
    with one_clear_error(world):
        # Every second anew, so that no rank waits for the first one longer than its time limit allows.
        taken = on_first_rank(world, lambda: claim is not None and claim.attempt())
    return taken


def _read_owner(token: str, text: str) -> Owner:
    """Of the file of this name; one that says nothing, or that is about to change hands, belongs to an unknown run."""
    try:
        values = json.loads(text)
        values["launchers"] = tuple((int(pid), int(started)) for pid, started in values["launchers"])
        owner = Owner(**values)
        if owner.token == token:
            return owner
    except (ValueError, TypeError, KeyError):
        pass
    return Owner(token, "", "", 0, 0, (), "")


def _end_now(why: str) -> None:
    try:
        print(f"error: {why}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)
