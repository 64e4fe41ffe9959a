"""Writes docs/configuration.md: every key of a run's configuration, from the settings themselves.

    python -m tools.configuration

Sections and keys stand in the order of the file that a run leaves in its folder. Start from the project's root.

Exit codes: 0 done, 2 the page cannot be written (one line on stderr says why).
"""

import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainSerializer
from pydantic.fields import FieldInfo

from engine.command_line import Parser
from engine.config import RunConfig
from pipeline.addresses import Address
from pipeline.settings import Duration, OneOf, OrAuto
from tools.command import answer

PAGE = Path("docs/configuration.md")

_HEAD = """# Configuration

Written by `python -m tools.configuration` from the settings themselves; do not edit.

```bash
python -m engine.train --config configs/fashion_mnist.yaml --set optim.lr=0.001 --max-steps 100
```

A run has one YAML file. Unknown keys are errors, and so are values that do not fit; the message names the key and what
is allowed. `--set a.b=value` overrides a key, may be repeated, and takes YAML (`--set 'selection={rule: map, map:
contrast}'`). Everything has a default but the keys marked **required**. The file that a run leaves in its folder,
`config.yaml`, holds every key and starts the same run again.

A *duration* is a number with a unit: `90epochs`, `500steps` or `1000000samples`. What the keys do together is told in
[schedules and rules](schedules-and-rules.md), [input pipeline](input-pipeline.md), [training](training.md) and
[fine-tuning](finetune.md).

**A key stands once.** One that stands twice in a mapping is an error that names both lines, in run configurations, in
study files and in the values of `--set`; YAML itself would keep the last one without a word. Merge keys (`<<: *other`)
work, and what a mapping says itself goes before what it merges.

**Numbers are finite, and such as someone could mean.** No key takes infinity or what is not a number, also not within
lists, within `model.options` or as text. `true` is no number; `1e-3` is one, though YAML 1.1 reads text there.
`model.options` takes numbers up to 1,000,000, text, true, false, null, lists and mappings of these, and a `depth` up to
1,000. A duration has up to 14 digits before the point and 14 behind it; `train.duration` comes to 100,000,000 steps at
most.

**Memory is counted before it is taken.** If the kept patches of a batch, times `data.prefetch_batches`, times the ranks
of a host, are more than the host's memory, the run ends before a model is built, with the size of a batch and the keys
that decide it.
"""
# What is not of the settings' own making: a default that the reader of the file fills in.
_FILLED_IN = {"name": "the file's name"}
_PLAIN = {
    int: "whole number",
    float: "number",
    bool: "true, false",
    str: "text",
    Path: "path",
    Address: "address",
    Duration: "duration",
}


def page() -> str:
    """``docs/configuration.md``, whole."""
    return _HEAD + "".join(_section(name, settings) for name, settings in sections(RunConfig))


