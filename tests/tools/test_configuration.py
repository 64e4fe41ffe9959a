from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Predicate
from pydantic import BaseModel, Field

from benchmarks.shared.shell import ROOT
from engine.config import RunConfig, load_config
from pipeline.settings import Settings
from tools.configuration import allowed, main, page, sections, type_of


def test_the_page_of_all_keys_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == page(), "python -m tools.configuration"


def test_the_command_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main() == 2
    assert capsys.readouterr().err == "error: [Errno 2] No such file or directory: 'docs/configuration.md'\n"
    (tmp_path / "docs").mkdir()
    assert main() == 0
    assert (tmp_path / "docs" / "configuration.md").read_text() == page()


def keys_of(values: dict[str, Any], name: str = "") -> dict[str, list[str]]:
    """The keys of a dumped configuration by section, of which a list holds some; sections that are null have none."""
    found = {name: list(values)}
    for key, held in values.items():
        value = held[0] if isinstance(held, list) and held else held
        if isinstance(value, dict) and key != "options":
            found |= keys_of(value, f"{name}.{key}".lstrip("."))
    return found


def test_the_sections_and_keys_are_those_of_the_file_that_a_run_leaves_in_its_order() -> None:
    sets = [
        "data.val=[{name: a, folder: b}]",
        "data.cache={kind: memory, max_bytes: 1}",
        "data.augment={auto: {kind: randaugment, magnitude: {kind: linear, values: [0, 9]}}, crop: pad, pad_pixels: 1}",
        "data.augment.mixup={kind: linear, values: [0, 1]}",
        "data.augment.cutmix={kind: linear, values: [0, 1]}",
        "schedule.image_size={kind: constant, values: 28}",
        "schedule.patch_size={kind: constant, values: 4}",
        "monitor.wandb.project=p",
        "model.pretrained=x.pth",
        "train.anchor={strength: 1}",
        "schedule.examples={rule: loss, keep: 0.5}",
    ]
    config = load_config(ROOT / "configs" / "fashion_mnist.yaml", sets)
    values = config.model_dump(mode="json")
    # Those that schedule.examples do not go with.
    for key, held in {
        "train": "[{name: a, folder: b, share: 1}]",
        "growth": "[{before_epoch: 1, shards: 1, samples: 1}]",
    }.items():
        other = load_config(ROOT / "configs" / "fashion_mnist.yaml", [f"data.{key}={held}"])
        values["data"][key] = other.model_dump(mode="json")["data"][key]
    expected = keys_of(values)
    assert {name: list(settings.model_fields) for name, settings in sections(RunConfig)} == expected
    assert [name for name, _ in sections(RunConfig)] == list(expected)


def test_every_key_that_is_no_section_has_a_description() -> None:
    inner = {name for name, _ in sections(RunConfig)}
    without = [
        full
        for name, settings in sections(RunConfig)
        for key, field in settings.model_fields.items()
        if (full := f"{name}.{key}".lstrip(".")) not in inner and not field.description
    ]
    assert without == []


def words(settings: type[BaseModel], key: str) -> tuple[str, str]:
    field = settings.model_fields[key]
    return type_of(field.annotation), allowed(field)


def test_types_and_bounds_are_told_in_words() -> None:
    class Some(Settings):
        share: float | None = Field(None, gt=0, lt=1)
        betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
        finite: float = Field(allow_inf_nan=False, le=1e6)
        size: int = Field(le=2**40, multiple_of=4)
        rates: list[float] = Field(min_length=1, max_length=9)
        name: str = Field(min_length=1)

    assert words(Some, "share") == ("number or null", "> 0, < 1")
    assert words(Some, "betas") == ("[number, number]", "≥ 0, < 1")
    assert words(Some, "finite") == ("number", "≤ 1e+06")
    assert words(Some, "size") == ("whole number", "≤ 2^40, multiple of 4")
    assert words(Some, "rates") == ("list of numbers", "at least 1, at most 9")
    assert words(Some, "name") == ("text", "at least 1 character(s)")


def test_a_type_or_a_constraint_without_words_is_an_error() -> None:
    class Odd(Settings):
        kinds: set[int]
        even: Annotated[int, Predicate(lambda number: number % 2 == 0)]

    with pytest.raises(TypeError, match="no words for a key of the type set"):
        words(Odd, "kinds")
    with pytest.raises(TypeError, match="no words for the constraint Predicate"):
        words(Odd, "even")
