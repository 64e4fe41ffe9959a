"""The default run with several seeds: accuracy per keep rate and time, mean and spread.

    make data && python -m benchmarks.fashion_mnist_seeds

Writes benchmarks/results/fashion_mnist_seeds.json. About four minutes a seed on two cores; started again, it goes on
where it stopped, and a run that is finished is only read.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from engine.hardware import describe_hardware

RESULT = Path("benchmarks/results/fashion_mnist_seeds.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    launcher = Path(sys.executable).parent / "deepspeed"
    summaries = {}
    for seed in arguments.seeds:
        out = Path("runs") / f"fashion_mnist_seed{seed}"
        command = [launcher, "--quiet", "--no_local_rank", "--num_accelerators", str(arguments.ranks), "--module"]
        command += ["engine.train", "--config", "configs/fashion_mnist.yaml", "--set", f"seed={seed}", "--out", out]
        if not (out / "summary.json").exists():
            subprocess.run([str(part) for part in command], check=True)
        summaries[seed] = json.loads((out / "summary.json").read_text())
    rates = list(next(iter(summaries.values()))["top1"])
    top1 = {rate: [summary["top1"][rate] for summary in summaries.values()] for rate in rates}
    result = {
        "command": "python -m benchmarks.fashion_mnist_seeds",
        "hardware": describe_hardware(),
        "ranks": arguments.ranks,
        "mean_top1": {rate: statistics.mean(values) for rate, values in top1.items()},
        "stdev_top1": {rate: statistics.stdev(values) if len(values) > 1 else None for rate, values in top1.items()},
        "summaries": summaries,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for rate in rates:
        print(f"keep {rate}: {result['mean_top1'][rate]:.2%} +- {result['stdev_top1'][rate] or 0:.2%}")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
