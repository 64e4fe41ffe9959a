"""What a study is made of: one YAML file, and the runs that it asks for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from engine.config import RunConfig, load_config
from pipeline.settings import Settings, UserPath
from pipeline.yaml_file import ConfigError, read_yaml

ANY: Literal["any"] = "any"  # no machine's part: whatever nobody else trains
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Variant(Settings):
    """One kind of run, trained once with each of its seeds."""

    about: str = Field(description="what it is, for the reader of the results")
    seeds: list[int] | None = Field(
        None, min_length=1, description="its own, some of the reference's; null: those of the study"
    )
    set: dict[str, Any] = Field({}, description="keys of the run's configuration, such as schedule.kind, and values")


class StudySpec(Settings):
    """A matrix of runs: variants by seeds, all from one configuration."""

    name: Name
    base: UserPath = Field(
        description="the configuration that all runs start from, seen from where the study is started"
    )
    seeds: list[int] = Field(min_length=1)
    reference: Name = Field(description="the variant that the others are compared with")
    clock: Literal["wall", "cpu"] = Field(
        "wall",
        description="what time means in comparisons; cpu, the first rank's processor time, is not lengthened by other "
        "work on the machine, and measures nothing where a GPU trains",
    )
    common: dict[str, Any] = Field({}, description="keys and values for all runs")
    variants: dict[Name, Variant] = Field(min_length=1)
    equal_time: dict[Name, Name] = Field(
        {},
        description="variant: another one; the first is trained once more, for as many steps as take the other's time",
    )

    @model_validator(mode="after")
    def _names_are_known(self) -> "StudySpec":
        for key, names in (
            ("reference", [self.reference]),
            ("equal_time", [*self.equal_time, *self.equal_time.values()]),
        ):
            for name in names:
                if name not in self.variants:
                    raise ValueError(f"{key}: {name!r} is none of the variants {', '.join(self.variants)}")
        return self

    @model_validator(mode="after")
    def _seeds_can_be_compared(self) -> "StudySpec":
        lists = {"seeds": self.seeds} | {f"variants.{name}.seeds": self.seeds_of(name) for name in self.variants}
        for key, seeds in lists.items():
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{key}: a seed is named twice in {seeds}")
        theirs = self.seeds_of(self.reference)
        for name in self.variants:
            alone = [seed for seed in self.seeds_of(name) if seed not in theirs]
            if alone:
                raise ValueError(
                    f"variants.{name}.seeds: {alone[0]} is none of {theirs}, those of the reference {self.reference}, "
                    f"with which runs are compared seed by seed; name it in variants.{self.reference}.seeds, too"
                )
        for one, other in self.equal_time.items():
            if not self.seeds_of_both(one, other):
                raise ValueError(f"equal_time: {one} and {other} have no seed in common")
        return self

    def seeds_of(self, variant: str) -> list[int]:
        """What a variant is trained with, in the order of its list."""
        own = self.variants[variant].seeds
        return self.seeds if own is None else own

    def seeds_of_both(self, one: str, other: str) -> list[int]:
        """What one variant is trained with once more, in the other's time."""
        return [seed for seed in self.seeds_of(one) if seed in self.seeds_of(other)]


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        name: of its row in the results: the variant, or ``variant@other`` for the variant in the other's time.
        config: the whole configuration; of ``variant@other`` with the duration of the variant, which is not its own.
        overrides: ``a.b=value`` words that make it from the base.
    """

    name: str
    variant: str
    seed: int
    in_the_time_of: str | None
    config: RunConfig
    overrides: tuple[str, ...]

    @property
    def stem(self) -> str:
        """What its files and its run folder are called."""
        return f"{self.name}-seed{self.seed}"


def load_study(path: Path) -> StudySpec:
    """Read a study's YAML file.

    Raises:
        ValueError: naming the file, what was received and what is allowed.
    """
    values = read_yaml(path, "study")
    try:
        return StudySpec.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, detail['loc'])) or 'the file'}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors()
        ]
        raise ValueError(f"{path}: {'; '.join(problems)}") from None


def jobs_of(spec: StudySpec) -> list[Job]:
    """Every run of the study: seed by seed, so that an unfinished study has whole rows to compare, and the runs in the
    time of others, which wait for these, at the end.

    Raises:
        ValueError: a variant whose configuration is not valid; names the variant.
    """
    seeds = spec.seeds_of(spec.reference)  # nobody has others
    jobs = [
        _job(spec, variant, seed, None) for seed in seeds for variant in spec.variants if seed in spec.seeds_of(variant)
    ]
    return jobs + [
        _job(spec, one, seed, other)
        for seed in seeds
        for one, other in spec.equal_time.items()
        if seed in spec.seeds_of_both(one, other)
    ]


def _job(spec: StudySpec, variant: str, seed: int, in_the_time_of: str | None) -> Job:
    values = {**spec.common, **spec.variants[variant].set, "seed": seed}
    # JSON is YAML, on one line.
    try:
        overrides = tuple(f"{key}={_as_json(key, value)}" for key, value in values.items())
        config = load_config(spec.base, list(overrides))
    except ConfigError as error:
        raise ValueError(f"variant {variant}: {error}") from None
    name = variant if in_the_time_of is None else f"{variant}@{in_the_time_of}"
    return Job(name, variant, seed, in_the_time_of, config, overrides)


def _as_json(key: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:  # of a date, and of a list that holds itself
        raise ConfigError(f"{key}: {error}; put text into quotes") from None


def jobs_of_machine(jobs: list[Job], machine: tuple[int, int] | Literal["any"]) -> list[Job]:
    """The part of one machine: of machine i of n, every n-th job from the i-th on (both from 0); of ``ANY`` all."""
    if isinstance(machine, str):
        return jobs
    index, count = machine
    return jobs[index::count]


def differences(asked: dict[str, Any], found: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Keys that both configurations have, with other values; a key that only one has came or went with a version."""
    for key in asked.keys() & found.keys():
        one, other = asked[key], found[key]
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differences(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key} is {one!r} here and {other!r} there"
