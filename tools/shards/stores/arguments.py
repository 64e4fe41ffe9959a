"""Places on a command line."""

import argparse
from pathlib import Path

from pipeline.addresses import Address, place


def place_argument(text: str) -> Path | Address:
    """A folder on a disk or its address in a store, for a command line; a wrong one is told without secrets."""
    try:
        return place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
