"""Does a profile predict the time of schedules that it did not see, and do fitted schedules land on their budget?

    make data && python -m benchmarks.predicted_times

One rank of this machine, Fashion-MNIST's configuration, profiled under its own schedule (keep rates 0.2, 0.4, ... 1).
In turns, that profile and two *courses*: training runs in which stretches of a hundred steps alternate, each going
through the stages of one schedule (see course.py). In one there are six schedules of other keep rates and, twice a
round, the first proposal of tools.fit at half of full patches' time (by the first turn's profile) and full patches
beside it; in the other there are five with sizes of images and patches. So no start of a process is in the times, and a
machine that slows down for a minute slows down all that is compared. What decides are medians: of the profile's
repeats, all turns together, and of a schedule's stretches; of the fitted schedule, its stretches' time over that of
full patches next to it. Processor time stands beside. Writes predicted_times.json. About twelve minutes on two cores
with nothing else to do. Exit code 1: a prediction is off by more than a tenth, or the proposal by more than a twentieth
of the budget.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.measuring import RESULTS, spread, write_result
from benchmarks.predicted_times.course import Schedule, Stretch, configured, laid_out, pooled, stretches
from benchmarks.shared.shell import ROOT, environment
from engine.metrics import read_metrics
from engine.run_plan import build_schedule
from pipeline.plan.sizes import Axis
from tools.fit.proposals import fit
from tools.profile.saved import SavedProfile, read_profile
from tools.schedule.prediction import cost_of, predict

CONFIG = "configs/fashion_mnist.yaml"
NUM_SAMPLES = 60_000
BUDGET = 0.5
TOLERANCE, OF_THE_BUDGET = 0.1, 0.05
RUNS = Path("runs/predicted_times")

# Stages that the profile did not see: keep rates between its own, and other sizes.
SCHEDULES: dict[str, Schedule] = {
    "constant 0.3": {"kind": "constant", "keep_rate": 0.3},
    "constant 0.7": {"kind": "constant", "keep_rate": 0.7},
    "linear": {"kind": "linear", "keep_rate": [0.25, 0.75], "rounding": 0.25},
    "cosine": {"kind": "cosine", "keep_rate": [0.3, 1.0], "rounding": 0.35},
    "steps": {"kind": "steps", "keep_rate": [[0, 0.35], [0.4, 0.55], [0.8, 0.95]]},
    "choice": {"kind": "choice", "keep_rate": [[0.3, 1], [0.5, 1], [0.9, 1]]},
    "images of 20": {"image_size": {"kind": "constant", "values": 20}},
    "growing images": {"image_size": {"kind": "linear", "values": [12, 28]}},
    "coarse patches first": {"patch_size": {"kind": "steps", "values": [[0, 7], [0.67, 4]]}},
    "chosen patches": {"patch_size": {"kind": "choice", "values": [[7, 1], [4, 1]]}},
    "growing images and keep rates": {
        "kind": "steps",
        "keep_rate": [[0, 0.6], [0.2, 1.0], [0.5, 0.5], [0.7, 1.0]],
        "image_size": {"kind": "steps", "values": [[0, 20], [0.5, 28]]},
    },
}
FULL: Schedule = {"kind": "constant", "keep_rate": 1.0}
FITTED_NAME, FULL_NAME = "fitted", "full patches"


def launch(module: str, *arguments: str | Path) -> None:
    """Run a module as one rank without a launcher."""
    command = [sys.executable, "-m", module, "--config", CONFIG, *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)


def profiled(options: argparse.Namespace, turn: int) -> SavedProfile:
    path = RUNS / f"profile_{turn}.json"
    launch("tools.profile", "--seconds", str(options.seconds), "--repeats", str(options.repeats), "--json", path)
    return read_profile(path)


def trained(order: Sequence[str], schedules: Mapping[str, Schedule], steps: int) -> list[Stretch]:
    """The stretches of one course through schedules, by their names."""
    folder = RUNS / "run"
    schedule_of = [build_schedule(configured(schedules[name], steps), NUM_SAMPLES) for name in order]
    launch("engine.train", *laid_out(schedule_of), "--resume", "never", "--out", folder)
    return stretches(read_metrics(folder / "metrics.jsonl"), steps)


def predicted_s(schedule: Schedule, profile: SavedProfile, steps: int) -> float:
    config = configured(schedule, steps)
    return predict(config, build_schedule(config, NUM_SAMPLES), cost_of(config, profile)).predicted_s


def proposed(profile: SavedProfile, steps: int) -> tuple[Schedule, float]:
    """The first proposal for a budget, and the share that it is told to take.

    None with fewer examples, which has fewer steps than a stretch.
    """
    config = configured(FULL, steps)
    proposals = fit(config, cost_of(config, profile), NUM_SAMPLES, BUDGET).proposals
    proposal = next(one for one in proposals if one.kind != "examples")
    return {key.removeprefix("schedule."): value for key, value in proposal.values.items()}, proposal.share


def courses() -> list[list[str]]:
    """The stretches of one round of either course: the fitted schedule beside full patches is in that of keep rates."""
    sized = [name for name, schedule in SCHEDULES.items() if schedule.keys() & set(get_args(Axis))]
    names = [name for name in SCHEDULES if name not in sized]
    pair, half = [FITTED_NAME, FULL_NAME], len(names) // 2
    return [[*pair, *names[:half], *pair, *names[half:]], sized]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, in turns."""
    profiles: list[SavedProfile] = []
    found: list[tuple[str, Stretch]] = []
    schedules = {**SCHEDULES, FULL_NAME: FULL}
    told_share = 0.0
    orders = [order * options.rounds for order in courses()]
    for turn in range(options.turns):
        profiles.append(profiled(options, turn))
        if turn == 0:
            schedules[FITTED_NAME], told_share = proposed(profiles[0], options.steps)
        for order in orders:
            found += zip(order, trained(order, schedules, options.steps), strict=True)
        print(f"turn {turn + 1}/{options.turns}", file=sys.stderr, flush=True)
    profile = pooled(profiles)
    told = {name: compare(schedules[name], profile, options.steps, of(name, found)) for name in SCHEDULES}
    fitted = compare_fit(of(FITTED_NAME, found), of(FULL_NAME, found))
    worst = max(abs(one["difference"]) for one in told.values())
    return {
        "error_between_stages": cost_of(profile.config, profile).error,
        "schedules": told,
        "fit": {"budget": BUDGET, "proposal": schedules[FITTED_NAME], "predicted_share": told_share, **fitted},
        "largest_difference": worst,
        "agrees": worst <= TOLERANCE and abs(fitted["off_the_budget"]) <= OF_THE_BUDGET,
    }


