"""The smoke runs: whole runs, one after another in this process, with their losses."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from engine.metrics import read_metrics
from engine.ranks.world import World
from engine.train import train_run
from tools.acceptance import judging
from tools.acceptance.runs import RESUMED, RUNS, SmokeRun, possible, smoke_config, write_config
from tools.acceptance.sizes import Size

Losses = dict[SmokeRun, list[float]]


def smoke(size: Size, photographs: Path, world: World) -> dict[str, Any]:
    """Make all runs that this machine can, and judge them.

    Returns:
        ``runs``, ``precisions``, ``resumed``, ``left_out`` (names) and ``problems``; ``is_worthless`` where no run at
        all came to its end.
    """
    on_gpu = world.device.type == "cuda"
    runs, unable = possible(RUNS, on_gpu=on_gpu, most=size.num_runs)
    pairs, unable_pairs = possible(RESUMED, on_gpu=on_gpu, most=size.num_resumed)
    with TemporaryDirectory() as folder:
        config = write_config(smoke_config(photographs, size), Path(folder) / "smoke.yaml")
        made = {run: _made(run, config, Path(folder) / run.name, size, world) for run in runs}
        with deterministic():
            went_on = [_resumed(run, config, Path(folder), size, world) for run in pairs]
    losses = {run: one["losses"] for run, one in made.items() if one["problem"] is None}
    compared = judging.precisions(losses)
    found = [*made.values(), *compared, *went_on]
    return {
        "runs": list(made.values()),
        "precisions": compared,
        "resumed": went_on,
        "left_out": sorted({run.name for run in (*unable, *unable_pairs)}),
        "problems": [one["problem"] for one in found if one["problem"] is not None],
        "is_worthless": not losses,
    }


def _made(run: SmokeRun, config: Path, folder: Path, size: Size, world: World) -> dict[str, Any]:
    """One run through all of its steps."""
    start = time.perf_counter()
    problem = _trained(run, config, folder, world)
    losses = _losses(folder)
    if problem is None:
        problem = judging.problem_of_losses(losses, size.num_steps)
    return {
        "run": run.name,
        "seconds": round(time.perf_counter() - start, 2),
        "losses": losses,
        "problem": None if problem is None else f"{run.name}: {problem}",
    }


def _resumed(run: SmokeRun, config: Path, parent: Path, size: Size, world: World) -> dict[str, Any]:
    """One run that is stopped half-way and goes on, beside one that runs through."""
    through, in_two = parent / f"{run.name}-through", parent / f"{run.name}-in-two"
    problem = (
        _trained(run, config, through, world)
        or _trained(run, config, in_two, world, "--max-steps", str(size.num_steps // 2))
        or _trained(run, config, in_two, world)
    )
    if problem is not None:
        return {"run": run.name, "exact": False, "most_apart": None, "problem": f"{run.name}, to go on: {problem}"}
    return judging.resumed(run.name, _losses(through), _losses(in_two))


def _trained(run: SmokeRun, config: Path, folder: Path, world: World, *more: str) -> str | None:
    """Train as ``engine.train`` does; returns what went wrong, and leaves its traceback on stderr."""
    settings = [word for setting in run.settings for word in ("--set", setting)]
    print(f"-- {run.name} {' '.join(more)}", flush=True)
    try:
        code = train_run(["--config", str(config), "--out", str(folder), *settings, *more], world)
    except SystemExit as ending:
        return f"ended with code {ending.code}"
    except Exception as error:  # whatever it is, the other runs are tried as well
        traceback.print_exc(file=sys.stderr)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return f"ended with code {code}" if code else None


def _losses(folder: Path) -> list[float]:
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [float(line["loss"]) for line in read_metrics(path) if line["event"] == "train"]


@contextmanager
def deterministic() -> Iterator[None]:
    """Inside, torch takes algorithms that repeat bit for bit, where it has them. cuBLAS wants to hear of it too."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
