"""Several runs one after another in the same ranks: a test pays for the start of the processes once.

    deepspeed ... tests/engine/runs_in_one_launch.py JOBS RESULTS

JOBS is a JSON list of command lines of engine.train; RESULTS gets the list of their exit codes. Accidents can happen
between the runs: a job can also be one of

    ["flip-a-byte", FILE]            in the middle of the file
    ["remove", FILE]
    ["limit-files", BYTES, RANK]     no file that this rank writes may grow past BYTES; -1 lifts the limit
"""

import json
import resource
import sys
from pathlib import Path

import torch.distributed as dist

from engine.ranks import World, join_world, leave_world
from engine.train import train_run


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


def main() -> None:
    jobs, results = Path(sys.argv[1]), Path(sys.argv[2])
    world = join_world()
    codes = []
    for argv in json.loads(jobs.read_text()):
        try:
            if argv[0] in ACCIDENTS:
                ACCIDENTS[argv[0]](world, *argv[1:])
                dist.barrier()
            else:
                train_run(argv, world)
            codes.append(0)
        except SystemExit as stop:
            codes.append(stop.code)
    if world.is_first:
        results.write_text(json.dumps(codes))
    leave_world()


main()
