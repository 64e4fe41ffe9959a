"""What goes wrong between hosts. The two hosts are network namespaces of this machine, each with its own address."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from benchmarks.faults.case import Bench, Case, Checks
from benchmarks.shared.hosts import Host, deepspeed_command, two_hosts, why_impossible
from benchmarks.shared.shell import ROOT
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from benchmarks.toy_runs import settings, wait_until
from engine.metrics import read_metrics
from pipeline.shards.index import build_index

GROUP = "several hosts"
_ENDS_WITHIN_S = 300.0
_PORT = 29500
_NUM_STEPS = 60
_JOBS = ROOT / "benchmarks" / "shared" / "runs_on_two_hosts.py"
_FAST_CLOCK = """
import time
true_time, true_time_ns = time.time, time.time_ns
time.time = lambda: true_time() + 420
time.time_ns = lambda: true_time_ns() + 420 * 10**9
"""
# What host-b is given before a run, the place that is its own again afterwards, and what the run's only error says.
_DIFFERENCES: dict[str, tuple[str, str, list[str]]] = {
    "shards that differ between hosts": (
        "mount --bind {here}/other {here}/data",
        "{here}/data",
        ["data.train", "train-000001.tar", "on rank 0 (host-a)", "on rank 1 (host-b)"],
    ),
    "a data set missing on one host": (
        "mount -t tmpfs tmpfs {here}/data",
        "{here}/data",
        ["rank 1 (host-b): ", "{here}/data"],
    ),
    "configurations that differ between hosts": (
        "mount --bind {here}/other.yaml {here}/toy.yaml",
        "{here}/toy.yaml",
        ["different configurations", "optim.lr: 0.005 on rank 0 (host-a), 0.006 on rank 1 (host-b)"],
    ),
    "another version of DeepSpeed on one host": (
        "mount --bind {here}/METADATA {metadata}",
        "{metadata}",
        ["same software", "deepspeed: {version} on rank 0 (host-a), 0.0.1 on rank 1 (host-b)"],
    ),
    "other sources of this project on one host": (
        "mount --bind {here}/losses.py {root}/engine/losses.py",
        "{root}/engine/losses.py",
        ["same software", "this project's sources: "],
    ),
    "a run folder that the hosts do not share": (
        "mount -t tmpfs tmpfs {here}/unshared",
        "{here}/unshared",
        ["rank 1 (host-b): ", "{here}/unshared/run is not the one that rank 0 (host-a) writes to"],
    ),
}


def cases() -> list[Case]:
    """All of them."""
    found = [
        Case(
            GROUP,
            name,
            "by a mount that host-b alone sees; one launch over ssh and pdsh for all such cases",
            "code 2 on both hosts before training starts, and one line that names hosts and difference",
            _difference(name),
        )
        for name in _DIFFERENCES
    ]
    found += [
        Case(
            GROUP,
            "clocks seven minutes apart",
            "Python's clock on host-b runs ahead; one deepspeed --no_ssh on each host",
            "a warning that names the host; the run ends well",
            _clocks,
        ),
        Case(
            GROUP,
            "SIGTERM to one host's script",
            "the signal to tools/cluster/node.sh on host-b, as a batch system does before it takes a node away",
            "both hosts end with code 75 and one checkpoint of all ranks",
            _preempted,
        ),
        Case(
            GROUP,
            "a host is killed",
            "SIGKILL to every process of host-b at once, in a run over ssh and pdsh under ZeRO-1",
            "the run ends with a line that names the lost rank or its address, no process is left, and host-a goes on "
            "alone with one rank; its losses are within 1e-4 of an undisturbed run's",
            _killed,
        ),
        Case(
            GROUP,
            "the network between the hosts fails",
            "host-b's cable is pulled: connections stay open and nothing arrives (time limit of one minute)",
            "both hosts end by themselves, with a message, and no process is left",
            _unplugged,
        ),
        Case(
            GROUP,
            "the port is in use",
            "another program listens on host-a's port 29500 and says nothing (time limit of one minute)",
            "code 2; the first host's line names the port, the second one's the address that did not answer",
            _port_in_use,
        ),
    ]
    return found


def _place(bench: Bench) -> Path:
    """Data, configurations and what else host-b may be given. Made once."""
    here = bench.folder / "hosts"
    if here.exists():
        return here
    if (reason := why_impossible()) is not None:
        raise RuntimeError(f"two hosts on one machine: {reason}")
    write_toy_config(here / "toy.yaml", write_toy_shards(here / "data"))
    (here / "other.yaml").write_text((here / "toy.yaml").read_text().replace("lr: 0.005", "lr: 0.006"))
    shutil.copytree(here / "data", here / "other")
    tars = sorted((here / "other").glob("train-*.tar"))
    shutil.copy(here / "data" / "val-000000.tar", tars[1])
    build_index(here / "other", "train", tars)
    (here / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.0.1\n")
    (here / "losses.py").write_text((ROOT / "engine" / "losses.py").read_text() + "\n# changed on this host\n")
    (here / "unshared").mkdir()
    (here / "clock").mkdir()
    (here / "clock" / "sitecustomize.py").write_text(_FAST_CLOCK)
    return here


def _argv(here: Path, out: str, *more: str) -> list[str]:
    common = settings(
        train__duration=f"{_NUM_STEPS}steps", checkpoint__every="5steps", engine__zero_stage=1, schedule__kind="cyclic"
    )
    return ["--config", str(here / "toy.yaml"), "--out", str(here / out), *common, *more]


def _end(checks: Checks, process: subprocess.Popen[str], host: str) -> tuple[int | None, str]:
    """A launcher's exit code and output; it is ended where it does not end by itself."""
    try:
        printed, _ = process.communicate(timeout=_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        printed, _ = process.communicate()
        checks.add(f"{host} ends by itself", f"within {_ENDS_WITHIN_S:g} s", "no", False)
        return None, printed
    return process.returncode, printed


def _nothing_left(checks: Checks, *hosts: Host) -> None:
    wait_until(lambda: not any(host.processes() for host in hosts), 90)
    left = [line for host in hosts for line in host.processes()]
    checks.add("processes left", "none", "; ".join(left) or "none", not left)


def _on_both(here: Path, hosts: tuple[Host, Host], out: str, *more: str, **variables: str) -> list[Any]:
    """The script for a host's ranks on each of them; ``variables`` for the second one."""
    nodes = {"NUM_NODES": "2", "RANKS_PER_NODE": "1", "MASTER_ADDR": "host-a"}
    argv = _argv(here, out, *more)
    return [
        hosts[0].start("tools/cluster/node.sh", *argv, NODE_RANK="0", **nodes),
        hosts[1].start("tools/cluster/node.sh", *argv, NODE_RANK="1", **nodes, **variables),
    ]


def _wait_for_step(here: Path, out: str, step: int, process: subprocess.Popen[str]) -> None:
    def is_there() -> bool:
        return sum(line["event"] == "train" for line in read_metrics(here / out / "metrics.jsonl")) > step

    wait_until(lambda: is_there() or process.poll() is not None, _ENDS_WITHIN_S)
    if not is_there():
        raise TimeoutError(f"step {step} was not reached: {process.communicate()[0][-600:]}")


def _losses(here: Path, out: str) -> list[float]:
    return [line["loss"] for line in read_metrics(here / out / "metrics.jsonl") if line["event"] == "train"]


def _differing_runs(bench: Bench) -> dict[str, Any]:
    """One good run and one for each difference, in one launch: codes by host, printed lines. Done once."""
    here = _place(bench)
    if (here / "found.json").exists():
        return json.loads((here / "found.json").read_text())
    jobs = [{"argv": _argv(here, "good"), "before": "true", "after": "true"}]
    for number, (before, place, _) in enumerate(_DIFFERENCES.values()):
        out = "unshared/run" if "unshared" in place else f"differing-{number}"
        names = {"before": before, "after": f"umount --lazy {place}"}
        jobs.append({"argv": _argv(here, out), **{key: _filled(text, here) for key, text in names.items()}})
    (here / "jobs.json").write_text(json.dumps(jobs))
    checks = Checks()
    with two_hosts(bench.folder / "two-hosts-differing") as (first, second):
        process = first.start(*deepspeed_command(first.folder, _JOBS, here / "jobs.json", here))
        code, printed = _end(checks, process, "host-a")
        _nothing_left(checks, first, second)
    codes = [
        json.loads(path.read_text()) if (path := here / f"{host}.json").exists() else [None] * len(jobs)
        for host in ("host-a", "host-b")
    ]
    found = {"code": code, "printed": printed, "codes": codes}
    (here / "found.json").write_text(json.dumps(found))
    return found


def _filled(text: str, here: Path) -> str:
    installed = distribution("deepspeed")
    metadata = Path(str(installed._path)) / "METADATA"  # type: ignore[attr-defined]
    return text.format(here=here, root=ROOT, metadata=metadata, version=installed.version)


def _difference(name: str) -> Callable[[Bench, Checks], None]:
    number = list(_DIFFERENCES).index(name)

    def run(bench: Bench, checks: Checks) -> None:
        found, here = _differing_runs(bench), _place(bench)
        checks.equal("exit codes on host-a and host-b", [2, 2], [codes[number + 1] for codes in found["codes"]])
        says = [_filled(text, here) for text in _DIFFERENCES[name][2]]
        lines = [line for line in found["printed"].splitlines() if ": error: " in line]
        holding = [line for line in lines if all(text in line for text in says)]
        shown = " | ".join(holding) or " | ".join(lines) or found["printed"][-300:]
        checks.add("error lines that say so", f"1, with {says}", f"{len(holding)}: {shown}", len(holding) == 1)

    return run


def _clocks(bench: Bench, checks: Checks) -> None:
    here = _place(bench)
    with two_hosts(bench.folder / "two-hosts-clocks") as hosts:
        path = f"{here / 'clock'}:{ROOT}"
        processes = _on_both(here, hosts, "clocks", "--max-steps", "10", PYTHONPATH=path)
        (code, printed), (other, _) = (_end(checks, process, "a host") for process in processes)
        checks.equal("exit codes", [0, 0], [code, other])
        checks.says(printed, "warning: the clock of host-b is 4")
        _nothing_left(checks, *hosts)


def _preempted(bench: Bench, checks: Checks) -> None:
    here = _place(bench)
    with two_hosts(bench.folder / "two-hosts-preempted") as hosts:
        processes = _on_both(here, hosts, "preempted", "--set", "train.duration=20000steps")
        _wait_for_step(here, "preempted", 8, processes[0])
        hosts[1].run("pkill", "-TERM", "--full", "--oldest", "tools/cluster/node.sh")
        (code, printed), (other, _) = (_end(checks, process, "a host") for process in processes)
        checks.equal("exit codes", [75, 75], [code, other])
        checks.says(printed, f"stopped by {signal.SIGUSR1.name} to rank 1")
        _nothing_left(checks, *hosts)


def _killed(bench: Bench, checks: Checks) -> None:
    here = _place(bench)
    _differing_runs(bench)  # for the losses of its good run
    with two_hosts(bench.folder / "two-hosts-killed") as (first, second):
        argv = _argv(here, "killed")
        process = first.start(*deepspeed_command(first.folder, "--module", "engine.train", *argv))
        _wait_for_step(here, "killed", 12, process)
        second.kill()
        code, printed = _end(checks, process, "host-a")
        checks.add("exit code", "not 0", code, code not in (0, None))
        errors = [line for line in printed.splitlines() if "10.77.0.2" in line or "rank 1 (host-b" in line]
        checks.add("message", "names the lost rank or address", errors[0] if errors else printed[-300:], bool(errors))
        _nothing_left(checks, first)
        alone = first.start(sys.executable, "-m", "engine.train", *argv)
        code, printed = _end(checks, alone, "host-a")
        checks.equal("exit code alone", 0, code)
        checks.says(printed, "going on from", "written by 2 rank(s)")
    good, found = _losses(here, "good"), _losses(here, "killed")
    checks.equal("steps in the metrics", _NUM_STEPS, len(found))
    apart = max((abs(a - b) / abs(a) for a, b in zip(good, found, strict=False)), default=float("inf"))
    checks.add("losses apart, relative", "at most 1e-4", f"{apart:.2g}", apart <= 1e-4)


def _unplugged(bench: Bench, checks: Checks) -> None:
    here = _place(bench)
    with two_hosts(bench.folder / "two-hosts-unplugged") as hosts:
        processes = _on_both(here, hosts, "unplugged", "--set", "train.duration=20000steps")
        _wait_for_step(here, "unplugged", 8, processes[0])
        hosts[1].unplug()
        for host, process in zip(hosts, processes, strict=True):
            code, printed = _end(checks, process, host.name)
            checks.add(f"exit code on {host.name}", "not 0", code, code not in (0, None))
            errors = [line for line in printed.splitlines() if "error: " in line]
            checks.add(
                f"message on {host.name}", "there is one", errors[0] if errors else printed[-300:], bool(printed)
            )
        _nothing_left(checks, *hosts)


def _port_in_use(bench: Bench, checks: Checks) -> None:
    here = _place(bench)
    listen = (
        f"import socket, time; s = socket.create_server(('', {_PORT})); print('taken', flush=True); time.sleep(900)"
    )
    with two_hosts(bench.folder / "two-hosts-port", time_limit_min=1) as hosts:
        listener = hosts[0].start(sys.executable, "-c", listen)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "taken\n"
        argv = _argv(here, "taken")
        process = hosts[0].start(*deepspeed_command(hosts[0].folder, "--module", "engine.train", *argv))
        code, printed = _end(checks, process, "host-a")
        checks.code(2, code)
        checks.says(printed, f"rank 0 (host-a): port {_PORT}", "is in use", "rank 1 (host-b): the 2 ranks of the run")
        _nothing_left(checks, *hosts)
