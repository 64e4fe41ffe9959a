"""How the tools that show something about a run end: text on stdout, or one line on stderr and exit code 2 or 130."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TypeVar

from engine.command_line import INTERRUPTED_EXIT_CODE, Parser, interruptible, stdout_apart
from pipeline.files import user_path
from pipeline.installed import without_dali

T = TypeVar("T")

_STDOUT = 1


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


def answer(parse: Callable[[], T], make_text: Callable[[T], str]) -> int:
    """``show`` what ``make_text`` makes of the command line that ``parse`` reads. Help goes to standard output."""
    try:
        with interruptible():
            options = parse()
    except (ValueError, OSError) as error:
        return told(error)
    return show(lambda: make_text(options))


def show(make_text: Callable[[], str]) -> int:
    """Print what ``make_text`` returns, and nothing else on standard output.

    Returns the exit code: 0, 2 for a user's error, or 130 for Ctrl-C.
    """
    try:
        with stdout_apart(), dali_named():
            text = make_text()
    except (ValueError, OSError) as error:
        return told(error)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    _put(f"{text}\n")
    return 0


def told(error: ValueError | OSError) -> int:
    """Tell a user's error in one line, however many a library has made of it. Returns the exit code."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


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


@contextmanager
def lines_out() -> Iterator[Callable[[str], None]]:
    """Gives what puts a line on standard output at once; whatever else is written there inside goes to stderr.

    Raises:
        BrokenPipeError: whoever reads, such as head, has seen enough.
    """
    # Names of files may hold bytes that are no text.
    with open(os.dup(_STDOUT), "w", buffering=1, encoding="utf-8", errors="backslashreplace") as out, stdout_apart():
        yield lambda line: print(line, file=out)


def _put(text: str) -> None:
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