def of(name: str, found: Sequence[tuple[str, Stretch]]) -> list[Stretch]:
    return [stretch for other, stretch in found if other == name]


def compare(schedule: Schedule, profile: SavedProfile, steps: int, own: Sequence[Stretch]) -> dict[str, Any]:
    """A schedule's predicted time beside that of its stretches."""
    told_s, taken = predicted_s(schedule, profile, steps), spread([one.wall_s for one in own])
    return {
        "schedule": schedule,
        "predicted_s": told_s,
        "measured_s": taken,
        "measured_cpu_s": spread([one.cpu_s for one in own]),
        "difference": told_s / taken["median"] - 1,
    }


def compare_fit(own: Sequence[Stretch], full: Sequence[Stretch]) -> dict[str, Any]:
    """The fitted schedule's time over that of full patches next to it, pair by pair."""
    pairs = list(zip(own, full, strict=True))
    share = spread([one.wall_s / other.wall_s for one, other in pairs])
    return {
        "measured_share": share,
        "measured_cpu_share": spread([one.cpu_s / other.cpu_s for one, other in pairs]),
        "off_the_budget": share["median"] / BUDGET - 1,
    }


def describe(found: dict[str, Any]) -> str:
    """What was found, for people."""
    rows = [
        f"{name:>30}: predicted {one['predicted_s']:6.2f} s, measured {one['measured_s']['median']:6.2f} s "
        f"({one['measured_s']['min']:.2f} to {one['measured_s']['max']:.2f}; {one['difference']:+.1%})"
        for name, one in found["schedules"].items()
    ]
    fitted = found["fit"]
    of_the_fit = (
        f"budget {fitted['budget']}: {json.dumps(fitted['proposal'])} takes {fitted['measured_share']['median']:.3f} "
        f"of full patches' time ({fitted['off_the_budget']:+.1%} of the budget), "
        f"{fitted['measured_cpu_share']['median']:.3f} of its processor time"
    )
    return "\n".join([*rows, of_the_fit, "agrees" if found["agrees"] else "DISAGREES"])


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    load_before = os.getloadavg()[0]
    parser = argparse.ArgumentParser(prog="benchmarks.predicted_times", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="per measurement of a profile (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of every measurement (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="profile and course of each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="of a course (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of a stretch, a multiple of 10 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "predicted_times.json", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    RUNS.mkdir(parents=True, exist_ok=True)
    found = measure(options)
    names = ("turns", "rounds", "steps", "seconds", "repeats")
    facts = {"ranks": 1, **{name: getattr(options, name) for name in names}}
    write_result(options.out, "benchmarks.predicted_times", argv, {**facts, **found}, load_before)
    print(describe(found))
    return 0 if found["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
