"""Does tools.profile say what a real run does? Profiles two configurations, and trains each right after its profile.

    make data && python -m benchmarks.profiles

On two ranks of this machine, which should have nothing else to do: Fashion-MNIST, whose images cost next to nothing to
load, and ViT-S/16 on synthetic photographs (drawn first, into data/photographs), in small batches. The runs are short
ones: their schedule goes through the same stages, in one piece each. Writes profile_fashion_mnist.json and .png,
profile_photographs.json and .png, and profile_comparison.json into benchmarks/results. About eight minutes on two
cores. Exit code 1: a stage's images/s of profile and run differ by more than a tenth.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.photographs import write_photographs
from benchmarks.toy_runs import ROOT, environment, settings
from engine.hardware import describe_hardware
from engine.metrics import read_metrics, stage_table

from launching import command_of  # isort: skip

RESULTS = Path("benchmarks/results")
PHOTOGRAPHS, NUM_PHOTOGRAPHS = Path("data/photographs"), 2000
TOLERANCE = 0.1


@dataclass(frozen=True)
class Case:
    """One configuration.

    Attributes:
        both: settings of profile and run alike.
        run: what makes the run a short one.
    """

    config: str
    both: list[str]
    run: list[str]


CASES = {
    "fashion_mnist": Case(
        "configs/fashion_mnist.yaml",
        both=[],
        run=settings(train__duration="2000steps", optim__warmup="20steps", eval__keep_rates=[0.2], log_every=10),
    ),
    "photographs": Case(
        "configs/photographs_vit_s16.yaml",
        both=settings(train__global_batch_size=4, data__prefetch_batches=1),
        run=settings(
            train__duration="40steps",
            schedule__kind="steps",
            schedule__keep_rate=[[0.2 * stage, round(0.2 * stage + 0.2, 1)] for stage in range(5)],
            optim__warmup="5steps",
            eval__keep_rates=[0.2],
            log_every=2,
        ),
    ),
}


def launch(ranks: int, module: str, *arguments: str | Path) -> None:
    """Run a module on so many ranks, as a user does."""
    subprocess.run(command_of(ranks, "--module", module, *arguments), cwd=ROOT, env=environment(), check=True)


def compare(profile: dict[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Images per second of each stage that the run went through, as the profile and as the run's metrics have them.

    Args:
        profile: what ``tools.profile --json`` wrote.
        lines: of the run's metrics.
    """
    trained = {stage["num_kept"]: stage["images_per_s"] for stage in stage_table(lines)}
    stages = [
        {
            "keep_rate": stage["keep_rate"],
            "profile_images_per_s": stage["end_to_end_images_per_s"],
            "run_images_per_s": trained[stage["num_kept"]],
            "difference": stage["end_to_end_images_per_s"] / trained[stage["num_kept"]] - 1,
        }
        for stage in profile["stages"]
        if stage["num_kept"] in trained
    ]
    largest = max(abs(stage["difference"]) for stage in stages)
    return {"stages": stages, "largest_difference": largest, "agrees": largest <= TOLERANCE}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Profile one case and train it; returns their comparison."""
    case, out, folder = CASES[name], options.out / f"profile_{name}", Path("runs") / f"profile_{name}"
    written: list[str | Path] = ["--json", out.with_suffix(".json"), "--png", out.with_suffix(".png")]
    sizes = ["--seconds", str(options.seconds), "--repeats", str(options.repeats)]
    launch(options.ranks, "tools.profile", "--config", case.config, *case.both, *sizes, *written)
    run: list[str | Path] = [*case.both, *case.run, "--resume", "never", "--out", folder]
    launch(options.ranks, "engine.train", "--config", case.config, *run)
    return compare(json.loads(out.with_suffix(".json").read_text()), read_metrics(folder / "metrics.jsonl"))


def describe(name: str, comparison: dict[str, Any]) -> str:
    """A comparison for people."""
    rows = [
        f"  keep {stage['keep_rate']:<4g} profile {stage['profile_images_per_s']:8.1f} images/s, "
        f"run {stage['run_images_per_s']:8.1f} ({stage['difference']:+.1%})"
        for stage in comparison["stages"]
    ]
    return "\n".join([f"{name}: {'agrees' if comparison['agrees'] else 'DISAGREES'}", *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=0.7, help="per measurement of a profile (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every measurement (default: %(default)s)")
    parser.add_argument("--only", choices=CASES, help="one of the configurations")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_photographs(PHOTOGRAPHS, NUM_PHOTOGRAPHS, workers=len(os.sched_getaffinity(0)))
    comparisons = {name: measure(name, options) for name in CASES if options.only in (None, name)}
    result = {
        "command": f"python -m benchmarks.profiles --seconds {options.seconds} --repeats {options.repeats}",
        "hardware": describe_hardware(),
        "ranks": options.ranks,
        "cases": comparisons,
    }
    (options.out / "profile_comparison.json").write_text(json.dumps(result, indent=2) + "\n")
    print("\n".join(describe(name, comparison) for name, comparison in comparisons.items()))
    return 0 if all(comparison["agrees"] for comparison in comparisons.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
