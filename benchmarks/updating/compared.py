"""Runs of all variants with all seeds, as figures: accuracy on old and new images, and time against training anew."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.updating.variants import ANEW_NAME, VARIANTS, Places
from engine.metrics import read_metrics
from tools.students import half_width
from tools.study.result import mean_and_stdev

ALL = "all"  # both sets' images together
_FULL = 1.0

Measured = dict[str, Any]  # of one run


def measured(folder: Path) -> Measured:
    """What a finished run came to: top-1 by set and keep rate (shares of 1), its steps and seconds."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if line["event"] == "eval"]
    lines = [line for line in lines if line["step"] == summary["steps"]]
    top1: dict[str, dict[str, float]] = {}
    for rate in dict.fromkeys(line["keep_rate"] for line in lines):
        of_rate = [line for line in lines if line["keep_rate"] == rate]
        for line in of_rate:
            top1.setdefault(line["val"], {})[str(rate)] = line["top1"]
        images = sum(line["num_samples"] for line in of_rate)
        right = sum(line["top1"] * line["num_samples"] for line in of_rate)
        top1.setdefault(ALL, {})[str(rate)] = right / images
    kept = ("steps", "mean_keep_rate", "train_wall_s", "train_cpu_s", "ranks", "weights_digest")
    return {"top1": top1, **{key: summary[key] for key in kept}}


def compare(places: Places, seeds: Sequence[int]) -> dict[str, Any]:
    """Every variant over its seeds, and against training anew with the same seed."""
    runs = {name: {seed: measured(places.run(name, seed)) for seed in seeds} for name in VARIANTS}
    return {name: _over_seeds(name, runs[name], runs[ANEW_NAME]) for name in VARIANTS}


def _over_seeds(name: str, runs: Mapping[int, Measured], anew: Mapping[int, Measured]) -> dict[str, Any]:
    sets = next(iter(runs.values()))["top1"]
    found: dict[str, dict[str, Any]] = {}
    for held, rates in sets.items():
        for rate in rates:
            values = [run["top1"][held][rate] for run in runs.values()]
            differences = [run["top1"][held][rate] - anew[seed]["top1"][held][rate] for seed, run in runs.items()]
            mean, stdev = mean_and_stdev(values) or (None, None)
            found.setdefault(held, {})[rate] = {
                "mean": mean,
                "stdev": stdev,
                "against_anew": statistics.mean(differences),
                "against_anew_half_width": half_width(differences),
            }
    times = {
        f"{clock}_time_ratio": statistics.mean(run[key] / anew[seed][key] for seed, run in runs.items())
        for clock, key in (("wall", "train_wall_s"), ("cpu", "train_cpu_s"))
    }
    steps = next(iter(runs.values()))["steps"]
    return {"about": VARIANTS[name].about, "steps": steps, **times, "top1": found, "runs": dict(runs)}


def table(found: Mapping[str, Any]) -> str:
    """The comparison for people, at full patches."""
    width = max(map(len, found))
    head = "".join(f"  {f'top-1 on {held}':>15}" for held in ("old", "new", ALL))
    lines = [f"{'':{width}}  {'steps':>5}  {'time':>5}{head}  {f'{ALL}, against anew':>17}"]
    for name, one in found.items():
        cells = [_with_spread(one["top1"][held][str(_FULL)]) for held in ("old", "new", ALL)]
        against = one["top1"][ALL][str(_FULL)]["against_anew"]
        told = "" if name == ANEW_NAME else f"{100 * against:+.2f} points"
        row = f"{name:{width}}  {one['steps']:>5}  {one['wall_time_ratio']:>5.2f}"
        lines.append(row + "".join(f"  {cell:>15}" for cell in cells) + f"  {told:>17}")
    return "\n".join(lines)


def _with_spread(one: Mapping[str, float | None]) -> str:
    mean, stdev = one["mean"], one["stdev"]
    assert mean is not None
    return f"{100 * mean:.2f}" + ("" if stdev is None else f" ± {100 * stdev:.2f}")
