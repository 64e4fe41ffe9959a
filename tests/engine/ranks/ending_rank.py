"""Two ranks of a run, of which the second is killed, or fails, or both fail.

    RANK=... WORLD_SIZE=2 ... python tests/engine/ranks/ending_rank.py RUN_FOLDER killed|failing|both-failing

Else the first hangs where no Python code runs for a signal, as in a collective of NCCL's.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist

from engine.ranks.watch import Watch
from engine.ranks.world import join_world


def main() -> None:
    world = join_world()
    with Watch(world, Path(sys.argv[1]), stop_grace_s=300, stall_report_s=300) as watch:
        watch.enter("step", 7)
        if world.is_first and sys.argv[2] != "both-failing":
            mutex, c_library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
            c_library.pthread_mutex_lock(mutex)
            c_library.pthread_mutex_lock(mutex)
        if sys.argv[2] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[2] == "both-failing":
            dist.barrier()  # else one may be gone before the other is through joining it
        raise LookupError("nothing was found")


main()
