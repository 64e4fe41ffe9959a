"""A study as its folder tells it: ``study.json`` and the records of its runs, and the run folders where they are."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config import RunConfig, load_config
from tools.report.files import read_json, read_sweep
from tools.study.records import hardware_in_words
from tools.study.result import mean_and_stdev

FULL = "1.0"  # full patches, as the keys of a study write the keep rate


@dataclass(frozen=True)
class Variant:
    """One way to train, and its runs, one a seed."""

    values: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.values.get("name") or self.values.get("reference"))

    @property
    def description(self) -> str:
        return str(self.values.get("description") or "")

    @property
    def rule(self) -> str:
        return str(self.values.get("rule", "-"))

    @property
    def schedule(self) -> str:
        return str(self.values.get("schedule", "-"))

    @property
    def colour_group(self) -> str:
        """Variants of one schedule belong together; those of a constant rate are each a thing of its own."""
        return self.name.partition("@")[0] if self.schedule == "constant" else self.schedule

    @property
    def overrides(self) -> dict[str, Any]:
        return self.values.get("overrides") or {}

    @property
    def runs(self) -> list[dict[str, Any]]:
        return self.values.get("runs") or []

    @property
    def mean_keep_rate(self) -> float | None:
        return self.values.get("mean_keep_rate")

    @property
    def time_ratio(self) -> float | None:
        """Time over the reference's, paired by seed, of those runs that had the reference's hardware."""
        return self.values.get("time_ratio")

    @property
    def num_timed(self) -> int:
        """Of how many runs the time ratio is."""
        return int(self.values.get("num_timed", len(self.runs)))

    @property
    def time_ratio_stdev(self) -> float | None:
        return self.values.get("time_ratio_stdev") if len(self.runs) > 1 else None

    def stage_speeds(self) -> dict[float, tuple[float, float]]:
        """Images per second and loader wait (a share of the step) by keep rate, means over the runs."""
        found: dict[float, list[tuple[float, float]]] = {}
        for stage in (stage for run in self.runs for stage in run.get("stages") or []):
            found.setdefault(stage["keep_rate"], []).append((stage["images_per_s"], stage["loader_wait_share"]))
        return {
            rate: (statistics.mean(speed for speed, _ in both), statistics.mean(wait for _, wait in both))
            for rate, both in found.items()
        }

    def top1(self, keep_rate: str) -> tuple[float, float | None] | None:
        """Mean over the seeds and its standard deviation (None for one run); None where it was not measured."""
        found = [run["top1"][keep_rate] for run in self.runs if keep_rate in (run.get("top1") or {})]
        return mean_and_stdev(found)


@dataclass
class Study:
    """What a study's folder holds.

    Attributes:
        config: of a run whose model is there, else of any, preferably the reference's; None where none was found.
        configs: a configuration of each variant, where one was found, by its name.
        finished_run: the folder of the run of ``config``, where its model is there.
        sweep: lines of ``tools.sweep``; empty where there are none.
        absent: what could not be read, for people.
    """

    folder: Path
    values: dict[str, Any]
    variants: list[Variant]
    equal_time: list[Variant]
    config: RunConfig | None = None
    config_of: str = ""
    configs: dict[str, RunConfig] = field(default_factory=dict)
    finished_run: Path | None = None
    sweep: list[dict[str, Any]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(self.values.get("name") or self.folder.resolve().name)

    @property
    def reference(self) -> str:
        return str(self.values.get("reference") or "")

    @property
    def seeds(self) -> list[int]:
        return self.values.get("seeds") or []

    @property
    def clock(self) -> str:
        """What times are, in words."""
        return {"wall": "time", "cpu": "CPU time"}.get(str(self.values.get("clock", "cpu")), "time")

    @property
    def missing(self) -> list[str]:
        return [str(one) for one in self.values.get("missing") or []]

    @property
    def complete(self) -> bool:
        return bool(self.values.get("complete"))

    @property
    def hardware(self) -> dict[str, Any]:
        return self.values.get("hardware") or next((run["hardware"] for run in self._runs() if "hardware" in run), {})

    @property
    def versions(self) -> dict[str, Any]:
        """Of the first run that tells them, but for what ``hardware`` says already."""
        found: dict[str, Any] = next((run["versions"] for run in self._runs() if run.get("versions")), {})
        return {name: value for name, value in found.items() if name not in self.hardware}

    @property
    def other_hardware(self) -> list[str]:
        """The runs on hardware other than the study's, but for memory, by that hardware."""
        found: dict[str, list[str]] = {}
        for variant in (*self.variants, *self.equal_time):
            for run in variant.runs:
                if run.get("hardware"):
                    where = hardware_in_words(run["hardware"])
                    found.setdefault(where, []).append(f"{variant.name} seed {run.get('seed')}")
        found.pop(hardware_in_words(self.hardware), None)
        return [f"{', '.join(runs)} ({where})" for where, runs in found.items()]

    def variant(self, name: str | None) -> Variant | None:
        return next((one for one in self.variants if one.name == name), None)

    def beside(self, short: Variant) -> Variant | None:
        """The variant that takes about the time of ``short``: the one it names, else the nearest by time ratio."""
        named = self.variant(short.values.get("reference"))
        timed = [one for one in self.variants if one.name != self.reference and one.time_ratio is not None]
        if named is not None or short.time_ratio is None:
            return named
        wanted = short.time_ratio
        return min(timed, key=lambda one: abs((one.time_ratio or 0.0) - wanted), default=None)

    def time_key(self) -> str:
        """The clock of the points on the runs' way: the study's, where all of them tell it, else wall time."""
        points = [point for run in self._runs() for key in ("curve", "loss") for point in run.get(key) or []]
        cpu = self.clock == "CPU time" and all(point.get("train_cpu_s") is not None for point in points)
        return "train_cpu_s" if cpu else "train_wall_s"

    def difference(self, variant: Variant, other: Variant | None = None) -> tuple[float, float | None] | None:
        """Top-1 with all patches minus another's (the reference's), paired by seed: mean and standard deviation."""
        other = other or self.variant(self.reference)
        if other is None:
            return None
        theirs = {run.get("seed"): run["top1"][FULL] for run in other.runs if FULL in (run.get("top1") or {})}
        ours = {run.get("seed"): run["top1"][FULL] for run in variant.runs if FULL in (run.get("top1") or {})}
        return mean_and_stdev([value - theirs[seed] for seed, value in ours.items() if seed in theirs])

    def _runs(self) -> list[dict[str, Any]]:
        return [run for variant in self.variants for run in variant.runs]


