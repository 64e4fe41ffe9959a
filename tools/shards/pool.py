"""Who does the work of the commands that go through many shards: this process, worker processes, or a Ray cluster.

Nothing heavy is imported here, because each worker starts by importing this module.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def as_done(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, *, ray: str | None = None, on_gpu: bool = False
) -> Iterator[tuple[Job, Result]]:
    """Each job with what came of it, as they are done.

    Args:
        workers: processes of this machine; with one no process is started.
        ray: ``auto`` or the address of a Ray cluster, whose hosts do the work in place of this machine's processes.
        on_gpu: on a cluster that has GPUs, each job has one.

    Raises:
        ValueError, OSError: what the work raises; a process was ended from outside; or there is no such cluster.
    """
    if ray is not None:
        from tools.shards.parts.cluster import as_done_on

        yield from as_done_on(ray, work, jobs, on_gpu=on_gpu)
        return
    workers = min(workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            yield job, work(job)
        return
    with worker_processes(workers) as pool:
        submitted = {pool.submit(work, job): job for job in jobs}
        for done in as_completed(submitted):
            yield submitted[done], done.result()


@contextmanager
def worker_processes(
    count: int, start: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, even if it is killed. What has not begun is dropped when the block is left.

    Args:
        start: called with ``arguments`` in each process before anything else.

    Raises:
        OSError: a process was ended from outside.
    """
    pool = ProcessPoolExecutor(
        count,
        # Not fork: the parent runs threads (the progress bar's, Arrow's), which a forked child would inherit torn.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(start, arguments),
    )
    try:
        yield pool
    except BrokenProcessPool:
        raise OSError(
            "a worker process was ended from outside, as happens when memory runs out; "
            "run the same command again, perhaps with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(start: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # the parent was killed; without this the worker would wait for work for ever
