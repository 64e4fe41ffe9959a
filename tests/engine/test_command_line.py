"""What every program does: results alone on standard output, and one line for Ctrl-C."""

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.command_line import Parser, called_as, importing, interruptible, leave, stdout_apart

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [ROOT / "engine" / "train.py", *sorted((ROOT / "tools").glob("*/__main__.py"))]
LIGHT = {"engine.command_line", "tools.command", "pipeline.cores", "pipeline.files", "pipeline.installed"}


def test_whatever_writes_to_standard_output_is_heard_on_the_other(capfd: pytest.CaptureFixture[str]) -> None:
    print("before")
    with stdout_apart():
        os.write(1, b"a library\n")
        os.system("echo a process")
    print("after")
    captured = capfd.readouterr()
    assert captured.out.split() == ["before", "after"]
    assert captured.err.splitlines() == ["a library", "a process"]


def test_standard_output_is_there_again_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="a fault"), stdout_apart():
        raise OSError("a fault")
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_a_standard_output_that_was_closed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with stdout_apart():
        pass


def test_imports_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with importing():
        os.write(1, b"Setting accelerator to CPU\n")
        os.write(2, b"something is wrong\n")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "something is wrong\n")


@pytest.mark.parametrize(("rank", "said"), [(None, "error: interrupted\n"), ("0", "error: interrupted\n"), ("1", "")])
def test_ctrl_c_while_imports_go_on_is_one_line_of_the_first_rank(
    rank: str | None, said: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as ended, importing():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert ended.value.__suppress_context__
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", said)


def test_ctrl_c_may_say_how_to_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), interruptible("start it again"):
        raise KeyboardInterrupt
    assert capfd.readouterr().err == "error: interrupted; start it again\n"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_import_that_wants_dali_says_in_one_line_what_to_install(
    rank: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("pipeline.installed.DALI_BUILDS", {})
    with pytest.raises(SystemExit) as ended, importing():
        raise ModuleNotFoundError("No module named 'nvidia.dali'", name="nvidia.dali")
    assert ended.value.code == 2
    said = capfd.readouterr().err
    assert said.startswith("error: NVIDIA DALI is not installed") if rank == "0" else said == ""


def test_an_import_that_fails_for_anything_else_is_no_users_error() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        raise ModuleNotFoundError("No module named 'timm'", name="timm")


def test_a_program_ends_with_its_exit_code_and_is_deaf_then(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored = []
    monkeypatch.setattr("signal.signal", lambda *arguments: ignored.append(arguments[0].name))
    with pytest.raises(SystemExit) as ended:
        leave(3)
    assert (ended.value.code, ignored) == (3, ["SIGINT"])


def imports_outside(body: list[ast.stmt]) -> Iterator[str]:
    """Modules that a program imports before anything looks after it, but for Python's own."""
    for node in body:
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (name for name in found if name.partition(".")[0] not in sys.stdlib_module_names)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.parent.name)
def test_every_program_can_be_interrupted_while_it_imports(program: Path) -> None:
    tree = ast.parse(program.read_text())
    assert set(imports_outside(tree.body)) <= LIGHT
    last = ast.unparse(tree.body[-1])
    if program.parent.name in {"engine", "profile"}:  # whose ranks end on their own
        (main,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
        assert "with interruptible():" in ast.unparse(main)
    else:
        assert "leave(main())" in last


@pytest.mark.parametrize("module", sorted(LIGHT))
def test_what_is_imported_before_is_python_alone(module: str) -> None:
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    assert set(imports_outside(tree.body)) <= LIGHT


DOC = """What it is for.

    python -m tools.thing run --rate 2
    deepspeed --module tools.thing run

More that is not for help.
"""


def thing() -> Parser:
    parser = Parser.of("tools.thing", DOC, epilog="words " * 40)
    parser.add_argument("run", help="a folder")
    parser.add_argument("--rate", type=int, default=3, help="how fast")
    parser.add_argument("--out", help="where to (default: beside it)")
    parser.add_argument("--name", help="of the thing")
    parser.add_argument("--must", required=True, help="is asked for")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def test_help_says_what_a_program_is_for_every_default_and_ends_with_an_example() -> None:
    told = thing().format_help()
    assert told.startswith("usage: python -m tools.thing ")
    assert "\n\nWhat it is for.\n\n" in told
    for line in ("how fast (default: 3)", "where to (default: beside it)", "of the thing (default: none)"):
        assert line in told
    for line in ("a folder", "is asked for", "for programs"):
        assert f"{line}\n" in told
    assert told.endswith("\nexample:\n  python -m tools.thing run --rate 2\n  deepspeed --module tools.thing run\n")
    assert "not for help" not in told
    assert max(map(len, told.splitlines())) <= 80


def test_a_program_is_called_what_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert called_as("tools.thing") == "python -m tools.thing"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pss-thing", "run"])
    assert called_as("tools.thing") == "pss-thing"
    told = thing().format_help()
    assert told.startswith("usage: pss-thing ")
    assert "  pss-thing run --rate 2\n" in told


def test_what_a_parser_refuses_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="--must; see --help"):
        thing().parse_args(["run"])
    with pytest.raises(ValueError, match="invalid int value: 'two'; see --help"):
        thing().parse_args(["run", "--rate", "two", "--must", "x"])
