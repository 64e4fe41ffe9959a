"""What a profile leaves besides its table: its progress on stderr, and the files that its command line asks for."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from engine.config import RunConfig
from engine.ranks.hardware import describe_hardware
from engine.ranks.world import World
from tools.profile.plot import draw
from tools.profile.result import Profile
from tools.profile.trace import write_traces


def progress(bar: tqdm, world: World) -> Callable[[str], None]:
    """Tells the first rank's terminal, or whatever else its stderr is, how far the profile has come."""

    def advance(text: str) -> None:
        bar.set_postfix_str(text, refresh=False)
        bar.update()
        if world.is_first and bar.disable:
            print(text, file=sys.stderr, flush=True)

    return advance


def write(
    profile: Profile,
    traces: list[dict[str, Any]],
    options: argparse.Namespace,
    argv: Sequence[str],
    world: World,
    config: RunConfig,
) -> None:
    """The files that the command line asks for.

    Args:
        config: what was profiled, which a prediction from ``--json`` is held against.
        traces: events for ``--trace``, of every rank.
    """
    if options.trace is not None:
        write_traces(traces, options.trace)
    if options.png is not None:
        draw(profile, options.png)
    if options.json is None:
        return
    result = {
        "command": command(argv, world),
        "hardware": describe_hardware(),
        "seconds": options.seconds,
        "repeats": options.repeats,
        "hosts": len(set(world.hosts)),
        "config": config.model_dump(mode="json"),
        **profile.as_json(),
    }
    options.json.write_text(json.dumps(result, indent=2) + "\n")


def command(argv: Sequence[str], world: World) -> str:
    """The command line that starts such a profile again on one machine."""
    launched = f"deepspeed --no_local_rank --num_accelerators {world.local_size} --module"
    return f"{'python -m' if world.size == 1 else launched} tools.profile {shlex.join(argv)}"
