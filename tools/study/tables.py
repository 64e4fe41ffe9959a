"""The result of a study as its files, and as a table for people."""

import csv
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from pipeline.files import write_atomically
from tools.study.result import StudyResult, VariantResult


def write_results(found: StudyResult, out: Path) -> None:
    """``study.json`` and ``study.csv``."""
    write_atomically(out / "study.json", json.dumps(found.as_json(), indent=1) + "\n", sync=True)
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["name", "seed", "keep_rate", "top1", "steps", "mean_keep_rate", "train_wall_s", "train_cpu_s"])
    for row in [*found.variants, *found.equal_time]:
        for run in row.runs:
            for rate, top1 in run["top1"].items():
                figures = (run["steps"], run["mean_keep_rate"], run["train_wall_s"], run["train_cpu_s"])
                writer.writerow([row.name, run["seed"], rate, top1, *figures])
    write_atomically(out / "study.csv", sink.getvalue(), sync=True)


def table(found: StudyResult) -> str:
    """A study's result for people: at equal steps, and at equal time where that was asked for."""
    rows = [*found.variants, *found.equal_time]
    if not rows:
        return "no run is finished yet"
    rates = sorted({rate for row in rows for rate in row.top1_mean}, key=float, reverse=True)
    reference = next((row for row in rows if row.name == found.reference), None)
    width = max(len(row.name) for row in rows)
    against = f"against {found.reference}"
    lines = [
        f"{'':{width}}  {'runs':>4}  {'keep':>5}  {'steps':>7}  {'time':>13}"
        + "".join(f"  {'top-1 at ' + rate:>14}" for rate in rates)
        + f"  {against:>16}"
    ]
    lines += [_line(row, rates, reference, width) for row in found.variants]
    if found.equal_time:
        lines += ["", "trained again, for the time of the variant behind the @:"]
        lines += [_line(row, rates, reference, width) for row in found.equal_time]
    lines += ["", f"time: {found.clock} time in training steps; time and points {against} with the same seed"]
    partly = [row for row in rows if row.num_timed < row.num_runs]
    if partly:
        of_runs = ", ".join(f"{row.name} ({row.num_timed} of {row.num_runs})" for row in partly)
        lines += [
            f"time of fewer runs, as {found.reference} is not finished or was trained on other hardware: {of_runs}"
        ]
    if found.missing:
        lines += [f"not finished: {', '.join(found.missing)}"]
    return "\n".join(lines)


def _line(row: VariantResult, rates: Sequence[str], reference: VariantResult | None, width: int) -> str:
    assert row.mean_keep_rate is not None, "a variant with a finished run has one"
    assert row.steps is not None, "a variant with a finished run has them"
    cells = [
        f"{row.name:{width}}",
        f"{row.num_runs:>4}",
        f"{row.mean_keep_rate:>5.3f}",
        f"{row.steps:>7.0f}",
    ]
    cells.append(f"{_with_spread(row.time_ratio, row.time_ratio_stdev, 1, 3):>13}")
    cells += [f"{_with_spread(row.top1_mean.get(rate), row.top1_stdev.get(rate), 100, 2):>14}" for rate in rates]
    if reference is not None and row is not reference:
        theirs = {run["seed"]: run["top1"][rates[0]] for run in reference.runs}
        pairs = [run["top1"][rates[0]] - theirs[run["seed"]] for run in row.runs if run["seed"] in theirs]
        cells += [f"{100 * statistics.mean(pairs):>+9.2f} points"] if pairs else []
    return "  ".join(cells)


def _with_spread(mean: float | None, stdev: float | None, factor: float, digits: int) -> str:
    if mean is None:
        return ""
    return f"{factor * mean:.{digits}f}" + ("" if stdev is None else f" ± {factor * stdev:.{digits}f}")
