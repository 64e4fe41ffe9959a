"""Commands as a user gives them: from the project's root, in a shell with its virtual environment active."""

import os
import socket
import sys
from pathlib import Path

from engine.ranks.hidden_gpus import hide_as_asked

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """The environment of a shell in which the project's virtual environment is active. Hidden GPUs stay hidden."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    hide_as_asked(found, [])
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_of(ranks: int, *arguments: str | Path) -> list[str]:
    """``deepspeed ARGUMENTS`` on so many ranks of this machine, at a free port."""
    command = ["deepspeed", "--quiet", "--no_local_rank", "--num_accelerators", str(ranks)]
    return [*command, "--master_port", str(free_port()), *map(str, arguments)]
