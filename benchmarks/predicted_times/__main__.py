"""Does a profile predict the time of schedules that it did not see, and do fitted schedules land on their budget?

    make data && python -m benchmarks.predicted_times

One rank of this machine, Fashion-MNIST's configuration, profiled under its own schedule (keep rates 0.2, 0.4, ... 1).
First, in turns, that profile and six short runs at other keep rates, whose training steps are held against the
prediction; then, in turns, the first proposal of tools.fit at a budget of half of full training's time and a run at
full patches. What decides are the fastest windows of both sides, since a shared machine slows down now and then (see
undisturbed.py); the whole times of each turn, against the prediction from the medians of that turn's profile, are told
as well. Writes predicted_times.json. Exit code 1: a prediction is off by more than a tenth, or the proposal by more
than a twentieth of the budget.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, write_result
from benchmarks.predicted_times.undisturbed import fastest_profile, undisturbed_s
from benchmarks.shared.shell import ROOT, environment
from benchmarks.toy_runs import settings
from engine.config import RunConfig, load_config
from engine.metrics import read_metrics, train_wall_s
from engine.run_plan import build_schedule
from tools.fit.proposals import fit
from tools.profile.saved import SavedProfile, read_profile
from tools.schedule.prediction import Prediction, cost_of, predict

CONFIG = "configs/fashion_mnist.yaml"
NUM_SAMPLES = 60_000
BUDGET = 0.5
TOLERANCE, OF_THE_BUDGET = 0.1, 0.05
RUNS = Path("runs/predicted_times")
SHORT = {"train__duration": "120steps", "optim__warmup": "5steps", "eval__keep_rates": [0.2]}

# Keep rates between those of the profile.
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant 0.3": {"kind": "constant", "keep_rate": 0.3},
    "constant 0.7": {"kind": "constant", "keep_rate": 0.7},
    "linear": {"kind": "linear", "keep_rate": [0.25, 0.75], "rounding": 0.25},
    "cosine": {"kind": "cosine", "keep_rate": [0.3, 1.0], "rounding": 0.35},
    "steps": {"kind": "steps", "keep_rate": [[0, 0.35], [0.4, 0.55], [0.8, 0.95]]},
    "choice": {"kind": "choice", "keep_rate": [[0.3, 1], [0.5, 1], [0.9, 1]]},
}
FULL = {"kind": "constant", "keep_rate": 1.0}

Lines = list[dict[str, Any]]


def configured(schedule: dict[str, Any]) -> tuple[RunConfig, list[str]]:
    """A short run under a schedule, and the arguments that make it of the configuration."""
    arguments = settings(**SHORT, **{f"schedule__{key}": value for key, value in schedule.items()})
    return load_config(ROOT / CONFIG, arguments[1::2]), arguments


def launch(module: str, *arguments: str | Path) -> None:
    """Run a module as one rank without a launcher."""
    command = [sys.executable, "-m", module, "--config", CONFIG, *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)


def profiled(options: argparse.Namespace, turn: int) -> SavedProfile:
    path = RUNS / f"profile_{turn}.json"
    launch("tools.profile", "--seconds", str(options.seconds), "--repeats", str(options.repeats), "--json", path)
    return read_profile(path)


def trained(schedule: dict[str, Any]) -> Lines:
    """The metrics of one short run."""
    folder = RUNS / "run"
    launch("engine.train", *configured(schedule)[1], "--resume", "never", "--out", folder)
    return read_metrics(folder / "metrics.jsonl")


def predicted(schedule: dict[str, Any], profile: SavedProfile) -> Prediction:
    config = configured(schedule)[0]
    return predict(config, build_schedule(config, NUM_SAMPLES), cost_of(config, profile))


def compare(schedule: dict[str, Any], profiles: list[SavedProfile], runs: list[Lines]) -> dict[str, Any]:
    """A schedule's predicted time beside that of its runs, turn by turn, and undisturbed."""
    told, taken = [predicted(schedule, one) for one in profiles], [train_wall_s(lines) for lines in runs]
    own_s, run_s = predicted(schedule, fastest_profile(profiles)).predicted_s, undisturbed_s(runs)
    return {
        "schedule": schedule,
        "predicted_s": [one.predicted_s for one in told],
        "predicted_s_range": [[one.low_s, one.high_s] for one in told],
        "measured_s": taken,
        "undisturbed_predicted_s": own_s,
        "undisturbed_measured_s": run_s,
        "undisturbed_difference": own_s / run_s - 1,
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, in turns."""
    profiles: list[SavedProfile] = []
    runs: dict[str, list[Lines]] = {name: [] for name in SCHEDULES}
    for turn in range(options.turns):
        profiles.append(profiled(options, turn))
        for name, schedule in SCHEDULES.items():
            runs[name].append(trained(schedule))
            print(f"turn {turn + 1}/{options.turns}: {name}", file=sys.stderr, flush=True)
    found = {name: compare(schedule, profiles, runs[name]) for name, schedule in SCHEDULES.items()}
    fitted = measure_fit(options, fastest_profile(profiles))
    worst = max(abs(one["undisturbed_difference"]) for one in found.values())
    agrees = worst <= TOLERANCE and abs(fitted["off_the_budget"]) <= OF_THE_BUDGET
    return {
        "errors_between_stages": [cost_of(one.config, one).error for one in profiles],
        "schedules": found,
        "fit": fitted,
        "largest_difference": worst,
        "agrees": agrees,
    }


def measure_fit(options: argparse.Namespace, profile: SavedProfile) -> dict[str, Any]:
    """The first proposal for a budget, and full patches, in turns."""
    config = configured(FULL)[0]
    (proposal, *_) = fit(config, cost_of(config, profile), profile.stages[0].keep_rate, NUM_SAMPLES, BUDGET).proposals
    own: list[Lines] = []
    full: list[Lines] = []
    for turn in range(options.turns):
        own.append(trained(proposal.values))
        full.append(trained(FULL))
        print(f"turn {turn + 1}/{options.turns}: {proposal.kind} at budget {BUDGET}", file=sys.stderr, flush=True)
    share = undisturbed_s(own) / undisturbed_s(full)
    return {
        "budget": BUDGET,
        "proposal": proposal.values,
        "predicted_share": proposal.share,
        "measured_s": [train_wall_s(lines) for lines in own],
        "full_measured_s": [train_wall_s(lines) for lines in full],
        "undisturbed_share": share,
        "off_the_budget": share / BUDGET - 1,
    }


def describe(found: dict[str, Any]) -> str:
    """What was found, for people."""
    rows = []
    for name, one in found["schedules"].items():
        told, taken = (", ".join(f"{s:.1f}" for s in one[key]) for key in ("predicted_s", "measured_s"))
        rows.append(
            f"{name:>13}: undisturbed, predicted {one['undisturbed_predicted_s']:.2f} s, measured "
            f"{one['undisturbed_measured_s']:.2f} s ({one['undisturbed_difference']:+.1%}); turn by turn, predicted "
            f"{told}, measured {taken}"
        )
    fitted = found["fit"]
    of_the_fit = (
        f"budget {fitted['budget']}: {json.dumps(fitted['proposal'])} takes {fitted['undisturbed_share']:.3f} of full "
        f"patches' time ({fitted['off_the_budget']:+.1%} of the budget)"
    )
    return "\n".join([*rows, of_the_fit, "agrees" if found["agrees"] else "DISAGREES"])


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    load_before = os.getloadavg()[0]
    parser = argparse.ArgumentParser(prog="benchmarks.predicted_times", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="per measurement of a profile (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=4, help="of every measurement (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="profile and run of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "predicted_times.json", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    RUNS.mkdir(parents=True, exist_ok=True)
    found = measure(options)
    facts = {"ranks": 1, "turns": options.turns, "seconds": options.seconds, "repeats": options.repeats}
    write_result(options.out, "benchmarks.predicted_times", argv, {**facts, **found}, load_before)
    print(describe(found))
    return 0 if found["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
