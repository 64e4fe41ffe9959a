"""Several runs one after another in the same ranks: a test pays for the start of the processes once.

    deepspeed ... tests/engine/runs_in_one_launch.py JOBS RESULTS

JOBS is a JSON list; RESULTS gets the list of exit codes. A job is a command line of engine.train, or one of

    {"argv": [...], "signal": "SIGTERM", "rank": 1, "after_steps": 5}    a run of which one rank gets a signal
    {"argv": [...], "lr": 1e300}     a run at a learning rate that no configuration takes
    {"argv": [...], "seen": FILE}    each rank adds to FILE.RANK a line [step, row, sample id] for each it saw
    ["flip-a-byte", FILE]            in the middle of the file
    ["remove", FILE]
    ["limit-files", BYTES, RANK]     no file that this rank writes may grow past BYTES; -1 lifts the limit
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch.distributed as dist

from engine.config import RunConfig
from engine.metrics import read_metrics
from engine.optim import set_learning_rate
from engine.ranks.launchers import Launchers
from engine.ranks.world import World, join_world, leave_world
from engine.task import Outcome, training_outcome
from engine.train import train_run
from pipeline.batch import Batch


def flip_a_byte(world: World, name: str) -> None:
    if world.is_first:
        content = bytearray(Path(name).read_bytes())
        content[len(content) // 2] ^= 1
        Path(name).write_bytes(content)


def remove(world: World, name: str) -> None:
    if world.is_first:
        Path(name).unlink()


def limit_files(world: World, num_bytes: str, rank: str) -> None:
    if world.rank == int(rank):
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(num_bytes), hard))


ACCIDENTS = {"flip-a-byte": flip_a_byte, "remove": remove, "limit-files": limit_files}


def signal_self(number: signal.Signals, folder: Path, after_steps: int) -> None:
    while len(read_metrics(folder / "metrics.jsonl")) < after_steps:
        time.sleep(0.02)
    os.kill(os.getpid(), number)


@contextmanager
def at_rate(lr: float | None) -> Iterator[None]:
    def fixed(optimizer: Any, planned: float) -> None:
        set_learning_rate(optimizer, planned if lr is None else lr)

    with patch("engine.trainer.set_learning_rate", fixed):
        yield


@contextmanager
def noting_samples(file: str | None, world: World) -> Iterator[None]:
    if file is None:
        yield
        return
    with open(f"{file}.{world.rank}", "a") as lines:

        def noted(model: Any, batch: Batch, config: RunConfig) -> Outcome:
            for row, one in enumerate(batch.plan.sample_ids, start=batch.plan.first_row):
                lines.write(f"[{batch.plan.step}, {row}, {one}]\n")
            return training_outcome(model, batch, config)

        with patch("engine.trainer.training_outcome", noted):
            yield


def main() -> None:
    jobs, results = Path(sys.argv[1]), Path(sys.argv[2])
    launchers = Launchers()
    world = join_world()
    codes = []
    for job in json.loads(jobs.read_text()):
        more = job if isinstance(job, dict) else {}
        argv = more.get("argv", job)
        if more.get("rank") == world.rank:
            folder = Path(argv[argv.index("--out") + 1])
            what = (signal.Signals[more["signal"]], folder, more["after_steps"])
            threading.Thread(target=signal_self, args=what, daemon=True).start()
        try:
            if argv[0] in ACCIDENTS:
                ACCIDENTS[argv[0]](world, *argv[1:])
                dist.barrier()
                codes.append(0)
            else:
                with at_rate(more.get("lr")), noting_samples(more.get("seen"), world):
                    codes.append(train_run(argv, world, launchers))
        except SystemExit as stop:
            codes.append(stop.code)
    if world.is_first:
        results.write_text(json.dumps(codes))
    leave_world()


main()
