"""Every key of the configuration, set to values that nobody means: a configuration comes of it, or words."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from engine.config import RunConfig, dump_config, load_config
from engine.run_plan import plan_run
from pipeline.yaml_file import ConfigError

BASE = {
    "data": {
        "train": "shards",
        "val": "shards",
        "num_classes": 10,
        "augment": {
            "auto": {"kind": "randaugment", "magnitude": {"kind": "linear", "values": [0, 9]}},
            "mixup": {"kind": "steps", "values": [[0, 0], [0.5, 0.8]]},
            "cutmix": {"kind": "choice", "values": [[0, 1], [1, 2]]},
        },
        "cache": {"kind": "disk", "folder": "pixels", "max_bytes": 1000},
    },
    "schedule": {
        "examples": {"rule": "random", "keep": 0.5},
        "image_size": {"kind": "steps", "values": [[0, 112], [0.5, 224]]},
        "patch_size": {"kind": "choice", "values": [[8, 1], [16, 2]]},
    },
    "model": {"name": "vit_tiny_patch16_224", "options": {"depth": 2}, "pretrained": "local-dir:start"},
    "train": {"duration": "3epochs", "global_batch_size": 8, "anchor": {"strength": 0.01}},
    "optim": {"lr": 0.001},
    "monitor": {"wandb": {"project": "odd"}},
}
ODD = [
    *(".inf", "-.inf", ".nan", "1e400", "-1e400", "nan", "Infinity", "1" + "0" * 20, "-1", "0", "-0.0", "1.0e-320"),
    *("0.5", "1" + "0" * 400, "9" * 5000, "0x" + "f" * 5000, "''", "' '", "null", "true", "no", '"\\0"', "x" * 10_000),
    *("[]", "{}", "[[[[1]]]]", "[.nan, .inf]", "[.inf, 0.5, 0.5]", "[0.9, 1]", "[[0, .nan]]", "[[0.5, .inf]]"),
    *("[" + "1e400, " * 300 + "]", "{depth: .nan}", "{depth: [.inf]}", "{depth: 1" + "0" * 9 + "}", "{1: 2}"),
    *("{kind: .nan}", "&a [*a]", "&a {depth: *a}", "[" * 200 + "]" * 200, "2026-01-01", "2026-13-01"),
    *("2026-01-01 10:00:00", "!!binary aGk=", "!!set {a, b}", "9" * 14 + "epochs", "9" * 30 + "steps", "0samples"),
]


def keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every key and every section of a configuration, such as ``data.augment.auto.kind``."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if get_origin(field.annotation) is tuple:  # no key leads into a list
            continue
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys(kind, f"{prefix}{name}.")


def numbers(value: Any) -> Iterator[float]:
    """Every number in nested mappings and lists."""
    if isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "run.yaml"
    path.write_text(yaml.safe_dump(BASE))
    return path


def test_every_section_is_walked() -> None:
    found = set(keys())
    assert {"name", "data.augment.auto.magnitude_std", "optim.betas", "monitor.wandb.project"} <= found
    assert len(found) > 90


@pytest.mark.parametrize("key", list(keys()))
def test_an_odd_value_is_a_configuration_or_an_error_that_names_the_key(base: Path, key: str) -> None:
    for odd in ODD:
        try:
            config = load_config(base, [f"{key}={odd}"])
        except ConfigError as error:
            told = str(error)
            assert key.rpartition(".")[2] in told or f": {key.partition('.')[0]} is set" in told, odd[:50]
            assert len(told) < 10_000, odd[:50]
            continue
        for number in numbers(config.model_dump()):
            assert math.isfinite(number), odd[:50]
            assert abs(number) < 2**63, odd[:50]
        with suppress(ValueError):  # words for people; a run that has no end would not come back
            plan_run(config, 1000, world_size=1).schedule.stages()


@pytest.mark.parametrize("key", list(keys()))
def test_what_is_made_of_an_odd_value_is_written_as_it_is_read(base: Path, key: str, tmp_path: Path) -> None:
    for odd in ("0.5", "true", "1.0e-320", "' '", "2026-01-01", "!!binary aGk=", "0samples", "0.00001epochs"):
        try:
            config = load_config(base, [f"{key}={odd}"])
        except ConfigError:
            continue
        (tmp_path / "again.yaml").write_text(dump_config(config))
        assert load_config(tmp_path / "again.yaml") == config, odd
