"""YAML as the project reads it: plain values, and no key twice in a mapping."""

from pathlib import Path
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class ConfigError(ValueError):
    """A configuration that cannot be used; its message is for the person who wrote it."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which keeps the last of two values of a key, but for refusing such a mapping."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # of a day that is none, and of a number of more digits than Python converts
            reason = str(error).partition("; use sys.")[0]
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {reason}") from None

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, and not where mappings are made: by then what `<<` merges stands among the keys, and may repeat them.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            value = self.construct_object(key)
            line = key.start_mark.line + 1
            if value in lines:
                lines_said = f"in lines {lines[value]} and {line}" if lines[value] != line else f"in line {line}"
                raise yaml.YAMLError(f"the key {key.value!r} stands there twice, {lines_said}; keep one of them")
            lines[value] = line
        return node


def parse_yaml(text: str) -> Any:
    """The content of a YAML document: mappings, lists, text, numbers, truth values, dates and None.

    Raises:
        ValueError: it is no YAML, a key stands twice in a mapping, or a value is none (such as a 40th of May).
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("lists or mappings lie too deep in one another") from None


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file. Raises ConfigError, naming the file and what it is."""
    try:
        return parse_yaml(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from None
    except ValueError as error:  # of bytes that are no text, too
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
