"""Several runs one after another in the same ranks on two hosts, the second host prepared for each one.

    deepspeed ... benchmarks/shared/runs_on_two_hosts.py JOBS RESULTS

JOBS is a JSON list of {"argv": engine.train's arguments, "before": shell, "after": shell}, the shell commands run on
host-b around the run; RESULTS/HOST.json gets the list of exit codes as that host's rank saw them.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import torch.distributed as dist

from engine.ranks import preflight
from engine.ranks.world import join_world, leave_world
from engine.train import train_run


def main() -> None:
    jobs, results = Path(sys.argv[1]), Path(sys.argv[2])
    preflight.VISIBLE_WITHIN_S = 1.0  # both hosts see the same file system, without any cache in between
    host = socket.gethostname()
    world = join_world()
    codes: list[str | int | None] = []
    for job in json.loads(jobs.read_text()):
        if host == "host-b":
            subprocess.run(["bash", "-ec", job["before"]], check=True)
        dist.barrier()
        try:
            codes.append(train_run(job["argv"], world) or 0)
        except SystemExit as stop:
            codes.append(stop.code)
        dist.barrier()
        if host == "host-b":
            subprocess.run(["bash", "-ec", job["after"]], check=True)
    (results / f"{host}.json").write_text(json.dumps(codes))
    leave_world()


main()
