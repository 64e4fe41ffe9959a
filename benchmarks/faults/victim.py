"""engine.train with a fault in one rank, at an exact place of the program.

    FAULT='{"rank": 1, "at": "in a step", "number": 25, "do": "kill"}' deepspeed ... --module benchmarks.faults.victim

``at`` names a place, ``number`` at which time that the rank comes there (1 is the first), ``do`` what happens then.
"""

import importlib
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Place: module and name of the function before whose call it lies. Inner names are those the callers use.
PLACES = {
    "before a step": ("engine.trainer", "train_step"),
    "in a step": ("engine.trainer", "training_loss"),
    "in an evaluation": ("engine.task", "topk_correct"),
    "before a rank writes its part": ("engine.checkpoints.checkpoint", "write_state"),
    "in a rank's part": ("torch", "save"),
    "before the manifest": ("engine.checkpoints.checkpoint", "write_manifest"),
    "in the manifest": ("engine.checkpoints.manifest", "_digest"),
    "before the manifest is renamed": ("pathlib.Path", "replace"),
    "before the pointer": ("engine.checkpoints.checkpoint", "write_json"),
    "before pruning": ("engine.checkpoints.checkpoint", "remove_superseded"),
    "in the export": ("engine.result", "export_model"),
}


def kill(_: dict[str, Any]) -> None:
    """As kill -9, or the kernel when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(_: dict[str, Any]) -> None:
    """An error that nobody thought of."""
    raise ArithmeticError("an error that nobody thought of")


def fill_disk(fault: dict[str, Any]) -> None:
    """Leave no room on the file system of the checkpoints, once the other rank has written its part."""
    time.sleep(2)
    with Path(fault["ballast"]).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def limit_files(fault: dict[str, Any]) -> None:
    """Let no file of this process grow past a size, as a quota does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault["num_bytes"], fault["num_bytes"]))


DEEDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "kill": kill,
    "fail": fail,
    "fill disk": fill_disk,
    "limit files": limit_files,
}


def prepare(fault: dict[str, Any]) -> None:
    """Put the fault in its place."""
    owner, name = PLACES[fault["at"]]
    module: Any = Path if owner == "pathlib.Path" else importlib.import_module(owner)
    original, count = getattr(module, name), 0

    def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        if module is not Path or "manifest.json" in args[0].name:
            count += 1
        if count == fault["number"]:
            if fault["at"] == "in a rank's part":
                args[1].write(bytes(100))  # the file is begun
            DEEDS[fault["do"]](fault)
        return original(*args, **kwargs)

    setattr(module, name, faulty)


if __name__ == "__main__":
    from engine import train

    given = json.loads(os.environ["FAULT"])
    if given["rank"] == int(os.environ["RANK"]):
        prepare(given)
    train.main()
