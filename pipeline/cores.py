"""Processor cores that this process may use: by its affinity, and by what its control groups grant it."""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
# From so many cores on, some stay free of decoding: for the thread that trains, and for the loader's own.
_MANY_CORES, _CORES_FOR_OTHERS = 8, 2
_MOST_BLAS_THREADS = 4
_BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def allowed_cores(root: Path = _ROOT) -> int:
    """Cores of this process: those of its affinity, or as many as its control groups grant time for, if fewer.

    Args:
        root: where ``proc`` and ``sys`` are looked for.
    """
    granted = granted_cores(root)
    here = len(os.sched_getaffinity(0))
    return here if granted is None else min(here, granted)


def granted_cores(root: Path = _ROOT) -> int | None:
    """Whole cores, at least 1, that the control groups of this process grant time for; None where none has a limit.

    Versions 1 and 2, its own group and all above it: the tightest holds. Kubernetes, Docker and systemd limit so.
    """
    limits = [limit for folder in _groups(root) if (limit := _limit(folder)) is not None]
    return max(1, int(min(limits))) if limits else None


def loader_threads(cores: int) -> int:
    """Decoding threads for a rank with so many cores: from eight on two fewer, below that as many."""
    return cores - _CORES_FOR_OTHERS if cores >= _MANY_CORES else cores


def bound_blas(environment: MutableMapping[str, str]) -> None:
    """Let NumPy's BLAS start no more than a few threads, and not one for each core in every rank. What is set stays.

    To be called before NumPy is loaded. The number does not depend on the ranks of a host, for sums of a matrix product
    round otherwise on another number of threads, and patches are chosen by them.
    """
    if not environment.keys() & set(_BLAS_VARIABLES):
        environment[_BLAS_VARIABLES[0]] = str(min(_MOST_BLAS_THREADS, allowed_cores()))


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the groups that may limit this process, as far as they are to be seen here."""
    mounts = root / "sys/fs/cgroup"
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Inside a container the path may be the host's, while what is mounted begins at the container's own group.
        own = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for mount in (mounts / controllers, mounts / "cpu") if controllers else (mounts, mounts / "unified"):
            yield from (mount.joinpath(*own[:depth]) for depth in range(len(own), -1, -1))


def _limit(folder: Path) -> float | None:
    """Cores that one group grants time for; None where it has no limit, or where there is no such group."""
    both = _text(folder / "cpu.max")  # version 2: "max 100000", "150000 100000"
    if both is not None:
        quota, period = both.split()
    else:
        quota, period = _text(folder / "cpu.cfs_quota_us") or "-1", _text(folder / "cpu.cfs_period_us") or "0"
    if quota == "max" or int(quota) <= 0 or int(period) <= 0:
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
