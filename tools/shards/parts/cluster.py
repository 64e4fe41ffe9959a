"""``--ray``: the shards of a command as tasks of a Ray cluster, whose hosts see the same files.

Ray hands the tasks out, and does those of a lost worker or host again. What is done is told to the command, which keeps
its own record, so that one that was killed goes on as it does without Ray.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tools.shards.parts.versions import describe_versions, versions

Job = TypeVar("Job")
Result = TypeVar("Result")

# A task is begun again so often where its worker or host is lost; not where it raises.
MOST_LOST = 5
ANSWERS_WITHIN_S = 20.0

_work: dict[str, Any] = {}  # of this worker process: what its last task did, by Ray's name for it


def as_done_on(
    address: str, work: Callable[[Job], Result], jobs: Sequence[Job], *, on_gpu: bool = False
) -> Iterator[tuple[Job, Result]]:
    """Each job with what came of it, as they are done on the cluster.

    Args:
        address: ``auto`` for the cluster of this machine, or ``HOST:PORT``.
        work: travels to each worker once, with all it holds.
        on_gpu: each task has a GPU, where the cluster has any.

    Raises:
        ValueError: Ray is not installed, there is no such cluster, a host has other versions, or what the work raises.
        OSError: what the work raises, or a job's workers were lost again and again.
    """
    if not jobs:
        return
    ray = _ray()
    with _connected(ray, address):
        gpus = 1 if on_gpu and ray.cluster_resources().get("GPU") else 0
        task = ray.remote(_do).options(num_cpus=1, num_gpus=gpus, max_retries=MOST_LOST)
        shared, here = ray.put(work), _Here(Path.cwd(), versions())
        waiting = {task.remote([shared], job, here): job for job in jobs}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(done)
            yield job, _result(ray, done)


@dataclass(frozen=True)
class _Here:
    """What every host has to have in common with that of the command."""

    folder: Path
    versions: dict[str, str]

    def enter(self) -> None:
        """Work in the command's folder, where relative paths lead to the same files. Raises ValueError."""
        host = socket.gethostname()
        if differing := describe_versions(versions(), self.versions):
            raise ValueError(
                f"host {host} has other versions than the host of this command, and might write other bytes: "
                f"{differing}; install the same on every host"
            )
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise ValueError(
                f"host {host} cannot enter {self.folder}, where this command runs ({error.strerror}); --ray is for "
                "hosts that share a file system, with the same paths"
            ) from None


def _do(shared: list[Any], job: Any, here: _Here) -> Any:
    """A task's work, on some host. shared: Ray's reference to the work, in a list so that Ray hands it on as it is."""
    import ray

    here.enter()
    name = shared[0].hex()
    if name not in _work:
        _work.clear()
        _work[name] = ray.get(shared[0])
    return _work[name](job)


def _result(ray: Any, done: Any) -> Any:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, (ValueError, OSError)):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[0]
        raise OSError(f"Ray lost the workers of a shard {MOST_LOST + 1} times, the last because: {why}") from None


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """A connection that ends with the block, and with it the tasks that are not done."""
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, configure_logging=True, logging_level=logging.ERROR)
    except (OSError, RuntimeError) as error:  # Ray's ConnectionError is Python's
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"no Ray cluster by --ray {address} ({why}); start one with: ray start --head, and on every other host: "
            "ray start --address HEAD:6379"
        ) from None
    # Ray prints what it has to say of lost hosts, to the very end, and a command's standard output may be JSON.
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise ValueError for what is no address, and OSError where nobody answers: Ray would try for a long time."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--ray {address}; it is auto, or HOST:PORT of the cluster's head, such as 10.0.0.1:6379")
    socket.create_connection((host, int(port)), timeout=ANSWERS_WITHIN_S).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ValueError(
            "Ray is not installed; install it, in the project's folder, on every host: pip install '.[ray]'"
        ) from None
    return ray
