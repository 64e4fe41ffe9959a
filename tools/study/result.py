"""From the runs of a study to its tables: one record a run, means and spreads over the seeds."""

import statistics
from collections.abc import Sequence
from typing import Any

from tools.study.records import Records, machine_of, time_of
from tools.study.spec import Job, StudySpec


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
