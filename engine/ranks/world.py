"""The processes of a run: who this one is, and how they all agree to stop."""

import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from engine.ranks.rendezvous import USER_ERROR_EXIT_CODE, meeting

# How long ranks wait for each other, when they meet and in every collective. A rank that dies is noticed within seconds
# and one that stalls is named after engine.stall_report_s, so this is only for a machine that vanishes from the network
# without closing its connections. It must not end a healthy run whose other ranks wait for one of them: to import
# everything from cold shared storage, to open a large data set, to convert a checkpoint, to export. DeepSpeed's own
# variable, in minutes, overrides it.
COLLECTIVE_TIMEOUT_S = 60 * float(os.environ.get("DEEPSPEED_TIMEOUT", "15"))

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among the processes of the run.

    Attributes:
        local_rank, local_size: among the processes on this machine.
        device: where the model lives.
        hosts: the host name of every rank, in rank order.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    hosts: tuple[str, ...]

    def name(self, rank: int) -> str:
        """A rank as messages speak of it: ``rank 3 (host-b)``."""
        return f"rank {rank} ({self.hosts[rank]})"

    @property
    def is_first(self) -> bool:
        """Whether this rank writes and speaks for all. Who does so gets the world and asks; on others it is silent."""
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
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_rank)
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    # Groups made later, most of them by DeepSpeed's ZeRO, take torch's own limit, half an hour for gloo, unless that is
    # changed: when the network fails it is one of these groups in which ranks wait.
    distributed_c10d.default_pg_timeout = timeout
    distributed_c10d.default_pg_nccl_timeout = timeout
    with meeting(COLLECTIVE_TIMEOUT_S):
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timeout)
        size = dist.get_world_size()
        hosts: list[str] = [""] * size
        dist.all_gather_object(hosts, socket.gethostname())
    return World(
        rank=dist.get_rank(),
        size=size,
        local_rank=local_rank,
        local_size=int(os.environ.get("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", size))),
        device=torch.device("cuda", local_rank) if on_gpu else torch.device("cpu"),
        hosts=tuple(hosts),
    )


def leave_world() -> None:
    """Part from the other ranks, once all are done."""
    dist.barrier()
    dist.destroy_process_group()


class AgreedExit(SystemExit):
    """Every rank ends with this exit code at this place, and one of them has said why."""


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
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        where = "" if len(found) == world.size else f"{world.name(rank)}{others}: "
        print(f"error: {where}{text}", file=sys.stderr, flush=True)
    dist.barrier()  # nobody leaves before the message is out: a launcher ends all ranks when one ends
    raise AgreedExit(code)


def on_first_rank(world: World, work: Callable[[], T]) -> T:
    """What ``work`` returns on the first rank, on every rank. Collective.

    Raises:
        ValueError: on every rank, with the same message, if ``work`` raised a ValueError or OSError.
        RuntimeError: on every rank, with the traceback, if it raised anything else.
    """
    outcome: list[tuple[T | None, str | None, bool] | None] = [None]
    if world.is_first:
        try:
            outcome = [(work(), None, True)]
        except (ValueError, OSError) as error:
            outcome = [(None, str(error), True)]
        except Exception:
            outcome = [(None, traceback.format_exc().rstrip(), False)]
    dist.broadcast_object_list(outcome, src=0)
    assert outcome[0] is not None
    value, problem, is_users = outcome[0]
    if problem is not None:
        raise ValueError(problem) if is_users else RuntimeError(problem)
    return value  # type: ignore[return-value]


def agree(world: World, flag: bool) -> bool:
    """True on every rank if it is true on any."""
    votes = torch.tensor([int(flag)], device=world.device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes.item())
