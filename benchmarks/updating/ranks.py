"""Several runs one after another in the same ranks, so that the start of the processes is paid once.

    deepspeed --no_local_rank --num_accelerators 2 --module benchmarks.updating.ranks JOBS

JOBS is a JSON list of command lines of engine.train, each with its ``--out``. A run that is finished is left alone, one
that had begun goes on. The exit code is that of the first run that does not come to its end.
"""

import json
import sys
from pathlib import Path

from engine.deepspeed_engine import quiet
from engine.ranks.launchers import Launchers
from engine.ranks.world import join_world, leave_world
from engine.train import train_run


def main(jobs: Path) -> int:
    """Train what is not finished, on every rank."""
    quiet()
    launchers = Launchers()
    world = join_world()
    for argv in json.loads(jobs.read_text()):
        if (Path(argv[argv.index("--out") + 1]) / "summary.json").exists():
            continue
        code = train_run(argv, world, launchers)
        if code:
            return code
    leave_world()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
