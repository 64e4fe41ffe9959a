"""The worker threads of a graph, each kept to one core."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")
_WORKER = re.compile(r"\[DALI]\[TP(\d+)]")
_PATIENCE_S = 1.0  # threads name themselves, a moment after they have been started


def workers() -> dict[int, int]:
    """DALI's worker threads in this process: by thread id, the place in its pool."""
    found = {}
    for task in _TASKS.iterdir():
        try:
            named = _WORKER.match((task / "comm").read_text())
        except OSError:  # it has ended since
            continue
        if named:
            found[int(task.name)] = int(named[1])
    return found


@contextmanager
def kept_to_cores(num_threads: int) -> Iterator[None]:
    """Keep each of the so many workers that start within to one core, if there are just as many that they may use.

    Workers wake up together at each operator of a batch, and the kernel often wakes two of them on one core while
    another one idles: with small batches that costs a fifth of the images per second. Where a process has fewer
    workers than cores, others may work there, and the kernel knows best.
    """
    cores = sorted(os.sched_getaffinity(0))
    before = set(workers())
    yield
    if num_threads != len(cores) or num_threads == 1:
        return
    end = time.monotonic() + _PATIENCE_S
    while len(started := workers().keys() - before) < num_threads and time.monotonic() < end:
        time.sleep(0.001)
    for thread, place in workers().items():
        if thread in started:
            with suppress(ProcessLookupError):
                os.sched_setaffinity(thread, {cores[place % len(cores)]})
