"""GPUs that whoever started a run has hidden stay hidden from its ranks. Light to import: it goes before torch.

``deepspeed`` numbers the ranks of a machine in ``CUDA_VISIBLE_DEVICES``, also where that was empty and it starts them
on the processor: so they would see the GPUs after all.
"""

import os
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from engine.ranks.launchers import is_launch, is_runner
from engine.ranks.processes import ancestors, command_line
from pipeline.installed import hides_gpus


def keep_gpus_hidden() -> None:
    """Hide the GPUs from this process, and tell DeepSpeed so, where a launcher above it was not to use them.

    To be called before anything has started CUDA. Where the GPUs are not hidden it does nothing.
    """
    hide_as_asked(os.environ, launcher_environments([process.pid for process in ancestors()]))


def hide_as_asked(environment: MutableMapping[str, str], launchers: Sequence[Mapping[str, str]]) -> None:
    """Make the environment of a rank say that the processor is meant, in both words, where any says so.

    Args:
        launchers: the environments that the launchers above the rank were started with; none without a launcher.
    """
    if environment.get("DS_ACCELERATOR") == "cpu" or any(map(hides_gpus, [environment, *launchers])):
        environment.update(CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu")


def launcher_environments(above: Sequence[int], proc: Path = Path("/proc")) -> list[dict[str, str]]:
    """What the processes of ``deepspeed`` above a rank were started with, as far as they are to be seen.

    Args:
        above: the numbers of the rank's ancestors, its parent first.
    """
    commands = [command_line(pid) for pid in above[:2]]
    if not commands or not is_launch(commands[0]):
        return []
    num_launchers = 2 if len(commands) == 2 and is_runner(commands[1]) else 1
    return [_environment(proc / str(pid) / "environ") for pid in above[:num_launchers]]


def _environment(path: Path) -> dict[str, str]:
    try:
        entries = path.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return {name: value for name, _, value in (entry.partition("=") for entry in entries) if name}
