"""Meeting the other ranks of a run: one clear line, and an end, where they do not all come."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from engine.ranks.hidden_gpus import keep_gpus_hidden

USER_ERROR_EXIT_CODE = 2
_GRACE_S = 5.0
_PATIENCE_S = 20.0  # for the first rank, which loads the same libraries at the same time, and has but to come
_ALL = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Where a launcher put this process: among those of its host, and among all. Alone, if it is none's."""

    local_rank: int = 0
    local_size: int = 1
    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def read_place(environment: Mapping[str, str]) -> Place | None:
    """What a launcher's variables say; None without a launcher.

    Where neither LOCAL_SIZE (deepspeed) nor LOCAL_WORLD_SIZE (torchrun) is there, all ranks are on one host.

    Raises:
        ValueError: one that is missing, no number, or outside of what others allow.
    """
    if "RANK" not in environment:
        if environment.get("WORLD_SIZE", "1") != "1":
            raise ValueError(
                f"WORLD_SIZE is {environment['WORLD_SIZE']}, but RANK is not set; {_how_to_start()}. For a run of this "
                "process alone unset WORLD_SIZE"
            )
        return None
    missing = [name for name in _ALL if name not in environment]
    if missing:
        raise ValueError(
            f"RANK is set, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not; {_how_to_start()}"
        )
    size = _number(environment, "WORLD_SIZE", 1)
    rank = _number(environment, "RANK", 0, size - 1)
    _number(environment, "MASTER_PORT", 1, 65535)
    stated = [name for name in ("LOCAL_SIZE", "LOCAL_WORLD_SIZE") if name in environment]
    local_size = _number(environment, stated[0], 1, size) if stated else size
    return Place(_number(environment, "LOCAL_RANK", 0, local_size - 1), local_size, rank, size)


def _number(environment: Mapping[str, str], name: str, least: int, most: int | None = None) -> int:
    text = environment[name]
    allowed = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    value = int(text) if text.isascii() and text.isdigit() else None
    if value is None or value < least or (most is not None and value > most):
        raise ValueError(f"{name} is {text!r}, but must be {allowed}; {_how_to_start()}")
    return value


def _how_to_start() -> str:
    return (
        f"start ranks with deepspeed or tools/cluster, or set {', '.join(_ALL)} and LOCAL_SIZE for each of them; "
        "without RANK a run is one process"
    )


def look_first(look: Callable[[Place], object]) -> str | None:
    """Look at what the command line names, before anything is loaded that takes seconds and before ranks meet.

    GPUs that are hidden from the run are hidden here, before a library is loaded that looks for them.

    Where all ranks are on one host they see the same files: the first tells a user's error in one line and ends, and
    so the launcher ends the others. Should they go on all the same, they keep the error in mind when they meet. Ranks
    of several hosts may see different files: whoever finds an error goes on, and once they have met they find it
    again and tell it together.

    Args:
        look: raises ValueError or OSError for what cannot be used.

    Returns:
        What is wrong, for ``join_world``, on other ranks of a run on one host; else None.

    Raises:
        SystemExit: with code 2 and one line on stderr: on the first rank of a run on one host for such an error, on any
            rank for variables that say no place.
    """
    keep_gpus_hidden()
    place = None
    try:
        place = read_place(os.environ) or Place()
        look(place)
    except (ValueError, OSError) as error:
        if place is not None and place.local_size < place.size:
            return None
        if place is not None and not place.is_first:
            return str(error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_EXIT_CODE)
    return None


@contextmanager
def meeting(timeout_s: float, found: str | None = None) -> Iterator[None]:
    """Bound the rendezvous of all ranks, which goes on inside, and put its failures into words.

    ``timeout_s`` is torch's own limit. It is watched from outside as well, because torch waits for ever for a program
    that took the port, accepts the connection and then says nothing.

    Args:
        found: what ``look_first`` has found wrong here. The first rank will have found it too, and will never come, so
            it is not waited for long, and this is what is told then.

    Raises:
        SystemExit: with code 2, if the ranks did not meet.
    """
    # torch is given the chance to speak first: it knows more about what went wrong.
    patience_s = timeout_s + _GRACE_S if found is None else _PATIENCE_S
    given_up = threading.Timer(patience_s, _give_up, [found or explain("no answer from there", timeout_s)])
    given_up.daemon = True
    given_up.start()
    try:
        yield
    except RuntimeError as error:  # torch's DistError and what gloo and NCCL raise
        _say(found or explain(str(error), timeout_s))
        sys.exit(USER_ERROR_EXIT_CODE)
    finally:
        given_up.cancel()


def explain(cause: str, timeout_s: float) -> str:
    """What to tell a person about a rendezvous that failed with ``cause``."""
    environment = os.environ
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if "EADDRINUSE" in cause or "address already in use" in cause.lower():
        return (
            f"port {port}, at which the ranks are to meet, is in use by another program on this host, perhaps by "
            "another run; choose a free one with --master_port"
        )
    return (
        f"the {environment.get('WORLD_SIZE')} ranks of the run did not meet at {address}:{port} "
        f"within {timeout_s:.0f} s. Was the run started on every host, is this the first host's address, is the port "
        "free there and open in the firewall, and does GLOO_SOCKET_IFNAME (CPU) or NCCL_SOCKET_IFNAME (GPU) name the "
        "network between the hosts? "
        f"Cause: {_first_line(cause)}"
    )


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "unknown")


def _give_up(text: str) -> None:
    _say(text)
    os._exit(USER_ERROR_EXIT_CODE)


def _say(text: str) -> None:
    print(f"error: rank {os.environ.get('RANK')} ({socket.gethostname()}): {text}", file=sys.stderr, flush=True)