def sections(settings: type[BaseModel], name: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section of the file with its dotted name, in the file's order; the file itself comes first, without one."""
    yield name, settings
    for key, field in settings.model_fields.items():
        for inner in _sections_of(field.annotation):
            yield from sections(inner, f"{name}.{key}".lstrip("."))


def _section(name: str, settings: type[BaseModel]) -> str:
    title = f"`{name}`" if name else "The file"
    about = " ".join((settings.__doc__ or "").replace("``", "`").split())
    lines = [f"\n## {title}\n\n{about}\n\n| key | what it is | type | allowed | default |\n|---|---|---|---|---|\n"]
    for key, field in settings.model_fields.items():
        full = f"{name}.{key}".lstrip(".")
        cells = [f"`{key}`", _about(full, field), _type(field), allowed(field), _default(full, field)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(lines)


def _about(full: str, field: FieldInfo) -> str:
    if _sections_of(field.annotation):
        return f"{field.description}; " * bool(field.description) + f"keys of its own: [`{full}`](#{_anchor(full)})"
    return (field.description or "").replace("``", "`")


def _type(field: FieldInfo) -> str:
    return type_of(field.annotation) + (" or `auto`" if _auto(field) is not None else "")


def _auto(field: FieldInfo) -> OrAuto | None:
    """The mark of a key for which a file may say auto."""
    return next((mark for mark in field.metadata if isinstance(mark, OrAuto)), None)


def _anchor(full: str) -> str:
    return full.replace(".", "")


def _default(full: str, field: FieldInfo) -> str:
    if full in _FILLED_IN:
        return _FILLED_IN[full]
    if field.is_required():
        return "**required**"
    if (auto := _auto(field)) is not None and auto.is_default:
        return "`auto`"
    if isinstance(field.default, BaseModel):
        return ""
    return f"`{_as_yaml(field.default)}`"


def _as_yaml(value: Any) -> str:
    """A default as one would write it into the file."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value) if isinstance(value, Duration | Path) else value
    return yaml.safe_dump(text, default_flow_style=True).removesuffix("...\n").strip()


def type_of(annotation: Any) -> str:
    """What a key takes, in words. Raises TypeError for an annotation that has none yet."""
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_of(inner[0])
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else type_of(one) for one in inner)
    if origin is list:
        return f"list of {_plural(type_of(inner[0]))}"
    if origin is tuple and inner[1:] == (Ellipsis,):
        return f"list of {_plural(type_of(inner[0]))}"
    if origin is tuple:
        return f"[{', '.join(map(type_of, inner))}]"
    if origin is dict:
        return "mapping"
    if _sections_of(annotation):
        return "section"
    raise TypeError(f"no words for a key of the type {annotation}; add them to tools/configuration.py")


def _plural(text: str) -> str:
    return text if text.startswith("[") else f"{text}s"


def allowed(field: FieldInfo) -> str:
    """What is asked of a key's value beside its type: bounds, or a table's names. Empty where nothing is.

    What only code can say, such as that a file must be there, belongs into the key's description.

    Raises TypeError for a constraint that has no words yet.
    """
    unit = " character(s)" if field.annotation is str else ""
    found = dict.fromkeys(_words(one, unit) for one in _constraints(field.annotation, field.metadata))
    return ", ".join(word for word in found if word)


def _constraints(annotation: Any, given: Iterable[Any]) -> Iterator[Any]:
    """Everything that a key's type and the types inside of it are held against."""
    for one in given:
        if isinstance(one, FieldInfo):
            yield from one.metadata
        else:
            yield one
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield from _constraints(inner[0], inner[1:])
    elif get_origin(annotation) is not Literal:
        for one in inner:
            yield from _constraints(one, ())


def _words(constraint: Any, unit: str) -> str:
    """A constraint in words. unit: what a length counts."""
    match constraint:
        case AfterValidator(func=OneOf(names=names)):
            return ", ".join(f"`{name}`" for name in names)
        case annotated_types.Ge(ge=bound):
            return f"≥ {_bound(bound)}"
        case annotated_types.Gt(gt=bound):
            return f"> {_bound(bound)}"
        case annotated_types.Le(le=bound):
            return f"≤ {_bound(bound)}"
        case annotated_types.Lt(lt=bound):
            return f"< {_bound(bound)}"
        case annotated_types.MultipleOf(multiple_of=number):
            return f"multiple of {number}"
        case annotated_types.MinLen(min_length=length):
            return f"at least {length}{unit}"
        case annotated_types.MaxLen(max_length=length):
            return f"at most {length}{unit}"
        case AfterValidator() | BeforeValidator() | PlainSerializer() | OrAuto():
            return ""
    if getattr(constraint, "allow_inf_nan", None) is False:  # every number of a configuration is finite
        return ""
    raise TypeError(f"no words for the constraint {constraint}; add them to tools/configuration.py")


def _bound(value: Any) -> str:
    """A bound as one reads it: long powers of two as such."""
    if isinstance(value, int) and value > 10**6 and value.bit_count() == 1:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _sections_of(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a key holds, or whose entries a list holds; empty where it holds values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        return [section for one in get_args(annotation) for section in _sections_of(one)]
    return []


def _write() -> str:
    PAGE.write_text(page())
    return f"{PAGE} is written"


def main(arguments: Sequence[str] = ()) -> int:
    """Write the page, and say so."""
    parser = Parser.of("tools.configuration", __doc__)
    return answer(lambda: parser.parse_args(arguments), lambda _: _write())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
