"""Several runs one after another in the same ranks; what each prints follows a line of its own.

    deepspeed ... benchmarks/faults/resumes.py JOBS CODES

JOBS is a JSON list of command lines of engine.train; the exit code of each is added to CODES as soon as it is known.
"""

import json
import sys
from pathlib import Path

import torch.distributed as dist

from engine.ranks.world import join_world, leave_world
from engine.train import train_run


def main() -> None:
    jobs, codes = Path(sys.argv[1]), Path(sys.argv[2])
    world = join_world()
    for argv in json.loads(jobs.read_text()):
        dist.barrier()
        if world.is_first:
            print("@@ next run", flush=True)
        try:
            code: str | int | None = train_run(argv, world)
        except SystemExit as stop:
            code = stop.code
        sys.stderr.flush()
        if world.is_first:
            with codes.open("a") as file:
                file.write(f"{code or 0}\n")
    leave_world()


main()