def read_study(folder: Path, runs: Path | None = None, sweep: Path | None = None) -> Study:
    """Read the folder of a study's results.

    Args:
        runs: the folder of the run folders (default: ``runs`` in ``folder``); they may be gone.
        sweep: results of ``tools.sweep`` (default: those in ``folder``, if any).

    Raises:
        ValueError, OSError: ``study.json`` or ``sweep`` cannot be read, or the folder does not hold a study.
    """
    values = read_json(folder / "study.json")
    if not isinstance(values, dict) or not isinstance(values.get("variants"), list):
        raise ValueError(f"{folder / 'study.json'} holds no study: it has no list of variants")
    variants, absent = [], []
    for one in map(Variant, values["variants"]):
        if one.runs:
            variants.append(one)
        else:
            absent.append(f"Variant {one.name}: it has no finished run yet")
    equal_time = [one for one in map(Variant, values.get("equal_time") or []) if one.runs]
    study = Study(folder, values, variants, equal_time, sweep=read_sweep(folder, sweep), absent=absent)
    _find_configurations(study, runs or folder / "runs")
    return study


def _find_configurations(study: Study, runs: Path) -> None:
    unknown = []
    finished = None
    reference_first = sorted(study.variants, key=lambda variant: variant.name != study.reference)
    for variant in reference_first:
        stems = [f"{variant.name}-seed{run.get('seed')}" for run in variant.runs]
        try:
            found = next(filter(None, (_configuration(study.folder, runs / stem) for stem in stems)), None)
        except ValueError as error:
            study.absent.append(f"Configuration and keep rates of {variant.name}: {error}")
            continue
        if found is None:
            unknown.append(variant.name)
            continue
        study.configs[variant.name] = found
        model = next((runs / stem for stem in stems if (runs / stem / "model").is_dir()), None)
        if study.config is None or (finished is None and model is not None):
            study.config, study.config_of = found, f"the variant {variant.name}"
            study.finished_run = finished = model
    if unknown:
        names, records = ", ".join(unknown), study.folder / "records"
        study.absent.append(f"Configuration and keep rates of {names}: neither {records} nor {runs} has them")


def _configuration(folder: Path, run: Path) -> RunConfig | None:
    """The configuration of a run, from its record or its run folder; None where there is neither.

    Raises:
        ValueError: one that cannot be used.
    """
    record = folder / "records" / f"{run.name}.json"
    if record.is_file():
        try:
            return RunConfig.model_validate(read_json(record)["config"])
        except (KeyError, ValidationError) as error:
            raise ValueError(f"{record} holds no configuration of this version ({type(error).__name__})") from None
    return load_config(run / "config.yaml") if (run / "config.yaml").is_file() else None
