"""The ways of one conversion: a process, parts as a job array runs them, and a Ray cluster of two hosts."""

import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.shared.hosts import Host, two_hosts, wait_until
from benchmarks.shared.shell import ROOT

_WAIT_S = 3600.0
_PYTHON = sys.executable
_PUT_UP = ("--max-rejected", "1000")


def _command(source: Path, out: Path, *more: object) -> list[str]:
    given = ("convert", "--source", f"parquet:{source}", "--out", out)
    return [_PYTHON, "-m", "tools.shards", *map(str, given), *map(str, more)]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def in_one_process(source: Path, out: Path) -> dict[str, Any]:
    _run(_command(source, out, "--workers", 1, *_PUT_UP))
    return {}


def in_parts(source: Path, out: Path, count: int, at_once: int = 2) -> dict[str, Any]:
    """Parts in an order that is drawn, some at the same time; one is killed and run again; then the merge."""
    order = random.Random(0).sample(range(1, count + 1), count)

    def part(number: int) -> list[str]:
        return _command(source, out, "--workers", 1, "--part", f"{number}/{count}")

    killed = subprocess.Popen(part(order[0]), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: killed.poll() is not None or num_tars(out) >= 1, _WAIT_S)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    tars = num_tars(out)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda number: _run(part(number)), order))
    _run([_PYTHON, "-m", "tools.shards", "merge", str(out), *_PUT_UP])
    return {"num_parts": count, "order": order, "at_once": at_once, "tars_when_part_was_killed": tars}


def on_two_hosts(source: Path, out: Path, num_shards: int, work: Path) -> dict[str, Any]:
    """The driver is killed at a quarter and started again; a host is killed at half."""
    with two_hosts(work / "hosts") as (first, second):
        for host in (first, second):  # each has what Ray keeps of its own
            host.run("sh", "-c", "mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm")
        ray = str(Path(_PYTHON).parent / "ray")
        common = ("--num-cpus", "1", "--object-store-memory", "200000000", "--disable-usage-stats")
        address = f"{first.address}:6379"
        head = ("--head", "--port", "6379", "--node-ip-address", first.address, "--include-dashboard", "false")
        first.run(ray, "start", *head, *common, timeout_s=300)
        second.run(ray, "start", "--address", address, "--node-ip-address", second.address, *common, timeout_s=300)
        driver = _driver(first, source, out)
        wait_until(lambda: driver.poll() is not None or num_tars(out) >= num_shards // 4, _WAIT_S)
        driver_tars = num_tars(out)
        first.run("pkill", "-KILL", "-f", "tools.shards convert")
        driver.communicate(timeout=60)
        driver = _driver(first, source, out)
        wait_until(lambda: driver.poll() is not None or num_tars(out) >= num_shards // 2, _WAIT_S)
        was_running, host_tars = driver.poll() is None, num_tars(out)
        second.kill()
        told, _ = driver.communicate(timeout=_WAIT_S)
        assert driver.returncode == 0, told[-2000:]
    return {
        "hosts": "two sets of Linux namespaces on one machine, a CPU of Ray's each",
        "tars_when_driver_was_killed": driver_tars,
        "tars_when_host_was_killed": host_tars,
        "driver_was_running_then": was_running,
    }


def _driver(host: Host, source: Path, out: Path) -> "subprocess.Popen[str]":
    return host.start(*_command(source, out, "--ray", "auto", *_PUT_UP))


def num_tars(folder: Path) -> int:
    return len(list(folder.glob("*.tar")))
