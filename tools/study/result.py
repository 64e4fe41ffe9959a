"""What a study found: the content of ``study.json``, made from the records of its runs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from tools.students import half_width
from tools.study.records import Records, machine_of, time_of
from tools.study.spec import Job, StudySpec


@dataclass(frozen=True)
class VariantResult:
    """A variant over its seeds. Accuracies are shares of 1, by keep rate as text such as ``"0.4"``.

    Spreads are standard deviations over the seeds, None for one seed. Defaults are of fields that a file lacks.

    Attributes:
        name: the variant, or ``variant@other`` for the variant in the other's time.
        description: what it is, for the reader.
        reference: of ``variant@other`` the other, else None.
        overrides: the keys of the run's configuration that make the variant, and their values.
        rule, schedule: ``selection.rule`` and ``schedule.kind`` of its configuration.
        mean_keep_rate: of the schedule over the run.
        steps: of a run, the mean.
        top1_mean, top1_stdev: on the validation set, or the first of several.
        val_top1_mean, val_top1_stdev: the same on each of several validation sets, by its name; empty for a single one.
        wall_s_mean, cpu_s_mean: of a run in training steps; None where no run measured it.
        time_ratio, time_ratio_stdev: time by the study's clock against the reference's with the same seed.
        num_timed: the number of seeds in ``time_ratio``: those whose two runs were trained on the same hardware.
        top1_difference: of the reference's with the same seed, the mean; empty of the reference itself.
        top1_difference_half_width: half of its 95 % interval (Student's t); None for fewer than three seeds.
        num_paired: the number of seeds in ``top1_difference``: those that both have a finished run of.
        runs: the records of its runs, one a seed, without their configurations.
    """

    name: str = "-"
    description: str = ""
    reference: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    rule: str = "-"
    schedule: str = "-"
    mean_keep_rate: float | None = None
    steps: float | None = None
    num_runs: int = 0
    top1_mean: dict[str, float] = field(default_factory=dict)
    top1_stdev: dict[str, float | None] = field(default_factory=dict)
    val_top1_mean: dict[str, dict[str, float]] = field(default_factory=dict)
    val_top1_stdev: dict[str, dict[str, float | None]] = field(default_factory=dict)
    wall_s_mean: float | None = None
    cpu_s_mean: float | None = None
    time_ratio: float | None = None
    time_ratio_stdev: float | None = None
    num_timed: int = 0
    top1_difference: dict[str, float] = field(default_factory=dict)
    top1_difference_half_width: dict[str, float | None] = field(default_factory=dict)
    num_paired: int = 0
    runs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "VariantResult":
        """Fields that it does not know are passed over."""
        known = _known(cls, values)
        return cls(**{"num_timed": len(known.get("runs", []))} | known)  # files without it timed every run

    def top1(self, keep_rate: str) -> tuple[float, float | None] | None:
        """Mean over the seeds and its standard deviation (None for one run); None where it was not measured."""
        found = [run["top1"][keep_rate] for run in self.runs if keep_rate in (run.get("top1") or {})]
        return mean_and_stdev(found)

    def stage_speeds(self) -> dict[float, tuple[float, float]]:
        """Images per second and loader wait (a share of the step) by keep rate, means over the runs."""
        found: dict[float, list[tuple[float, float]]] = {}
        for stage in (stage for run in self.runs for stage in run.get("stages") or []):
            found.setdefault(stage["keep_rate"], []).append((stage["images_per_s"], stage["loader_wait_share"]))
        return {
            rate: (statistics.mean(speed for speed, _ in both), statistics.mean(wait for _, wait in both))
            for rate, both in found.items()
        }


@dataclass(frozen=True)
class StudyResult:
    """A study; of an unfinished one what is there, with the names of what is not.

    Attributes:
        reference: the variant that the others are compared with.
        clock: what time means in comparisons, ``wall`` or ``cpu``.
        missing: runs that are not finished, such as ``full seed 0``.
        variants: those with a finished run, in the order of the study's file.
        equal_time: variants that were trained again, for the time of another.
        hardware: of the first run; None where none is finished.
    """

    name: str = ""
    seeds: list[int] = field(default_factory=list)
    reference: str = ""
    clock: str = "cpu"
    complete: bool = False
    missing: list[str] = field(default_factory=list)
    variants: list[VariantResult] = field(default_factory=list)
    equal_time: list[VariantResult] = field(default_factory=list)
    hardware: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StudyResult":
        """Fields that it does not know are passed over; those that a file lacks have their defaults."""
        known = _known(cls, values)
        rows = {key: [VariantResult.from_json(row) for row in known.get(key, [])] for key in ("variants", "equal_time")}
        return cls(**known | rows)


def _known(kind: type[VariantResult] | type[StudyResult], values: Mapping[str, Any]) -> dict[str, Any]:
    return {one.name: values[one.name] for one in fields(kind) if values.get(one.name) is not None}


def result(spec: StudySpec, jobs: Sequence[Job], records: Records) -> StudyResult:
    """The study so far.

    Args:
        records: of those of ``jobs`` that are finished.

    Raises:
        ValueError: the study's clock was not measured in all of a run.
    """
    rows = {job.name: _variant(spec, job, records) for job in jobs if (job.name, job.seed) in records}
    missing = [f"{job.name} seed {job.seed}" for job in jobs if (job.name, job.seed) not in records]
    return StudyResult(
        name=spec.name,
        seeds=spec.seeds_of(spec.reference),
        reference=spec.reference,
        clock=spec.clock,
        complete=not missing,
        missing=missing,
        variants=[row for name, row in rows.items() if "@" not in name],
        equal_time=[row for name, row in rows.items() if "@" in name],
        hardware=next((record["hardware"] for record in records.values()), None),
    )


def _variant(spec: StudySpec, job: Job, records: Records) -> VariantResult:
    runs = [record for (name, _), record in records.items() if name == job.name]
    first, variant = runs[0], spec.variants[job.variant]
    pairs = [(run, records[spec.reference, run["seed"]]) for run in runs if (spec.reference, run["seed"]) in records]
    ratios = [time_of(spec, run) / time_of(spec, full) for run, full in pairs if machine_of(run) == machine_of(full)]
    top1 = _over_seeds([run["top1"] for run in runs])
    held = {name: _over_seeds([run["val"][name]["top1"] for run in runs]) for name in first.get("val", {})}
    compared = [] if job.name == spec.reference else pairs
    differences = {
        rate: [run["top1"][rate] - full["top1"][rate] for run, full in compared]
        for rate in first["top1"]
        if compared and all(rate in full["top1"] for _, full in compared)
    }
    time_ratio, time_ratio_stdev = mean_and_stdev(ratios) or (None, None)
    cpu_s_mean, _ = mean_and_stdev([run["train_cpu_s"] for run in runs if run["train_cpu_s"] is not None]) or (
        None,
        None,
    )
    return VariantResult(
        name=job.name,
        description=variant.about,
        reference=job.in_the_time_of,
        overrides=variant.set,
        rule=first["config"]["selection"]["rule"],
        schedule=first["config"]["schedule"]["kind"],
        mean_keep_rate=first["mean_keep_rate"],
        steps=statistics.mean(run["steps"] for run in runs),
        num_runs=len(runs),
        top1_mean={rate: mean for rate, (mean, _) in top1.items()},
        top1_stdev={rate: stdev for rate, (_, stdev) in top1.items()},
        val_top1_mean={name: {rate: mean for rate, (mean, _) in found.items()} for name, found in held.items()},
        val_top1_stdev={name: {rate: stdev for rate, (_, stdev) in found.items()} for name, found in held.items()},
        wall_s_mean=statistics.mean(run["train_wall_s"] for run in runs),
        cpu_s_mean=cpu_s_mean,
        time_ratio=time_ratio,
        time_ratio_stdev=time_ratio_stdev,
        num_timed=len(ratios),
        top1_difference={rate: statistics.mean(found) for rate, found in differences.items()},
        top1_difference_half_width={rate: half_width(found) for rate, found in differences.items()},
        num_paired=len(compared),
        runs=[{key: value for key, value in run.items() if key != "config"} for run in runs],
    )


def _over_seeds(top1: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float | None]]:
    """Mean and standard deviation of the runs' accuracies by keep rate."""
    found = {rate: mean_and_stdev([one[rate] for one in top1]) for rate in top1[0]}
    return {rate: both for rate, both in found.items() if both is not None}


def mean_and_stdev(values: Sequence[float]) -> tuple[float, float | None] | None:
    """None of no values; no standard deviation of one."""
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None
