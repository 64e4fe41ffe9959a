"""A study as its folder tells it: ``study.json`` and the records of its runs, and the run folders where they are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config import RunConfig, load_config
from tools.report.files import read_json, read_sweep
from tools.study.records import hardware_in_words
from tools.study.result import StudyResult, VariantResult, mean_and_stdev

FULL = "1.0"  # full patches, as the keys of a study write the keep rate


@dataclass
class Study:
    """What a study's folder holds.

    Attributes:
        variants, equal_time: those of ``result`` that have a finished run.
        config: of a run whose model is there, else of any, preferably the reference's; None where none was found.
        configs: a configuration of each variant, where one was found, by its name.
        finished_run: the folder of the run of ``config``, where its model is there.
        sweep: lines of ``tools.sweep``; empty where there are none.
        absent: what could not be read, for people.
    """

    folder: Path
    result: StudyResult
    variants: list[VariantResult]
    equal_time: list[VariantResult]
    config: RunConfig | None = None
    config_of: str = ""
    configs: dict[str, RunConfig] = field(default_factory=dict)
    finished_run: Path | None = None
    sweep: list[dict[str, Any]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.result.name or self.folder.resolve().name

    @property
    def reference(self) -> str:
        return self.result.reference

    @property
    def clock(self) -> str:
        """What times are, in words."""
        return {"wall": "time", "cpu": "CPU time"}.get(self.result.clock, "time")

    @property
    def hardware(self) -> dict[str, Any]:
        return self.result.hardware or next((run["hardware"] for run in self._runs() if "hardware" in run), {})

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

    def variant(self, name: str | None) -> VariantResult | None:
        return next((one for one in self.variants if one.name == name), None)

    def beside(self, short: VariantResult) -> VariantResult | None:
        """The variant that takes about the time of ``short``: the one it names, else the nearest by time ratio."""
        named = self.variant(short.reference)
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

    def difference(
        self, variant: VariantResult, other: VariantResult | None = None
    ) -> tuple[float, float | None] | None:
        """Top-1 with all patches minus another's (the reference's), paired by seed: mean and standard deviation."""
        return mean_and_stdev(self.differences(variant, other))

    def differences(self, variant: VariantResult, other: VariantResult | None = None) -> list[float]:
        """Top-1 with all patches minus another's (the reference's), one of each seed that both have."""
        other = other or self.variant(self.reference)
        if other is None:
            return []
        theirs = {run.get("seed"): run["top1"][FULL] for run in other.runs if FULL in (run.get("top1") or {})}
        ours = {run.get("seed"): run["top1"][FULL] for run in variant.runs if FULL in (run.get("top1") or {})}
        return [value - theirs[seed] for seed, value in ours.items() if seed in theirs]

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
    result = StudyResult.from_json(values)
    variants, absent = [], []
    for one in result.variants:
        if one.runs:
            variants.append(one)
        else:
            absent.append(f"Variant {one.name}: it has no finished run yet")
    equal_time = [one for one in result.equal_time if one.runs]
    study = Study(folder, result, variants, equal_time, sweep=read_sweep(folder, sweep), absent=absent)
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
