"""From the runs of a study to its tables: one record a run, means and spreads over the seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from engine.metrics import read_metrics
from tools.study.spec import Job, StudySpec, differences

_LOSS_POINTS = 200
_CLOCKS = {"wall": "train_wall_s", "cpu": "train_cpu_s"}
Records = Mapping[tuple[str, int], dict[str, Any]]  # by name of the row and seed


def record_of(job: Job, folder: Path) -> dict[str, Any]:
    """Everything that the study keeps of a finished run; the run folder is not needed afterwards."""
    lines, summary = read_metrics(folder / "metrics.jsonl"), json.loads((folder / "summary.json").read_text())
    hardware = summary.pop("hardware")
    machine = {key: hardware.pop(key) for key in ("cpu", "cores", "memory_gib", "gpus", "system")}
    curve, loss = _over_time(lines)
    return {
        "name": job.name,
        "seed": job.seed,
        "config": yaml.safe_load((folder / "config.yaml").read_text()),
        **summary,
        "curve": curve,
        "loss": loss,
        "hardware": machine,
        "versions": hardware,
    }


def _over_time(lines: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Accuracies after each validation and a thinned training loss, each with the time in training steps until then."""
    curve: dict[int, dict[str, Any]] = {}
    loss: list[dict[str, Any]] = []
    wall_s = cpu_s = 0.0
    for line in lines:
        if line["event"] == "train":
            wall_s += line["step_s"] * line["interval_steps"]
            cpu_s += line["cpu_s"] * line["interval_steps"]
            loss.append({"step": line["step"] + 1, "loss": line["loss"], "train_wall_s": wall_s, "train_cpu_s": cpu_s})
        elif line["event"] == "eval":
            point = {"step": line["step"], "train_wall_s": wall_s, "train_cpu_s": cpu_s, "top1": {}}
            curve.setdefault(line["step"], point)["top1"][str(line["keep_rate"])] = line["top1"]
    every = -(-len(loss) // _LOSS_POINTS) if loss else 1
    return list(curve.values()), loss[::-1][::every][::-1]


def read_records(folder: Path, jobs: Sequence[Job]) -> dict[tuple[str, int], dict[str, Any]]:
    """The records of those jobs that are finished.

    Raises:
        ValueError: a record that was made with another configuration than the study asks for now.
    """
    found = {}
    for job in jobs:
        path = folder / f"{job.stem}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        asked = job.config.model_dump(mode="json", exclude={"name"})
        if job.in_the_time_of is not None:
            asked["train"].pop("duration")
        other = sorted(differences(asked, record["config"]))
        if other:
            raise ValueError(
                f"{path} was made with another configuration ({'; '.join(other)}); take the study's settings back, "
                "move the record away, or choose another --out"
            )
        found[job.name, job.seed] = record
    return found


def steps_in_the_time_of(spec: StudySpec, records: Records, job: Job) -> int | None:
    """For how many steps a run in another's time is trained; None until both runs of its seed are finished.

    Raises:
        ValueError: their times cannot be compared: the two were trained on different hardware, or the study's clock was
            not measured.
    """
    own = records.get((job.variant, job.seed))
    other = None if job.in_the_time_of is None else records.get((job.in_the_time_of, job.seed))
    if own is None or other is None:
        return None
    if machine_of(own) != machine_of(other):
        raise ValueError(
            f"{own['name']} was trained on {machine_of(own)}, {other['name']} on {machine_of(other)}; to compare their "
            f"times, move the record of seed {job.seed} of one of them away, and train it again on the other's machine"
        )
    return max(1, round(own["steps"] * time_of(spec, other) / time_of(spec, own)))


def machine_of(record: Mapping[str, Any]) -> str:
    """What a run was trained on, in words: times compare where it is the same."""
    return f"{record['ranks']} rank(s), {hardware_in_words(record['hardware'])}"


def hardware_in_words(hardware: Mapping[str, Any]) -> str:
    """A record's hardware but for its memory, of which some machines of one kind reserve more than others."""
    cores = f"{hardware.get('cores')} core(s)"
    return ", ".join(filter(None, [hardware.get("cpu"), cores, *hardware.get("gpus", []), hardware.get("system")]))


def time_of(spec: StudySpec, record: Mapping[str, Any]) -> float:
    """Seconds in training steps, by the study's clock."""
    value = record[_CLOCKS[spec.clock]]
    if value is None:
        raise ValueError(
            f"{record['name']} seed {record['seed']}: a part of it was trained without measuring {spec.clock}"
        )
    return value


def result(spec: StudySpec, jobs: Sequence[Job], records: Records) -> dict[str, Any]:
    """The study as ``study.json`` has it; of an unfinished one what is there, with the names of what is not.

    Accuracies are shares of 1 by keep rate; spreads are standard deviations over the seeds, None for one seed;
    ``time_ratio`` is the time against the reference's with the same seed, over the ``num_timed`` seeds whose two runs
    were trained on the same hardware.
    """
    rows = {job.name: _row(spec, job, records) for job in jobs if (job.name, job.seed) in records}
    missing = [f"{job.name} seed {job.seed}" for job in jobs if (job.name, job.seed) not in records]
    return {
        "name": spec.name,
        "seeds": spec.seeds,
        "reference": spec.reference,
        "clock": spec.clock,
        "complete": not missing,
        "missing": missing,
        "variants": [row for name, row in rows.items() if "@" not in name],
        "equal_time": [row for name, row in rows.items() if "@" in name],
        "hardware": next((record["hardware"] for record in records.values()), None),
    }


def _row(spec: StudySpec, job: Job, records: Records) -> dict[str, Any]:
    runs = [record for (name, _), record in records.items() if name == job.name]
    first, variant = runs[0], spec.variants[job.variant]
    pairs = [(run, records[spec.reference, run["seed"]]) for run in runs if (spec.reference, run["seed"]) in records]
    ratios = [time_of(spec, run) / time_of(spec, full) for run, full in pairs if machine_of(run) == machine_of(full)]
    top1 = {rate: mean_and_stdev([run["top1"][rate] for run in runs]) for rate in first["top1"]}
    time_ratio, time_ratio_stdev = mean_and_stdev(ratios) or (None, None)
    cpu_s_mean, _ = mean_and_stdev([run["train_cpu_s"] for run in runs if run["train_cpu_s"] is not None]) or (
        None,
        None,
    )
    return {
        "name": job.name,
        "description": variant.about,
        "reference": job.in_the_time_of,
        "overrides": variant.set,
        "rule": first["config"]["selection"]["rule"],
        "eval_rule": first["config"]["selection"]["rule"],
        "schedule": first["config"]["schedule"]["kind"],
        "mean_keep_rate": first["mean_keep_rate"],
        "steps": statistics.mean(run["steps"] for run in runs),
        "num_runs": len(runs),
        "top1_mean": {rate: found[0] for rate, found in top1.items() if found},
        "top1_stdev": {rate: found[1] for rate, found in top1.items() if found},
        "wall_s_mean": statistics.mean(run["train_wall_s"] for run in runs),
        "cpu_s_mean": cpu_s_mean,
        "time_ratio": time_ratio,
        "time_ratio_stdev": time_ratio_stdev,
        "num_timed": len(ratios),
        "runs": [{key: value for key, value in run.items() if key != "config"} for run in runs],
    }


def mean_and_stdev(values: Sequence[float]) -> tuple[float, float | None] | None:
    """None of no values; no standard deviation of one."""
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def table(found: Mapping[str, Any]) -> str:
    """A study's result for people: at equal steps, and at equal time where that was asked for."""
    rows = [*found["variants"], *found["equal_time"]]
    if not rows:
        return "no run is finished yet"
    rates = sorted({rate for row in rows for rate in row["top1_mean"]}, key=float, reverse=True)
    reference = next((row for row in rows if row["name"] == found["reference"]), None)
    width = max(len(row["name"]) for row in rows)
    against = f"against {found['reference']}"
    lines = [
        f"{'':{width}}  {'runs':>4}  {'keep':>5}  {'steps':>7}  {'time':>13}"
        + "".join(f"  {'top-1 at ' + rate:>14}" for rate in rates)
        + f"  {against:>16}"
    ]
    lines += [_line(row, rates, reference, width) for row in found["variants"]]
    if found["equal_time"]:
        lines += ["", "trained again, for the time of the variant behind the @:"]
        lines += [_line(row, rates, reference, width) for row in found["equal_time"]]
    lines += ["", f"time: {found['clock']} time in training steps; time and points {against} with the same seed"]
    partly = [row for row in rows if row["num_timed"] < row["num_runs"]]
    if partly:
        of_runs = ", ".join(f"{row['name']} ({row['num_timed']} of {row['num_runs']})" for row in partly)
        lines += [
            f"time of fewer runs, as {found['reference']} is not finished or was trained on other hardware: {of_runs}"
        ]
    if found["missing"]:
        lines += [f"not finished: {', '.join(found['missing'])}"]
    return "\n".join(lines)


def _line(row: Mapping[str, Any], rates: Sequence[str], reference: Mapping[str, Any] | None, width: int) -> str:
    cells = [
        f"{row['name']:{width}}",
        f"{row['num_runs']:>4}",
        f"{row['mean_keep_rate']:>5.3f}",
        f"{row['steps']:>7.0f}",
    ]
    cells.append(f"{_with_spread(row['time_ratio'], row['time_ratio_stdev'], 1, 3):>13}")
    cells += [f"{_with_spread(row['top1_mean'].get(rate), row['top1_stdev'].get(rate), 100, 2):>14}" for rate in rates]
    if reference is not None and row is not reference:
        theirs = {run["seed"]: run["top1"][rates[0]] for run in reference["runs"]}
        pairs = [run["top1"][rates[0]] - theirs[run["seed"]] for run in row["runs"] if run["seed"] in theirs]
        cells += [f"{100 * statistics.mean(pairs):>+9.2f} points"] if pairs else []
    return "  ".join(cells)


def _with_spread(mean: float | None, stdev: float | None, factor: float, digits: int) -> str:
    if mean is None:
        return ""
    return f"{factor * mean:.{digits}f}" + ("" if stdev is None else f" ± {factor * stdev:.{digits}f}")
