"""Two ranks over a web server behind a line of limited rate, with a cache smaller than the set, for an hour.

    make data && python -m benchmarks.stores.soak --minutes 60

The server and the ranks are on hosts of their own, network namespaces of this machine; the line's rate is limited where
it leaves the server (tbf). Does anything grow, does a loader wait after the first windows, and is every byte that came
one of a shard that was needed? Needs root and nginx. Writes benchmarks/results/stores_soak.json.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measuring import RESULTS, write_result
from benchmarks.shared.hosts import ADDRESSES, Host, shell_environment, two_hosts, wait_until, why_impossible
from benchmarks.shared.stores import nginx_settings
from benchmarks.soak import CONFIG, Reading, growth, ranks_below, read_process
from engine.metrics import read_metrics
from pipeline.shards.index import open_index

_PORTS = 8081, 8082
_WINDOW_SHARDS, _CACHED_SHARDS = 4, 20
_SENT = re.compile(r'"GET /(train-\S+\.tar) HTTP[^"]*" 20[06] (\d+)')


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="benchmarks.stores.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--megabits", type=float, default=80, help="of the line, a second (default: %(default)s)")
    parser.add_argument("--every-s", type=float, default=10, help="seconds between readings")
    parser.add_argument("--out", type=Path, default=RESULTS / "stores_soak.json")
    options = parser.parse_args(argv)
    if (lacking := why_impossible()) is not None:
        print(f"error: {lacking}", file=sys.stderr)
        return 2
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="stores-soak-") as temporary:
        found = _soak(Path(temporary), options.data.resolve(), options)
    write_result(options.out, "benchmarks.stores.soak", argv, found, load_before)
    return 0


def _soak(folder: Path, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    with two_hosts(folder / "hosts") as (server, trainer):
        settings = nginx_settings(data, folder / "nginx", _PORTS, "0.0.0.0", with_logs=True)
        nginx = server.start("nginx", "-e", str(folder / "nginx" / "start.log"), "-c", str(settings))
        wait_until((folder / "nginx" / "pid").exists, 30)
        limit = ["rate", f"{options.megabits:g}mbit", "burst", "256kb", "latency", "50ms"]
        server.run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *limit)
        readings, code, printed = _train(trainer, folder, data, options)
        nginx.terminate()
        nginx.wait(20)
    return {
        **{"megabits_per_s": options.megabits, "minutes": options.minutes, "exit_code": code},
        **_counted(folder, data),
        "growth": {name: growth(one) for name, one in readings.items()},
        "readings": readings,
        **({} if code == 75 else {"printed": printed[-2000:]}),
    }


def _train(
    host: Host, folder: Path, data: Path, options: argparse.Namespace
) -> tuple[dict[str, list[Reading]], int, str]:
    """Readings of each rank until the time is over and the run was told to stop, and how it ended."""
    place = f"http://{ADDRESSES['host-a']}:{_PORTS[0]}"
    values = {
        **{"data.train": place, "data.val": data, "data.cache_folder": folder / "cache"},
        **{"data.cache_max_bytes": _CACHED_SHARDS * _largest(data), "data.shuffle": "window"},
        **{"data.window_shards": _WINDOW_SHARDS, "train.duration": "1000epochs", "eval.every": "100000steps"},
        **{"checkpoint.every": "2000steps", "log_every": 20, "data.num_threads": 1},
    }
    command = [*("deepspeed", "--quiet", "--no_local_rank", "--num_accelerators", "2", "--module", "engine.train")]
    command += ["--config", CONFIG, "--out", str(folder / "run"), "--resume", "never"]
    command += [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    with (folder / "printed").open("w") as sink:
        launcher = psutil.Popen(
            host.command("env", *_variables(host), *command), stdout=sink, stderr=sink, start_new_session=True
        )
        started, readings = time.monotonic(), dict[str, list[Reading]]()
        while time.monotonic() - started < options.minutes * 60:
            time.sleep(options.every_s)
            if launcher.poll() is not None:
                break
            for number, rank in enumerate(_ranks(launcher)):
                readings.setdefault(f"rank {number}", []).append(read_process(rank, started))
        for rank in _ranks(launcher) if launcher.poll() is None else ():
            rank.send_signal(signal.SIGTERM)
        code = launcher.wait(300)
    return readings, code, (folder / "printed").read_text()


def _ranks(launcher: psutil.Popen) -> list[psutil.Process]:
    """Without the launcher, which names the module too."""
    return [rank for rank in ranks_below(launcher.pid) if "--module" not in rank.cmdline()]


def _variables(host: Host) -> list[str]:
    return [f"{name}={value}" for name, value in shell_environment(host.folder).items()]


def _largest(data: Path) -> int:
    return max(shard.size_bytes for shard in open_index(data, "train").shards)


def _counted(folder: Path, data: Path) -> dict[str, Any]:
    """What came, by the run and by the server, and how long loaders waited for it."""
    lines = read_metrics(folder / "run" / "metrics.jsonl")
    store = [line for line in lines if line["event"] == "store"]
    train = [line for line in lines if line["event"] == "train"]
    index = open_index(data, "train")
    sizes = {shard.name: shard.size_bytes for shard in index.shards}
    log = (folder / "nginx" / f"{_PORTS[0]}.log").read_text().splitlines()
    sent = [match for line in log if (match := _SENT.search(line))]
    asked = Counter(match[1] for match in sent)
    images_of_a_window = _WINDOW_SHARDS * index.num_samples / len(sizes)
    first = [line for line in store if line["step"] * _batch(train) < images_of_a_window]
    return {
        "steps": train[-1]["step"] + 1,
        "epochs": train[-1]["epoch"] + 1,
        "bytes_of_the_set": sum(sizes.values()),
        "bytes_by_the_run": sum(line["fetched_bytes"] for line in store),
        "bytes_by_the_server": sum(int(match[2]) for match in sent),
        "bytes_of_the_shards_asked_for": sum(count * sizes[name] for name, count in asked.items()),
        "most_for_one_shard": max(asked.values()),
        "store_wait_s_in_the_first_window": sum(line["store_wait_s"] for line in first),
        "store_wait_s_afterwards": sum(line["store_wait_s"] for line in store[len(first) :]),
    }


def _batch(train: Sequence[dict[str, Any]]) -> float:
    """Images of a global batch, as the rates tell it."""
    return train[0]["images_per_s"] * train[0]["step_s"]


if __name__ == "__main__":
    if shutil.which("nginx") is None:
        sys.exit("error: nginx is not installed")
    sys.exit(main())
