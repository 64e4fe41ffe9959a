"""Several runs one after another in the same ranks: a test pays for the start of the processes once.

    deepspeed ... tests/engine/runs_in_one_launch.py JOBS RESULTS

JOBS is a JSON list of command lines of engine.train, or of ``{"argv": [...], "signal": "SIGTERM", "rank": 1,
"after_steps": 5}`` for a run of which one rank gets a signal; RESULTS gets the list of their exit codes.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from engine.launchers import Launchers
from engine.metrics import read_metrics
from engine.ranks import join_world, leave_world
from engine.train import train_run


def signal_self(number: signal.Signals, folder: Path, after_steps: int) -> None:
    while len(read_metrics(folder / "metrics.jsonl")) < after_steps:
        time.sleep(0.02)
    os.kill(os.getpid(), number)


def main() -> None:
    jobs, results = Path(sys.argv[1]), Path(sys.argv[2])
    launchers = Launchers()
    world = join_world()
    codes = []
    for job in json.loads(jobs.read_text()):
        argv = job if isinstance(job, list) else job["argv"]
        if isinstance(job, dict) and job["rank"] == world.rank:
            folder = Path(argv[argv.index("--out") + 1])
            what = (signal.Signals[job["signal"]], folder, job["after_steps"])
            threading.Thread(target=signal_self, args=what, daemon=True).start()
        try:
            codes.append(train_run(argv, world, launchers))
        except SystemExit as stop:
            codes.append(stop.code)
    if world.is_first:
        results.write_text(json.dumps(codes))
    leave_world()


main()
