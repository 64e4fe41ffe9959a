"""Several runs one after another in the same ranks: a test pays for the start of the processes once.

    deepspeed ... tests/engine/runs_in_one_launch.py JOBS RESULTS

JOBS is a JSON list of command lines of engine.train; RESULTS gets the list of their exit codes.
"""

import json
import sys
from pathlib import Path

from engine.ranks import join_world, leave_world
from engine.train import train_run


def main() -> None:
    jobs, results = Path(sys.argv[1]), Path(sys.argv[2])
    world = join_world()
    codes = []
    for argv in json.loads(jobs.read_text()):
        try:
            codes.append(train_run(argv, world))
        except SystemExit as stop:
            codes.append(stop.code)
    if world.is_first:
        results.write_text(json.dumps(codes))
    leave_world()


main()
