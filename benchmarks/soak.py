"""Does anything grow? Memory, file handles and threads of the loader and of a long training run, over time.

    make data && python -m benchmarks.soak --train-minutes 60

The loader goes over a million samples with the keep rate changing at every step; then two ranks train for an hour under
the same schedule and are stopped with SIGTERM. Writes benchmarks/results/soak.json and soak.png.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from engine.config import RunConfig, load_config
from engine.ranks.hardware import describe_hardware
from engine.run_plan import build_schedule
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner
from pipeline.shards.data_sets import open_train
from pipeline.train_plans import TrainPlans

RESULTS = Path("benchmarks/results")
CONFIG = "configs/fashion_mnist.yaml"
CHANGING_STAGES = [
    "schedule.kind=choice",
    "schedule.keep_rate=[[0.2,1],[0.4,1],[0.6,1],[0.8,1],[1.0,1]]",
    "train.duration=1000epochs",
    "data.augment.pad_pixels=2",
]
Reading = dict[str, float]


def read_process(process: psutil.Process, started: float) -> Reading:
    """One reading: seconds since the start, resident memory, open file descriptors, threads."""
    with process.oneshot():
        return {
            "time_s": round(time.monotonic() - started, 1),
            "rss_mib": round(process.memory_info().rss / 2**20, 1),
            "num_fds": process.num_fds(),
            "num_threads": process.num_threads(),
        }


def soak_loader(config: RunConfig, num_samples: int) -> list[Reading]:
    """The loader alone, in this process."""
    index = open_train(config.data)
    schedule = build_schedule(config, index.num_samples)
    batch = config.train.global_batch_size
    planner = TrainPlanner(index, config.data, config.selection, schedule, batch, config.seed)
    num_steps = num_samples // batch
    plans = TrainPlans(planner, first_step=0, stop_step=num_steps, micro_batch_size=batch)
    this, started, readings = psutil.Process(), time.monotonic(), []
    with PatchLoader(
        planner,
        plans,
        batch_size=batch,
        num_threads=len(os.sched_getaffinity(0)),
    ) as loader:
        for step, _ in enumerate(tqdm(loader, total=num_steps, desc="loader", unit="batch")):
            if step % (num_steps // 100) == 0:
                readings.append(read_process(this, started))
    return readings


def ranks_below(launcher: int) -> Iterator[psutil.Process]:
    """The training processes among a launcher's descendants, in order of their ids."""
    for child in sorted(psutil.Process(launcher).children(recursive=True), key=lambda process: process.pid):
        command = child.cmdline()
        if "engine.train" in command and "deepspeed.launcher.launch" not in command:
            yield child


def soak_trainer(out: Path, minutes: float, every_s: float) -> tuple[dict[str, list[Reading]], int, int]:
    """Two ranks through the launcher: their readings, the steps they made and the launcher's exit code."""
    command = [str(Path(sys.executable).parent / "deepspeed"), "--quiet", "--no_local_rank", "--num_accelerators", "2"]
    command += ["--module", "engine.train", "--config", CONFIG, "--out", str(out), "--resume", "never"]
    for override in CHANGING_STAGES:
        command += ["--set", override]
    command += ["--set", "eval.every=2000steps", "--set", "checkpoint.every=2000steps", "--set", "log_every=50"]
    launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    started = time.monotonic()
    readings: dict[str, list[Reading]] = {}
    ranks: list[psutil.Process] = []
    with tqdm(total=round(minutes * 60), desc="trainer", unit="s") as bar:
        while (elapsed := time.monotonic() - started) < minutes * 60:
            time.sleep(every_s)
            bar.update(round(time.monotonic() - started) - bar.n)
            if launcher.poll() is not None:
                raise RuntimeError(f"the run ended by itself after {elapsed:.0f} s with code {launcher.returncode}")
            ranks = list(ranks_below(launcher.pid))
            for number, rank in enumerate(ranks):
                readings.setdefault(f"rank {number}", []).append(read_process(rank, started))
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    code = launcher.wait(timeout=300)
    lines = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    return readings, max(line["step"] for line in lines), code


def growth(readings: list[Reading]) -> dict[str, float]:
    """Means over the first and the last third of the time after the first tenth, which belongs to the start."""
    steady = readings[len(readings) // 10 :]
    third = max(1, len(steady) // 3)
    result: dict[str, float] = {}
    for key in ("rss_mib", "num_fds", "num_threads"):
        early = sum(reading[key] for reading in steady[:third]) / third
        late = sum(reading[key] for reading in steady[-third:]) / third
        result |= {f"{key}_early": round(early, 1), f"{key}_late": round(late, 1)}
    return result


def draw(series: dict[str, list[Reading]], path: Path) -> None:
    """Memory, file descriptors and threads over time, a line a process."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    titles = {"rss_mib": "resident memory (MiB)", "num_fds": "open files", "num_threads": "threads"}
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for name, readings in series.items():
            axis.plot([r["time_s"] / 60 for r in readings], [r[key] for r in readings], label=name)
        axis.set(title=title, xlabel="minutes", ylim=(0, None))
    axes[0].legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=1_000_000, help="for the loader (default: %(default)s)")
    parser.add_argument("--train-minutes", type=float, default=60)
    parser.add_argument("--every-s", type=float, default=10, help="seconds between readings of the trainer")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    arguments = parser.parse_args()
    config = load_config(CONFIG, CHANGING_STAGES)
    trainer, steps, code = soak_trainer(arguments.out, arguments.train_minutes, arguments.every_s)
    series = {"loader alone": soak_loader(config, arguments.samples), **trainer}
    result: dict[str, Any] = {
        "command": "python -m benchmarks.soak " + " ".join(sys.argv[1:]),
        "hardware": describe_hardware(),
        "loader_samples": arguments.samples,
        "train_minutes": arguments.train_minutes,
        "train_steps": steps,
        "launcher_exit_code": code,
        "growth": {name: growth(readings) for name, readings in series.items()},
        "readings": series,
    }
    (RESULTS / "soak.json").write_text(json.dumps(result) + "\n")
    draw(series, RESULTS / "soak.png")
    print(json.dumps(result["growth"], indent=2))


if __name__ == "__main__":
    main()
