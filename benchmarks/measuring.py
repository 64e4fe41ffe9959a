"""What the speed benchmarks share: cores to keep to, CPU time of all processes, medians, raw results."""

import argparse
import json
import multiprocessing
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from engine.ranks.hardware import describe_hardware

RESULTS = Path("benchmarks/results")
PHOTOGRAPHS, NUM_PHOTOGRAPHS = Path("data/photographs"), 2000


def benchmark_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A command line with what these benchmarks have in common; ``doc``: the module's."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{name}", description=(doc or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=PHOTOGRAPHS, help="the photographs' folder (default: %(default)s)")
    parser.add_argument("--photographs", type=int, default=NUM_PHOTOGRAPHS, help="made there (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="(default: %(default)s)")
    return parser


def keep_to_cores(num_cores: int) -> None:
    """This process, and those it will start, run on so many of its processor cores only.

    Raises:
        ValueError: it may not use that many.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= num_cores <= len(allowed):
        raise ValueError(f"--cores is 1 to {len(allowed)} here, got {num_cores}")
    os.sched_setaffinity(0, allowed[:num_cores])


def fork_workers_safely() -> None:
    """PyTorch's workers are forked from a process without threads: beside DALI's a forked one may hang or crash."""
    multiprocessing.set_start_method("forkserver")
    multiprocessing.set_forkserver_preload(["benchmarks.loader_peers", "benchmarks.peers.recipes"])


def tree_cpu_s() -> float:
    """CPU seconds that this process and its living descendants have used so far, in user and in kernel mode."""
    me = psutil.Process()
    total_s = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # gone meanwhile
            continue
        total_s += times.user + times.system
    return total_s


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and extremes, and the values themselves in the order in which they were measured."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": list(values)}


def write_result(path: Path, module: str, argv: Sequence[str], found: dict[str, Any], load_before: float) -> None:
    """One file of raw results: the command, the machine and its load, then what was found.

    Args:
        load_before: the machine's load average when the measurement began: above 0, something else was running.
    """
    command = shlex.join(["python", "-m", module, *argv])
    loads = {"load_average_before": load_before, "load_average_after": os.getloadavg()[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"command": command, "hardware": describe_hardware(), **loads, **found}, indent=1) + "\n"
    )
    print(f"written to {path}", file=sys.stderr)
