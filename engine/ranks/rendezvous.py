"""Meeting the other ranks of a run: one clear line, and an end, where they do not all come."""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

USER_ERROR_EXIT_CODE = 2
_GRACE_S = 5.0
_ALL = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Where a launcher put this process: among those of its host. torch and DeepSpeed read the rest themselves."""

    local_rank: int
    local_size: int


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
    _number(environment, "RANK", 0, size - 1)
    _number(environment, "MASTER_PORT", 1, 65535)
    stated = [name for name in ("LOCAL_SIZE", "LOCAL_WORLD_SIZE") if name in environment]
    local_size = _number(environment, stated[0], 1, size) if stated else size
    return Place(_number(environment, "LOCAL_RANK", 0, local_size - 1), local_size)


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


@contextmanager
def meeting(timeout_s: float) -> Iterator[None]:
    """Bound the rendezvous of all ranks, which goes on inside, and put its failures into words.

    ``timeout_s`` is torch's own limit. It is watched from outside as well, because torch waits for ever for a program
    that took the port, accepts the connection and then says nothing.

    Raises:
        SystemExit: with code 2, if the ranks did not meet.
    """
    # torch is given the chance to speak first: it knows more about what went wrong.
    given_up = threading.Timer(timeout_s + _GRACE_S, _give_up, [timeout_s])
    given_up.daemon = True
    given_up.start()
    try:
        yield
    except RuntimeError as error:  # torch's DistError and what gloo and NCCL raise
        _say(explain(str(error), timeout_s))
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


def _give_up(timeout_s: float) -> None:
    _say(explain("no answer from there", timeout_s))
    os._exit(USER_ERROR_EXIT_CODE)


def _say(text: str) -> None:
    print(f"error: rank {os.environ.get('RANK')} ({socket.gethostname()}): {text}", file=sys.stderr, flush=True)
