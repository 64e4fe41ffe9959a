"""Does tools.profile say what a real run does? Profiles two configurations and trains them, in turn, several times.

    make data && python -m benchmarks.profiles

On two ranks of this machine, which should have nothing else to do: Fashion-MNIST, whose images cost next to nothing to
load, and ViT-S/16 on synthetic photographs (drawn first, into data/photographs), in small batches. The runs are short
ones that go through the same stages, Fashion-MNIST's in five rounds, the photographs' in three. What is compared are
the fastest measurements of a stage and the fastest of a run's logged intervals, since a shared machine slows down for a
minute now and then; the medians of every turn are told as well. Writes profile_fashion_mnist.json and .png,
profile_photographs.json and .png (of the last turn), and the comparisons, profile_fashion_mnist_and_run.json and
profile_photographs_and_run.json, into benchmarks/results. About twenty minutes on two cores. Exit code 1: images/s of
profile and run differ by more than a tenth in a stage.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, spread, write_result
from benchmarks.photographs import write_photographs
from benchmarks.shared.shell import ROOT, command_of, environment
from benchmarks.toy_runs import settings
from engine.metrics import read_metrics, sizes_of, stage_table

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


def short(duration: str, warmup: str, rounds: int) -> list[str]:
    """What makes a run a short one that goes through the five stages, one after another, ``rounds`` times."""
    num_stages = 5 * rounds
    return settings(
        train__duration=duration,
        schedule__kind="steps",
        schedule__keep_rate=[[stage / num_stages, round(0.2 * (stage % 5 + 1), 1)] for stage in range(num_stages)],
        optim__warmup=warmup,
        eval__keep_rates=[0.2],
    )


CASES = {
    "fashion_mnist": Case(
        "configs/fashion_mnist.yaml",
        both=[],
        run=short("1000steps", "20steps", rounds=5),
    ),
    "photographs": Case(
        "configs/photographs_vit_s16.yaml",
        both=settings(train__global_batch_size=4, data__prefetch_batches=1),
        run=[*short("120steps", "5steps", rounds=3), *settings(log_every=2)],
    ),
}


def launch(ranks: int, module: str, *arguments: str | Path) -> None:
    """Run a module on so many ranks, as a user does."""
    subprocess.run(command_of(ranks, "--module", module, *arguments), cwd=ROOT, env=environment(), check=True)


def compare(profiles: list[dict[str, Any]], runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Images per second of each stage that the runs went through, as the profiles and the runs' metrics have them.

    ``undisturbed`` is the difference of the fastest windows: what else a machine does can only slow a window down, so
    that the fastest of many is its own speed. ``difference`` is that of the medians, turn by turn, disturbed or not.

    Args:
        profiles: what ``tools.profile --json`` wrote, turn by turn.
        runs: the lines of each turn's metrics.
    """
    trained = [{shape_of(stage): stage["images_per_s"] for stage in stage_table(lines)} for lines in runs]
    profiled = [{shape_of(stage): stage for stage in one["stages"]} for one in profiles]
    stages = []
    for shape in trained[0]:
        rates = [one[shape]["end_to_end_images_per_s"] for one in profiled]
        run_rates = [one[shape] for one in trained]
        fastest = max(one[shape]["end_to_end_images_per_s_range"][1] for one in profiled)
        of_runs = max(fastest_interval(lines, shape) for lines in runs)
        stages.append(
            {
                "keep_rate": profiled[0][shape]["keep_rate"],
                "profile_images_per_s": spread(rates),
                "run_images_per_s": spread(run_rates),
                "difference": spread([rate / of_run - 1 for rate, of_run in zip(rates, run_rates, strict=True)]),
                "profile_fastest_images_per_s": fastest,
                "run_fastest_images_per_s": of_runs,
                "undisturbed": fastest / of_runs - 1,
            }
        )
    largest = max(abs(stage["undisturbed"]) for stage in stages)
    return {"stages": stages, "largest_difference": largest, "agrees": largest <= TOLERANCE}


def shape_of(stage: dict[str, Any]) -> tuple[int, int | None, int | None]:
    """What tells stages apart, in a profile as in a run: patches kept, and sizes, where they are told."""
    return stage["num_kept"], *sizes_of(stage)


def fastest_interval(lines: list[dict[str, Any]], shape: tuple[int, int | None, int | None]) -> float:
    """Images per second of a run's fastest logged interval in a stage, of those of the full length."""
    found = [line for line in lines if line["event"] == "train" and shape_of(line) == shape]
    longest = max(line["interval_steps"] for line in found)
    return max(line["images_per_s"] for line in found if line["interval_steps"] == longest)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Profile one case and train it, in turn; returns their comparison."""
    case, out, folder = CASES[name], options.out / f"profile_{name}", Path("runs") / f"profile_{name}"
    written: list[str | Path] = ["--json", out.with_suffix(".json"), "--png", out.with_suffix(".png")]
    sizes = ["--seconds", str(options.seconds), "--repeats", str(options.repeats)]
    run: list[str | Path] = [*case.both, *case.run, "--resume", "never", "--out", folder]
    profiles, runs = [], []
    for _ in range(options.turns):
        launch(options.ranks, "tools.profile", "--config", case.config, *case.both, *sizes, *written)
        profiles.append(json.loads(out.with_suffix(".json").read_text()))
        launch(options.ranks, "engine.train", "--config", case.config, *run)
        runs.append(read_metrics(folder / "metrics.jsonl"))
    return compare(profiles, runs)


def describe(name: str, comparison: dict[str, Any]) -> str:
    """A comparison for people."""
    rows = [
        f"  keep {stage['keep_rate']:<4g} fastest: profile {stage['profile_fastest_images_per_s']:8.1f} images/s, "
        f"run {stage['run_fastest_images_per_s']:8.1f} ({stage['undisturbed']:+.1%}); medians: "
        f"profile {stage['profile_images_per_s']['median']:8.1f}, "
        f"run {stage['run_images_per_s']['median']:8.1f} ({stage['difference']['median']:+.1%})"
        for stage in comparison["stages"]
    ]
    return "\n".join([f"{name}: {'agrees' if comparison['agrees'] else 'DISAGREES'}", *rows])


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    load_before = os.getloadavg()[0]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=0.7, help="per measurement of a profile (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=6, help="of every measurement (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="profile and run of each (default: %(default)s)")
    parser.add_argument("--only", choices=CASES, help="one of the configurations")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results (default: %(default)s)")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    names = [options.only] if options.only else list(CASES)
    if "photographs" in names:
        write_photographs(PHOTOGRAPHS, NUM_PHOTOGRAPHS, workers=len(os.sched_getaffinity(0)))
    comparisons = {}
    for name in names:
        comparisons[name] = measure(name, options)
        facts = {"ranks": options.ranks, "turns": options.turns, "repeats": options.repeats}
        path = options.out / f"profile_{name}_and_run.json"
        write_result(path, "benchmarks.profiles", argv, {**facts, **comparisons[name]}, load_before)
    print("\n".join(describe(name, comparison) for name, comparison in comparisons.items()))
    return 0 if all(comparison["agrees"] for comparison in comparisons.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
