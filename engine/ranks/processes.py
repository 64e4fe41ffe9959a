"""Processes of this machine, as Linux describes them under ``/proc``."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process; a later one with its number is another.

    Attributes:
        started: when, in clock ticks since the machine started, so that setting the clock changes nothing.
        parent, group: the numbers of its parent and of its process group's leader, as they were when it was looked at.
    """

    pid: int
    started: int
    parent: int = 0
    group: int = 0

    @property
    def is_alive(self) -> bool:
        now = find_process(self.pid)
        return now is not None and now.started == self.started


def find_process(pid: int) -> Process | None:
    """The process with this number, or None if there is none any more. A zombie is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, *rest = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in "ZX" else Process(pid, int(rest[17]), int(parent), int(rest[0]))


def command_line(pid: int) -> list[str]:
    """The words a process was started with; none if it cannot be seen."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return words.decode(errors="replace").rstrip("\0").split("\0")


def ancestors() -> list[Process]:
    """The processes above this one, its parent first."""
    found = []
    parent = os.getppid()
    while parent > 0 and (process := find_process(parent)) is not None:
        found.append(process)
        parent = process.parent
    return found


def was_left_behind(child: Process, parent: Process | None) -> bool:
    """Whether ``parent``, the present one, adopted ``child`` after what had started it was gone.

    A child begins in its parent's process group, and may only leave it to lead one.
    """
    return child.group not in (0, child.pid) and (parent is None or parent.group != child.group)


def this_machine() -> str:
    """Equal in two processes if and only if each sees the other by its number: the kernel's boot and the namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
