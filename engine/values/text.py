"""What a person writes into a configuration or behind ``--set``, and what is said of it where it cannot be used."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from engine.values.autos import AUTO_KEYS
from pipeline.yaml_file import ConfigError, parse_yaml


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set a key of a file's values as ``--set`` asks for it, such as ``optim.lr=0.001``. Raises ConfigError."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set takes key=value, such as --set optim.lr=0.001; got {override!r}")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {key}: {cut(repr(text))} is not a valid YAML value ({error})") from None
    section = values
    for name in names[:-1]:
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise ConfigError(f"--set {key}: {name} is a value, not a section with keys of its own")
    section[names[-1]] = value


def explain(detail: ErrorDetails, settings: type[BaseModel]) -> str:
    """A fault that pydantic found, for people: the key, what was received and what is allowed.

    Args:
        settings: of the whole file.
    """
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _known_keys(location[:-1], settings)
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key {key!r}; {hint}"
    if detail["type"] == "missing":
        return f"missing key {key!r}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {message}" if key else message
    or_auto = ", or auto" if key in AUTO_KEYS else ""
    return f"{key}: {message}{or_auto}, got {_shown(detail['input'])}"


def _shown(value: Any) -> str:
    try:
        return cut(repr(value))
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of more digits than can be shown"


def cut(text: str, length: int = 200) -> str:
    """A text that a message can bear."""
    return text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)"


def _known_keys(sections: list[str], model: type[BaseModel]) -> list[str]:
    for name in (one for one in sections if not one.isdecimal()):  # places in a list of sections are no keys
        sections_here = _sections_in(model.model_fields[name].annotation if name in model.model_fields else None)
        if not sections_here:
            return []
        model = sections_here[0]
    return list(model.model_fields)


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for one in get_args(annotation) for section in _sections_in(one)]
