"""Runs of one configuration with several seeds, through the launcher as a user starts them."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.shared.shell import free_port


def run_with_seed(config: str, seed: int, ranks: int, *overrides: str) -> dict[str, Any]:
    """The summary of a run in ``runs/NAME_seedN``; one that is finished is only read, a stopped one goes on."""
    out = Path("runs") / f"{Path(config).stem}_seed{seed}"
    if not (out / "summary.json").exists():
        launcher = [str(Path(sys.executable).parent / "deepspeed"), "--quiet", "--no_local_rank"]
        launcher += ["--num_accelerators", str(ranks), "--master_port", str(free_port()), "--module", "engine.train"]
        settings = [word for override in (f"seed={seed}", *overrides) for word in ("--set", override)]
        subprocess.run([*launcher, "--config", config, "--out", str(out), *settings], check=True)
    return json.loads((out / "summary.json").read_text())


def top1_over_seeds(summaries: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of the accuracy at each keep rate, and every summary."""
    rates = list(next(iter(summaries.values()))["top1"])
    top1 = {rate: [summary["top1"][rate] for summary in summaries.values()] for rate in rates}
    return {
        "mean_top1": {rate: statistics.mean(values) for rate, values in top1.items()},
        "stdev_top1": {rate: statistics.stdev(values) if len(values) > 1 else None for rate, values in top1.items()},
        "summaries": summaries,
    }


def top1_lines(found: dict[str, Any]) -> list[str]:
    """What ``top1_over_seeds`` returned, for people."""
    return [
        f"keep {rate}: {mean:.2%} +- {found['stdev_top1'][rate] or 0:.2%}" for rate, mean in found["mean_top1"].items()
    ]
