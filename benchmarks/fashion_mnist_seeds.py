"""The default run with several seeds: accuracy per keep rate and time, mean and spread.

    make data && python -m benchmarks.fashion_mnist_seeds

Writes benchmarks/results/fashion_mnist_seeds.json. About four minutes a seed on two cores; started again, it goes on
where it stopped, and a run that is finished is only read.
"""

import argparse
import json
from pathlib import Path

from benchmarks.seeded_runs import run_with_seed, top1_lines, top1_over_seeds
from engine.ranks.hardware import describe_hardware

RESULT = Path("benchmarks/results/fashion_mnist_seeds.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    found = top1_over_seeds(
        {seed: run_with_seed("configs/fashion_mnist.yaml", seed, arguments.ranks) for seed in arguments.seeds}
    )
    result = {
        "command": "python -m benchmarks.fashion_mnist_seeds",
        "hardware": describe_hardware(),
        "ranks": arguments.ranks,
        **found,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join([*top1_lines(found), f"written to {RESULT}"]))


if __name__ == "__main__":
    main()
