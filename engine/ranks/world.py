"""The processes of a run: who this one is, and how they all agree to stop."""

import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from engine.ranks.devices import check_gpus, check_has_gpu, describe_device, take_share
from engine.ranks.hidden_gpus import keep_gpus_hidden
from engine.ranks.numa import Share
from engine.ranks.rendezvous import USER_ERROR_EXIT_CODE, Place, meeting, read_place
from pipeline.cores import allowed_cores, loader_threads
from pipeline.told import tell_once

# How long ranks wait for each other, when they meet and in every collective. A rank that dies is noticed within seconds
# and one that stalls is named after engine.stall_report_s, so this is only for a machine that vanishes from the network
# without closing its connections. It must not end a healthy run whose other ranks wait for one of them: to import
# everything from cold shared storage, to open a large data set, to convert a checkpoint, to export. DeepSpeed's own
# variable, in minutes, overrides it.
COLLECTIVE_TIMEOUT_S = 60 * float(os.environ.get("DEEPSPEED_TIMEOUT", "15"))

_TIMES_TO_OPEN = 3
_THREADS_BESIDE_A_GPU = 4  # of torch: what is left to the processor there is little, and the loader needs its cores

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among the processes of the run.

    Attributes:
        local_rank, local_size: among the processes on this machine.
        device: where the model lives.
        hosts: the host name of every rank, in rank order.
        devices: what every rank computes on, for people, in rank order; empty where nobody asked.
        share: what of this machine's cores is the rank's own; None: an even part of them.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    hosts: tuple[str, ...]
    devices: tuple[str, ...] = ()
    share: Share | None = None

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
        return self.share.cores if self.share else max(1, allowed_cores() // self.local_size)

    @property
    def loader_threads(self) -> int:
        """Decoding threads, where the configuration names no number."""
        return loader_threads(self.cores)

    @property
    def trainer_threads(self) -> int:
        """Threads that torch computes with on the processor, where the configuration names no number."""
        return self.cores if self.device.type == "cpu" else min(self.cores, _THREADS_BESIDE_A_GPU)


def join_world(found: str | None = None) -> World:
    """Meet the other ranks. Without a launcher's environment variables the run is this process alone.

    Args:
        found: what ``look_first`` has found wrong on this rank, which the ranks will find again and tell together.

    Raises:
        SystemExit: with code 2 and one line on stderr, for variables that say no place, for a GPU that is here and does
            not work, for more ranks than GPUs, or if the ranks did not meet.
    """
    keep_gpus_hidden()
    _check_gpus_work()
    place = _find_place()
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    _check_has_gpu(place, num_gpus)
    # DeepSpeed's shared-memory all-reduce for CPUs is a C++ extension, compiled for a minute at first use, that leaves
    # segments behind when a rank is killed. Gloo does the same work; CPU runs are for trying things out.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cpu")
    if num_gpus:
        device = torch.device("cuda", place.local_rank)
        torch.cuda.set_device(device)
    share = take_share(place, device)
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    # Groups made later, most of them by DeepSpeed's ZeRO, take torch's own limit, half an hour for gloo, unless that is
    # changed: when the network fails it is one of these groups in which ranks wait.
    distributed_c10d.default_pg_timeout = timeout
    distributed_c10d.default_pg_nccl_timeout = timeout
    with meeting(COLLECTIVE_TIMEOUT_S, found):
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timeout)
        size = dist.get_world_size()
        found_on: list[tuple[str, str]] = [("", "")] * size
        dist.all_gather_object(found_on, (socket.gethostname(), describe_device(device, share)))
    return World(
        rank=dist.get_rank(),
        size=size,
        local_rank=place.local_rank,
        local_size=place.local_size,
        device=device,
        hosts=tuple(host for host, _ in found_on),
        devices=tuple(text for _, text in found_on),
        share=share,
    )


def _check_gpus_work() -> None:
    try:
        check_gpus()
    except ValueError as error:
        tell_once(f"error: {error}")  # the same on every rank of this host
        sys.exit(USER_ERROR_EXIT_CODE)


def _check_has_gpu(place: Place, num_gpus: int) -> None:
    try:
        check_has_gpu(place, num_gpus)
    except ValueError as error:
        if place.local_rank == num_gpus:  # the first of those of this host that have none
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_EXIT_CODE)


def _find_place() -> Place:
    try:
        place = read_place(os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_EXIT_CODE)
    if place is not None:
        return place
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_SIZE="1", MASTER_ADDR="127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    return Place()


def leave_world() -> None:
    """Part from the other ranks, once all are done."""
    dist.barrier()
    dist.destroy_process_group()


class AgreedExit(SystemExit):
    """Every rank ends with this exit code at this place, and one of them has said why."""


def end_together(world: World, why: str, code: int) -> NoReturn:
    """End every rank with one error line, the first rank's. Collective.

    Raises:
        AgreedExit: with this code.
    """
    if world.is_first:
        print(f"error: {why}", file=sys.stderr, flush=True)
    dist.barrier()  # nobody leaves before the message is out: a launcher ends all ranks when one ends
    raise AgreedExit(code) from None


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
        text = f"{where}{text}"
    end_together(world, text, code)


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


def open_group(world: World) -> Any:
    """A further group of all ranks, over gloo, for exchanges beside those of the default group. Collective.

    Connecting fails now and then on a busy host; then all ranks drop what they have and try again together.

    Raises:
        RuntimeError: on every rank, if it failed on some rank each time.
    """
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    problem: RuntimeError | None = None
    for _ in range(_TIMES_TO_OPEN):
        group: Any = None
        try:
            # Also where it fails, this takes the next number for the group's name: it stays the same on all ranks.
            group = dist.new_group(backend="gloo", timeout=timeout)
        except RuntimeError as error:
            problem = error
        if not agree(world, group is None):
            return group
        if group is not None:
            dist.destroy_process_group(group)
    raise RuntimeError(f"the ranks could not open a group among them in {_TIMES_TO_OPEN} attempts") from problem


def close_group(group: Any) -> None:
    """Part with a group that ``open_group`` opened, once no rank waits in it any more. Collective."""
    dist.barrier()
    dist.destroy_process_group(group)


def agree(world: World, flag: bool) -> bool:
    """True on every rank if it is true on any."""
    votes = torch.tensor([int(flag)], device=world.device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes.item())
