"""The processes of a run: who this one is, and how they all agree to stop."""

import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist

USER_ERROR_EXIT_CODE = 2

# How long ranks wait for each other, when they meet and in every collective. A rank that dies is noticed within seconds
# and one that stalls is named after engine.stall_report_s, so this is only for a machine that vanishes from the network
# without closing its connections. It must not end a healthy run whose other ranks wait for one of them: to import
# everything from cold shared storage, to open a large data set, to convert a checkpoint, to export. DeepSpeed's own
# variable, in minutes, overrides it.
COLLECTIVE_TIMEOUT_S = 60 * float(os.environ.get("DEEPSPEED_TIMEOUT", "15"))


@dataclass(frozen=True)
class World:
    """This process among the processes of the run.

    Attributes:
        local_rank, local_size: among the processes on this machine.
        device: where the model lives.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def cores(self) -> int:
        """Processor cores this rank may call its own."""
        return max(1, len(os.sched_getaffinity(0)) // self.local_size)


def join_world() -> World:
    """Meet the other ranks. Without a launcher's environment variables the run is this process alone."""
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_SIZE="1", MASTER_ADDR="127.0.0.1")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    # DeepSpeed's shared-memory all-reduce for CPUs is a C++ extension, compiled for a minute at first use, that leaves
    # segments behind when a rank is killed. Gloo does the same work; CPU runs are for trying things out.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    size = dist.get_world_size()
    return World(
        rank=dist.get_rank(),
        size=size,
        local_rank=local_rank,
        local_size=int(os.environ.get("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", size))),
        device=torch.device("cuda", local_rank) if on_gpu else torch.device("cpu"),
    )


def leave_world() -> None:
    """Part from the other ranks, once all are done."""
    dist.barrier()
    dist.destroy_process_group()


@contextmanager
def one_clear_error(world: World) -> Iterator[None]:
    """Turn a user's error on any rank into one line from the first rank and exit code 2 on all of them.

    Any other exception becomes its traceback, from the first rank too, and exit code 1.
    Every rank must pass through, so nothing collective may happen inside.
    """
    problem: tuple[str, int] | None = None
    try:
        yield
    except (ValueError, OSError) as error:
        problem = str(error), USER_ERROR_EXIT_CODE
    except Exception as error:
        problem = "".join(traceback.format_exception(error)).rstrip(), 1
    problems: list[tuple[str, int] | None] = [None] * world.size
    dist.all_gather_object(problems, problem)
    found = [(rank, *problem) for rank, problem in enumerate(problems) if problem is not None]
    if not found:
        return
    rank, text, code = found[0]
    if world.is_first:
        where = "" if len(found) == world.size else f"rank {rank}: "
        print(f"error: {where}{text}", file=sys.stderr, flush=True)
    dist.barrier()  # nobody leaves before the message is out: a launcher ends all ranks when one ends
    sys.exit(code)


def agree(world: World, flag: bool) -> bool:
    """True on every rank if it is true on any."""
    votes = torch.tensor([int(flag)], device=world.device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes.item())
