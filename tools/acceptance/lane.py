"""Smoke runs, whole ones, one after another in one process."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from engine.metrics import read_metrics
from engine.ranks.world import World
from engine.train import train_run
from tools.acceptance.runs import SmokeRun, Task, smoke_config, write_config
from tools.acceptance.sizes import Size


def make_runs(tasks: Sequence[Task], size: Size, photographs: Path, world: World, out: Path) -> None:
    """Make these runs; each that came to its end adds a line to ``out``.

    A run that fails ends this process as it ends the process of any run, and those behind it are not made.
    """
    with TemporaryDirectory() as folder:
        config = write_config(smoke_config(photographs, size), Path(folder) / "smoke.yaml")
        for task in tasks:
            print(f"-- {task.name}", flush=True)
            with deterministic() if task.in_two else nullcontext():
                found = _made(task, config, Path(folder) / task.name, size, world)
            with out.open("a") as file:
                file.write(json.dumps(found) + "\n")


def _made(task: Task, config: Path, folder: Path, size: Size, world: World) -> dict[str, Any]:
    start, through, in_two = time.perf_counter(), folder / "through", folder / "in-two"
    _train(task.run, config, through, world)
    found: dict[str, Any] = {"task": task.name, "losses": _losses(through)}
    if task.in_two:
        _train(task.run, config, in_two, world, "--max-steps", str(size.num_steps // 2))
        _train(task.run, config, in_two, world)
        found["losses_in_two"] = _losses(in_two)
    return {**found, "seconds": round(time.perf_counter() - start, 2)}


def _train(run: SmokeRun, config: Path, folder: Path, world: World, *more: str) -> None:
    """Train as ``engine.train`` does."""
    settings = [word for setting in run.settings for word in ("--set", setting)]
    code = train_run(["--config", str(config), "--out", str(folder), *settings, *more], world)
    if code:
        raise SystemExit(code)


def _losses(folder: Path) -> list[float]:
    return [float(line["loss"]) for line in read_metrics(folder / "metrics.jsonl") if line["event"] == "train"]


@contextmanager
def deterministic() -> Iterator[None]:
    """Inside, torch takes algorithms that repeat bit for bit, where it has them.

    cuBLAS wants to hear of it too, by CUBLAS_WORKSPACE_CONFIG, before the process uses it.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
