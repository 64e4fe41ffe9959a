"""How the tools that show something about a run end: text on stdout, or one line on stderr and exit code 2 or 130."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from engine.command_line import INTERRUPTED_EXIT_CODE, Parser, stdout_apart
from pipeline.files import user_path
from pipeline.installed import without_dali


def add_picture_argument(parser: Parser, text: str, name: str = "--png") -> None:
    """``--png FILE``, checked before anything is computed."""
    parser.add_argument(name, type=_picture, metavar="FILE", help=text)


def _picture(name: str) -> Path:
    path = user_path(name)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"this writes a .png file, got {path}")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {path.parent} does not exist, so {path.name} cannot be written")
    return path


def bar_interval_s() -> float:
    """Seconds between two states of a progress bar: lively on a terminal, sparse in a log file."""
    return 0.1 if sys.stderr.isatty() else 10.0


def show(make_text: Callable[[], str]) -> int:
    """Print what ``make_text`` returns, and nothing else on standard output.

    Returns the exit code: 0, 2 for a user's error, or 130 for Ctrl-C.
    """
    try:
        with stdout_apart(), dali_named():
            text = make_text()
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    _put(f"{text}\n")
    return 0


@contextmanager
def dali_named() -> Iterator[None]:
    """An import inside that fails because DALI is missing is a ValueError that says what to install."""
    try:
        yield
    except ImportError as error:
        if (told := without_dali(error)) is None:
            raise
        raise ValueError(told) from None


@contextmanager
def only_printed() -> Iterator[None]:
    """What is printed with ``print`` inside is put on standard output in the end, and nothing else is.

    What other processes and libraries of other languages write there goes to stderr.
    """
    printed = io.StringIO()
    try:
        with stdout_apart(), redirect_stdout(printed):
            yield
    finally:
        _put(printed.getvalue())


def _put(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
