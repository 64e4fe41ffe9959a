"""Which process trains which run of a study that several share: a claim is a file in ``OUT/claims``.

``full-seed0.0.json`` is the claim to ``full-seed0``; it is made exclusively, so of all who try one alone gets it. Its
owner renews it, and deletes it once the run has its record or was stopped. One whose owner is gone is taken over by
making the next one, ``full-seed0.1.json``, exclusively as well, and deleting the old one after that. Whether an owner
is gone: on his own host his processes say it; of other hosts no process can be seen, and there a claim that was not
renewed for ``STALE_AFTER_MIN`` minutes is taken. The clocks of hosts are never compared: a claim's age is that beside a
file written now to the same file system.

Two trainers in one run folder are kept apart by the folder's own lock (``engine.ranks.run_lock``), whatever happens
here.
"""

import json
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.ranks.processes import Process, find_process, this_machine

RENEWED_EVERY_S = 20.0
STALE_AFTER_MIN = 5
Seen = dict[Path, int]  # files, and when they were renewed, in nanoseconds by the file system's clock


@dataclass
class Claim:
    """The right to train one run, until it is released.

    Attributes:
        is_lost: ``renew`` found that somebody took it over, or deleted it.
    """

    path: Path
    is_lost: bool = False

    def name_run(self, pid: int) -> None:
        """Say which process trains: while it lives the run is not free, though its study was killed."""
        run = find_process(pid)
        if run is not None:
            self._write(_owner() | {"run_pid": run.pid, "run_started": run.started})

    def renew(self) -> bool:
        """Show that the owner is alive. False: the claim is lost."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            self.is_lost = True
        except OSError:  # a disk that is full or slow is no reason to end a run
            pass
        return not self.is_lost

    def release(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self, values: dict[str, Any]) -> None:
        try:
            with self.path.open("r+") as file:  # not a new file: it is there only as long as it is ours
                file.truncate()
                file.write(json.dumps(values) + "\n")
        except FileNotFoundError:
            pass  # ``renew`` tells


def claim_run(folder: Path, stem: str) -> Claim | None:
    """Claim a run if nobody else has, or whoever had is gone; None where somebody has it.

    Args:
        folder: that of the claims; it is there.
        stem: what the run is called.

    Raises:
        OSError: the folder cannot be written.
    """
    before = _look(folder, stem)
    if not all(_is_gone(path, renewed_ns) for path, renewed_ns in before.items()):
        return None
    mine = Claim(folder / f"{stem}.{1 + max(map(_number, before), default=-1)}.json")
    try:
        with mine.path.open("x") as file:
            file.write(json.dumps(_owner()) + "\n")
    except FileExistsError:
        return None
    after = {path: renewed_ns for path, renewed_ns in _look(folder, stem).items() if path != mine.path}
    if after != before:  # somebody came between the first look and this one: leave it to the next try
        mine.release()
        return None
    for path in before:
        path.unlink(missing_ok=True)
    return mine


def claimed_by(folder: Path, stem: str) -> str | None:
    """Who has claimed a run, for people; None where nobody has."""
    path = max(_look(folder, stem), key=_number, default=None)
    if path is None:
        return None
    owner = _read(path)
    return f"host {owner['host']}, process {owner['pid']}, since {owner['time']}" if owner else "an unknown process"


def _look(folder: Path, stem: str) -> Seen:
    found = {}
    for path in folder.glob(f"{stem}.*.json"):
        if re.fullmatch(rf"{re.escape(stem)}\.\d+\.json", path.name):
            try:
                with path.open() as file:  # opening makes a network file system look again
                    found[path] = os.fstat(file.fileno()).st_mtime_ns
            except FileNotFoundError:
                continue
    return found


def _number(path: Path) -> int:
    return int(path.name.split(".")[-2])


def _owner() -> dict[str, Any]:
    this = find_process(os.getpid())
    assert this is not None
    return {
        "host": socket.gethostname(),
        "machine": this_machine(),
        "pid": this.pid,
        "started": this.started,
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _read(path: Path) -> dict[str, Any] | None:
    """None of a file that says nothing: its owner is about to write it, or was killed before he could."""
    try:
        values = json.loads(path.read_text())
        return values if {"host", "machine", "pid", "started", "time"} <= values.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _is_gone(path: Path, renewed_ns: int) -> bool:
    owner = _read(path)
    # Hosts of some clouds have all the same boot id.
    if owner is not None and (owner["machine"], owner["host"]) == (this_machine(), socket.gethostname()):
        processes = [Process(owner["pid"], owner["started"])]
        if "run_pid" in owner:
            processes.append(Process(owner["run_pid"], owner["run_started"]))
        return not any(process.is_alive for process in processes)
    return _now_ns(path.parent) - renewed_ns > STALE_AFTER_MIN * 60e9


def _now_ns(folder: Path) -> int:
    """The time of the file system that the claims are on."""
    probe = folder / f".now-{secrets.token_hex(4)}"
    probe.touch()
    try:
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink(missing_ok=True)
