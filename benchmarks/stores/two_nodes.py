"""The same run over a disk, a web server and a bucket, on two hosts of two ranks, each host with a cache of its own."""

import hashlib
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.shared.hosts import ADDRESSES, Host, deepspeed_command, two_hosts, wait_until
from benchmarks.shared.shell import ROOT
from benchmarks.shared.stores import CREDENTIALS, nginx_settings
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.metrics import read_metrics

_WEB_PORTS, _S3_PORT = (8081, 8082), 5000
_RANKS_A_HOST = 2
_JOBS = ROOT / "benchmarks" / "shared" / "runs_on_two_hosts.py"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of moto's log
_ANSWERED = re.compile(r'^(\S+) .*"GET /(?:toys/set/)?(\S+\.tar)\S* HTTP')


def two_node_runs(folder: Path) -> dict[str, Any]:
    """What each run found: the digest of its weights, and how often each host asked for each shard.

    The shards are fewer than one window and the next, so that none has to be fetched twice.
    """
    shards = write_toy_shards(folder / "shards", shard_samples=20)
    config = write_toy_config(folder / "toy.yaml", shards)
    address = ADDRESSES["host-a"]
    places = {
        "disk": str(shards),
        "web server": f"http://{address}:{_WEB_PORTS[0]}",
        "web server without ranges": f"http://{address}:{_WEB_PORTS[1]}",
        "S3": "s3://toys/set",
    }
    outs = {name: folder / name.replace(" ", "-") for name in places}
    cache = folder / "cache"
    cache.mkdir()
    jobs = [
        {"argv": _argv(config, outs[name], place, cache / outs[name].name), "before": "true", "after": "true"}
        for name, place in places.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with two_hosts(folder / "hosts") as hosts:
        first = hosts[0]
        _prepare(first.folder, address)
        for host in hosts:  # seen there alone
            host.run("mount", "-t", "tmpfs", "tmpfs", cache)
        with _servers(first, folder, shards):
            launch = first.start(*deepspeed_command(first.folder, _JOBS, folder / "jobs.json", folder))
            printed, _ = launch.communicate(timeout=900)
    codes = {path.stem: json.loads(path.read_text()) for path in folder.glob("host-?.json")}
    assert codes == {host: [0] * len(jobs) for host in ADDRESSES}, printed
    asked = _asked(folder)
    return {
        name: {
            "weights_sha256": hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest(),
            **_told(out),
            **({} if name == "disk" else {"contents_asked_for": asked[name]}),
        }
        for name, out in outs.items()
    }


def _argv(config: Path, out: Path, place: str, cache: Path) -> list[str]:
    values = {
        **{"data.train": place, "data.val": place, "data.cache_folder": cache, "data.shuffle": "window"},
        **{"data.window_shards": 2, "data.prefetch_batches": 2},
    }
    return [
        *("--config", str(config), "--out", str(out)),
        *(word for key, value in values.items() for word in ("--set", f"{key}={value}")),
    ]


def _prepare(folder: Path, address: str) -> None:
    """Two ranks a host, and the bucket's address and keys in the environment of each."""
    (folder / "hostfile").write_text("".join(f"{name} slots={_RANKS_A_HOST}\n" for name in ADDRESSES))
    with (folder / "deepspeed_env").open("a") as lines:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{address}:{_S3_PORT}"}.items():
            lines.write(f"{name}={value}\n")


@contextmanager
def _servers(host: Host, folder: Path, shards: Path) -> Iterator[None]:
    """Both kinds of store on a host, holding the shards."""
    settings = nginx_settings(shards, folder / "nginx", _WEB_PORTS, "0.0.0.0", with_logs=True)
    nginx = host.start("nginx", "-e", str(folder / "nginx" / "start.log"), "-c", str(settings))
    moto = host.start(
        *("sh", "-c", f"exec {sys.executable} -m moto.server -H 0.0.0.0 -p {_S3_PORT} > {folder / 'moto.log'} 2>&1")
    )
    try:
        log = folder / "moto.log"
        wait_until(lambda: log.exists() and "Running on" in log.read_text(), 120)
        host.run(sys.executable, "-m", "benchmarks.stores.fill", shards, "s3://toys/set", timeout_s=120)
        yield
    finally:
        for process in (nginx, moto):
            process.terminate()
            process.wait(20)


def _asked(folder: Path) -> dict[str, dict[str, Any]]:
    """By kind of store: how often each host asked for the content of each shard, and how many shards that were."""
    logs = {
        "web server": folder / "nginx" / f"{_WEB_PORTS[0]}.log",
        "web server without ranges": folder / "nginx" / f"{_WEB_PORTS[1]}.log",
        "S3": folder / "moto.log",
    }
    found: dict[str, dict[str, Any]] = {}
    for name, log in logs.items():
        text = _COLOURS.sub("", log.read_text())
        lines = [match for line in text.splitlines() if (match := _ANSWERED.match(line))]
        found[name] = {}
        for host, address in ADDRESSES.items():
            counts = Counter(match[2] for match in lines if match[1] == address)
            found[name][host] = {"shards": len(counts), "most_for_one_shard": max(counts.values(), default=0)}
    return found


def _told(out: Path) -> dict[str, Any]:
    lines = read_metrics(out / "metrics.jsonl")
    train = [line for line in lines if line["event"] == "train"]
    store = [line for line in lines if line["event"] == "store"]
    return {
        "loader_wait_share": statistics.median(line["loader_wait_s"] / line["step_s"] for line in train),
        "fetched_bytes": sum(line["fetched_bytes"] for line in store),
        "fetched_files": sum(line["fetched_files"] for line in store),
    }
