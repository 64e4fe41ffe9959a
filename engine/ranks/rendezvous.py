"""Meeting the other ranks of a run: one clear line, and an end, where they do not all come."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

USER_ERROR_EXIT_CODE = 2
_GRACE_S = 5.0


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
