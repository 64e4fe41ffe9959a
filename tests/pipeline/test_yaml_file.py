from pathlib import Path
from typing import Any

import pytest

from pipeline.yaml_file import ConfigError, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1\nseed: 0\nlr: 2\n", "the key 'lr' stands there twice, in lines 1 and 3; keep one of them"),
        ("optim:\n  lr: 1\n  'lr': 2\n", "the key 'lr' stands there twice, in lines 2 and 3"),
        ("optim: {lr: 1, lr: 2}", "the key 'lr' stands there twice, in line 1"),
        ("- {a: {b: 1}}\n- {a: {b: 1,\n  b: 1}}", "the key 'b' stands there twice, in lines 2 and 3"),
        ("1: a\n0x1: b\n", "the key '0x1' stands there twice, in lines 1 and 2"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("'", "['\"]")):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: {k: 1}\nb: {k: 2}", {"a": {"k": 1}, "b": {"k": 2}}),
        ("a: &A {k: 1, j: 2}\nb: {<<: *A, k: 3}", {"a": {"k": 1, "j": 2}, "b": {"k": 3, "j": 2}}),
        ("a: {x: &A {<<: &B {k: 0}, k: 1}}\nb: {<<: *A}", {"a": {"x": {"k": 1}}, "b": {"k": 1}}),
        ("lr: 1e-3", {"lr": "1e-3"}),
        ("", None),
    ],
)
def test_all_else_is_read_as_ever(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2026-13-01", "line 2: month must be in 1..12"),
        ("a: " + "9" * 5000, r"line 1: Exceeds the limit \(4300 digits\).*has 5000 digits$"),
        ("[" * 3000, "too deep"),
        ("a: [1", "expected ',' or ']'"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
    ],
)
def test_what_is_no_value_is_told_in_a_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_yaml(text)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"a\.yaml is not valid YAML: 'utf-8' codec can't decode"):
        read_yaml(tmp_path / "a.yaml", "study")
