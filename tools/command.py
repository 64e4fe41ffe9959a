"""How the tools that show something about a run end: text on stdout, or one line on stderr and exit code 2."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from engine.command_line import Parser
from pipeline.files import user_path


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
    """Print what ``make_text`` returns. Returns the exit code: 0, or 2 for a user's error."""
    try:
        text = make_text()
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
