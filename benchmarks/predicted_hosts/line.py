"""The line between two hosts: the rate it is held to, and what has gone over it."""

import json

from benchmarks.shared.hosts import Host

# Segments that the kernel hands on at once are kept below what the line lets through at once, or it cuts each of them
# into frames by itself, which costs the ranks' cores more than all else in an exchange.
_SEGMENT_BYTES, _AT_ONCE = 16_384, "32kb"
_LONGEST_QUEUE = "100ms"


def shaping(gbit_per_s: float) -> list[list[str]]:
    """The commands that hold what a host sends to a rate, frames and their headers included."""
    rate = ["rate", f"{round(gbit_per_s * 1e9)}bit", "burst", _AT_ONCE, "latency", _LONGEST_QUEUE]
    return [
        ["ip", "link", "set", "dev", "eth0", "gso_max_size", str(_SEGMENT_BYTES)],
        ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *rate],
    ]


def shape(host: Host, gbit_per_s: float) -> None:
    """Hold what a host sends to a rate.

    Raises:
        OSError: the kernel has no token bucket filter, or the rate is none of its.
    """
    for command in shaping(gbit_per_s):
        process = host.start(*command)
        printed, _ = process.communicate(timeout=30)
        if process.returncode:
            raise OSError(f"no line of {gbit_per_s:g} Gbit/s here: {' '.join(command)} says {printed.strip()}")


def sent_bytes(host: Host) -> int:
    """Bytes of all frames that a host has sent so far."""
    return bytes_in(host.run("ip", "-json", "-statistics", "link", "show", "dev", "eth0"))


def bytes_in(statistics: str) -> int:
    """Bytes sent, as ``ip -json -statistics link show`` tells of one device."""
    (device,) = json.loads(statistics)
    return int(device["stats64"]["tx"]["bytes"])
