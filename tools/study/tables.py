"""The result of a study as its files, and as a table for people."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.files import write_atomically
from tools.students import FEWEST
from tools.study.result import StudyResult, VariantResult


def write_results(found: StudyResult, out: Path) -> None:
    """``study.json`` and ``study.csv``."""
    write_atomically(out / "study.json", json.dumps(found.as_json(), indent=1) + "\n", sync=True)
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    columns = ("name", "seed", "keep_rate", "top1", "steps", "mean_keep_rate", "train_wall_s", "train_cpu_s", "val")
    writer.writerow(columns)
    for row in [*found.variants, *found.equal_time]:
        for run in row.runs:
            figures = (run["steps"], run["mean_keep_rate"], run["train_wall_s"], run["train_cpu_s"])
            for val, measured in (run.get("val") or {"": run}).items():
                for rate, top1 in measured["top1"].items():
                    writer.writerow([row.name, run["seed"], rate, top1, *figures, val])
    write_atomically(out / "study.csv", sink.getvalue(), sync=True)


def table(found: StudyResult) -> str:
    """A study's result for people: at equal steps, and at equal time where that was asked for."""
    rows = [*found.variants, *found.equal_time]
    if not rows:
        return "no run is finished yet"
    rates = sorted({rate for row in rows for rate in row.top1_mean}, key=float, reverse=True)
    width = max(len(row.name) for row in rows)
    against = f"against {found.reference}"
    with_intervals = any(_interval(row, rates[0]) for row in rows)
    lines = [
        f"{'':{width}}  {'runs':>4}  {'keep':>5}  {'steps':>7}  {'time':>13}"
        + "".join(f"  {'top-1 at ' + rate:>14}" for rate in rates)
        + f"  {against:>16}"
        + (f"  {'95 % interval':>16}" if with_intervals else "")
    ]
    lines += [_line(row, rates, width) for row in found.variants]
    if found.equal_time:
        lines += ["", "trained again, for the time of the variant behind the @:"]
        lines += [_line(row, rates, width) for row in found.equal_time]
    lines += _by_set(rows, rates, width)
    lines += ["", f"time: {found.clock} time in training steps; time and points {against} with the same seed"]
    if with_intervals:
        lines += [f"95 % interval of the mean of the differences (Student's t, {FEWEST} seeds or more), in points"]
    partly = [row for row in rows if row.num_timed < row.num_runs]
    if partly:
        of_runs = ", ".join(f"{row.name} ({row.num_timed} of {row.num_runs})" for row in partly)
        lines += [
            f"time of fewer runs, as {found.reference} is not finished or was trained on other hardware: {of_runs}"
        ]
    if found.missing:
        lines += [f"not finished: {', '.join(found.missing)}"]
    return "\n".join(lines)


def _line(row: VariantResult, rates: Sequence[str], width: int) -> str:
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
    if rates[0] in row.top1_difference:
        cells += [f"{100 * row.top1_difference[rates[0]]:>+9.2f} points", *_interval(row, rates[0])]
    return "  ".join(cells)


def _by_set(rows: Sequence[VariantResult], rates: Sequence[str], width: int) -> list[str]:
    """A table for each of several validation sets; none for a single one. The table above is the first one's."""
    names = list(dict.fromkeys(name for row in rows for name in row.val_top1_mean))
    lines = []
    for name in names:
        above = ", as above" if name == names[0] else ""
        lines += ["", f"on {name}{above}:", " " * width + "".join(f"  {'top-1 at ' + rate:>14}" for rate in rates)]
        for row in rows:
            mean, stdev = row.val_top1_mean.get(name, {}), row.val_top1_stdev.get(name, {})
            cells = [f"{_with_spread(mean.get(rate), stdev.get(rate), 100, 2):>14}" for rate in rates]
            lines.append("  ".join([f"{row.name:{width}}", *cells]))
    return lines


def _interval(row: VariantResult, rate: str) -> list[str]:
    """A cell, or none where too few seeds were compared."""
    half = row.top1_difference_half_width.get(rate)
    if half is None:
        return []
    low, high = (100 * (row.top1_difference[rate] + one) for one in (-half, half))
    return [f"{f'{low:+.2f} to {high:+.2f}':>16}"]


def _with_spread(mean: float | None, stdev: float | None, factor: float, digits: int) -> str:
    if mean is None:
        return ""
    return f"{factor * mean:.{digits}f}" + ("" if stdev is None else f" ± {factor * stdev:.{digits}f}")
