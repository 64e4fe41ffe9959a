"""A study as its folder tells it: ``study.json``, and the configurations of the runs that lie under it."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import ConfigError, RunConfig, load_config
from tools.report_files import read_json

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
        """CPU time over the reference's, paired by seed."""
        return self.values.get("time_ratio")

    @property
    def time_ratio_stdev(self) -> float | None:
        return self.values.get("time_ratio_stdev") if len(self.runs) > 1 else None

    def top1(self, keep_rate: str) -> tuple[float, float | None] | None:
        """Mean over the seeds and its standard deviation (None for one run); None where it was not measured."""
        found = [run["top1"][keep_rate] for run in self.runs if keep_rate in (run.get("top1") or {})]
        return mean_and_stdev(found)


def mean_and_stdev(values: list[float]) -> tuple[float, float | None] | None:
    """None of no values; no standard deviation of one."""
    if not values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass
class Study:
    """What a study's folder holds.

    Attributes:
        config: of a finished run or the first run there is, preferably the reference's; None where none was found.
        configs: a configuration of each variant, where one was found, by its name.
        finished_run: the folder of that run, where it has exported its model.
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
        """Runs that say another processor than the study's."""
        expected = self.hardware.get("cpu")
        return [
            f"{variant.name} seed {run.get('seed')} ({run['hardware'].get('cpu')})"
            for variant in (*self.variants, *self.equal_time)
            for run in variant.runs
            if run.get("hardware") and run["hardware"].get("cpu") != expected
        ]

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

    def difference(self, variant: Variant) -> tuple[float, float | None] | None:
        """Top-1 with all patches minus the reference's, paired by seed: mean and standard deviation."""
        reference = self.variant(self.reference)
        if reference is None:
            return None
        theirs = {run.get("seed"): run["top1"][FULL] for run in reference.runs if FULL in (run.get("top1") or {})}
        ours = {run.get("seed"): run["top1"][FULL] for run in variant.runs if FULL in (run.get("top1") or {})}
        return mean_and_stdev([value - theirs[seed] for seed, value in ours.items() if seed in theirs])

    def _runs(self) -> list[dict[str, Any]]:
        return [run for variant in self.variants for run in variant.runs]


def read_study(folder: Path) -> Study:
    """Read a study's folder.

    Raises:
        ValueError, OSError: ``study.json`` cannot be read, or does not hold a study.
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
    study = Study(folder, values, variants, equal_time, absent=absent)
    _find_configurations(study)
    return study


def _find_configurations(study: Study) -> None:
    """Run folders of variants lie somewhere under the study's folder, and their names begin with the variant's."""
    found: dict[str, list[Path]] = {variant.name: [] for variant in study.variants}
    longest_first = sorted(found, key=len, reverse=True)
    for path in sorted(study.folder.rglob("config.yaml")):
        parts = path.relative_to(study.folder).parts[:-1]
        if any(part.startswith("earlier-") for part in parts):
            continue
        name = next((one for one in longest_first if any(_is_of(part, one) for part in parts)), None)
        if name is not None:
            found[name].append(path.parent)
    unknown = []
    for name in (study.reference, *(name for name in found if name != study.reference)):
        folders = found.get(name) or []
        if not folders:
            unknown.append(name)
            continue
        try:
            study.configs[name] = load_config(folders[0] / "config.yaml")
        except ConfigError as error:
            study.absent.append(f"Configuration and keep rates of {name}: {error}")
            continue
        if study.config is None:
            study.config, study.config_of = study.configs[name], f"the variant {name}"
        if study.finished_run is None:
            study.finished_run = next((one for one in folders if (one / "model").is_dir()), None)
    if unknown:
        names = ", ".join(unknown)
        study.absent.append(f"Configuration and keep rates of {names}: no run folder lies under {study.folder}")


def _is_of(part: str, name: str) -> bool:
    """Whether a folder called ``part`` is of the variant: its name, alone or with a seed behind it."""
    return part == name or (part.startswith(name) and not part[len(name)].isalnum())
