"""Runs of which every update is counted, one after another in one process.

    python tests/engine/counted_updates.py JOBS RESULTS

JOBS is a JSON object of command lines of engine.train by name; RESULTS gets an object by the same names:

    {"updates": [COUNTS, ...], "steps": [COUNTS, ...]}

A list has an entry for each step of the run. ``updates`` are those of clipping and DeepSpeed's step together, ``steps``
those of DeepSpeed's step alone. COUNTS are {"operations": ..., "waits": ..., "logged": whether numbers are asked for}.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from deepspeed import DeepSpeedEngine
from torch.utils._python_dispatch import TorchDispatchMode

import engine.trainer
from engine.ranks.world import join_world, leave_world
from engine.train import train_run
from engine.update import update_weights

# What makes the host wait for the device, or would on one: a number is read, or a shape depends on numbers.
WAITS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "unique")


class Counting(TorchDispatchMode):
    """Counts every operation that torch dispatches, views and all."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name.rpartition("::")[2]] += 1
        return func(*args, **(kwargs or {}))

    def found(self, logged: bool) -> dict[str, int | bool]:
        waits = sum(self.counts[name] for name in WAITS)
        return {"operations": self.counts.total(), "waits": waits, "logged": logged}


def counted(work: Callable[..., Any], into: list[dict[str, int | bool]]) -> Callable[..., Any]:
    def counting(*args: Any, **kwargs: Any) -> Any:
        with Counting() as mode:
            result = work(*args, **kwargs)
        into.append(mode.found(bool(kwargs.get("measure"))))
        return result

    return counting


def main() -> None:
    jobs, results = Path(sys.argv[1]), Path(sys.argv[2])
    world = join_world()
    found = {}
    for name, argv in json.loads(jobs.read_text()).items():
        updates: list[dict[str, int | bool]] = []
        steps: list[dict[str, int | bool]] = []
        with (
            patch.object(engine.trainer, "update_weights", counted(update_weights, updates)),
            patch.object(DeepSpeedEngine, "step", counted(DeepSpeedEngine.step, steps)),
        ):
            assert train_run(argv, world) == 0
        found[name] = {"updates": updates, "steps": steps}
    results.write_text(json.dumps(found))
    leave_world()


main()
