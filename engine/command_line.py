"""What the command lines of a run and of the tools about runs have in common."""

import argparse
from typing import NoReturn

from pipeline.files import user_path

STOPPED_EXIT_CODE = 75  # of a run that a signal stopped, with a checkpoint from which the same command goes on


class Parser(argparse.ArgumentParser):
    """Raises ValueError where argparse would print its usage and exit: callers put errors in one line."""

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
            help="override one key; may be repeated; the value is YAML",
        )
