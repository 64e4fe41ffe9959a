"""What the command lines of a run and of the tools about runs have in common."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NoReturn

from pipeline.cores import bound_blas
from pipeline.files import user_path
from pipeline.installed import without_dali

bound_blas(os.environ)  # here, for programs load this first, and NumPy's BLAS asks once

STOPPED_EXIT_CODE = 75  # of a run that a signal stopped, with a checkpoint from which the same command goes on
_USER_ERROR_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130  # of a program that Ctrl-C ended, as shells have it

_STDOUT, _STDERR = 1, 2


class _Help(argparse.HelpFormatter):
    """Shows what each option is without being given, and leaves paragraphs with indented lines as they are."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        takes_a_value = action.option_strings and action.nargs != 0 and not action.required
        if not takes_a_value or "default" in text or action.default is argparse.SUPPRESS:
            return text
        return f"{text} (default: {'none' if action.default in (None, []) else '%(default)s'})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in text.split("\n\n"))


class Parser(argparse.ArgumentParser):
    """Raises ValueError where argparse would print its usage and exit: callers put errors in one line.

    Args:
        example: commands that show how the program is called; ``--help`` ends with them.
    """

    def __init__(self, *, example: str = "", **settings: Any) -> None:
        shown = "".join(f"\n  {line.strip()}" for line in example.strip().splitlines())
        parts = [settings.pop("epilog", None), shown and f"example:{shown}"]
        epilog = "\n\n".join(part for part in parts if part)
        super().__init__(epilog=epilog or None, **{"formatter_class": _Help, **settings})

    @classmethod
    def of(cls, module: str, doc: str | None, **settings: Any) -> "Parser":
        """The parser of a program.

        Args:
            module: as ``python -m`` takes it.
            doc: the program's docstring: a line of what it is for, and below it commands that show how it is called.
        """
        title, example, *_ = [*(doc or "").split("\n\n"), ""]
        name = called_as(module)
        return cls(prog=name, description=title, example=example.replace(f"python -m {module}", name), **settings)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")

    def add_run_arguments(self) -> None:
        """``--config`` and ``--set``, which together name a run."""
        self.add_argument("--config", type=user_path, required=True, help="the run's YAML file")
        self.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="A.B=VALUE",
            help="override one key; may be repeated; the value is YAML, numbers are finite and within bounds",
        )


def called_as(module: str) -> str:
    """What the person typed who started this program: ``python -m MODULE``, or the name of its console script."""
    name = Path(sys.argv[0]).name
    return name if name.startswith("pss-") else f"python -m {module}"


@contextmanager
def stdout_apart(to: int = _STDERR) -> Iterator[None]:
    """Inside, what anything writes to standard output goes to stderr: libraries, their loggers, other processes.

    Args:
        to: another file descriptor that it goes to.
    """
    if sys.stdout is None or sys.stderr is None:  # closed by whoever started this
        yield
        return
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    os.dup2(to, _STDOUT)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)


@contextmanager
def interruptible(how_on: str = "") -> Iterator[None]:
    """Ctrl-C inside is one line on stderr, of the first rank and no worker process, and exit code 130.

    So is an import for which DALI is missing, with exit code 2.

    Args:
        how_on: for the line, how to go on.

    Raises:
        SystemExit: with code 130, or 2.
    """
    try:
        yield
    except ImportError as error:
        if (told := without_dali(error)) is None:
            raise
        _say_once(told)
        raise SystemExit(_USER_ERROR_EXIT_CODE) from None
    except KeyboardInterrupt:
        _say_once(f"interrupted{how_on and '; '}{how_on}")
        raise SystemExit(INTERRUPTED_EXIT_CODE) from None


def _say_once(text: str) -> None:
    if os.environ.get("RANK", "0") == "0" and parent_process() is None:
        print(f"error: {text}", file=sys.stderr, flush=True)


@contextmanager
def importing() -> Iterator[None]:
    """Around the imports of a program that shows something, which take seconds: they are silent, and interruptible.

    DeepSpeed remarks on standard output that there is no GPU, which is no matter where none is used; and there results
    for programs stand, on stderr one line for an error.
    """
    with interruptible(), open(os.devnull, "w") as nowhere, stdout_apart(nowhere.fileno()):
        yield


def leave(code: int) -> NoReturn:
    """End the program with this exit code. Ctrl-C changes nothing about it while libraries unload."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)
