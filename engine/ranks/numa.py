"""Ranks kept to the processor cores near their GPU.

A machine with several sockets has cores and memory that are near a GPU and others from which everything crosses between
the sockets. Linux tells which: each GPU's NUMA node, and each node's cores.
"""

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.cores import allowed_cores

_ROOT = Path("/")


@dataclass(frozen=True)
class Share:
    """What of this machine's cores a rank may call its own.

    Attributes:
        cores: how many.
        node: the NUMA node of the rank's GPU; None where it is not known, or where there is no GPU.
        near: numbers of the node's cores, which the rank is to be kept to; None where it stays where it may be.
    """

    cores: int
    node: int | None = None
    near: frozenset[int] | None = None

    def __str__(self) -> str:
        if self.near is not None:
            return f"{self.cores} core(s) of NUMA node {self.node}"
        node = "" if self.node is None else f", not kept to NUMA node {self.node}, which has fewer"
        return f"{self.cores} core(s){node}"


def pci_address(properties: object) -> str | None:
    """Where Linux lists a GPU, such as ``0000:1b:00.0``, by what ``torch.cuda.get_device_properties`` tells of it."""
    names = ("pci_domain_id", "pci_bus_id", "pci_device_id")
    if not all(hasattr(properties, name) for name in names):
        return None
    domain, bus, device = (getattr(properties, name) for name in names)
    return f"{domain:04x}:{bus:02x}:{device:02x}.0"


def node_of(address: str | None, root: Path = _ROOT) -> int | None:
    """The NUMA node of the GPU at a PCI address; None where Linux does not say, as often in virtual machines."""
    try:
        node = int((root / f"sys/bus/pci/devices/{address}/numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def cores_of(node: int, root: Path = _ROOT) -> frozenset[int]:
    """Numbers of a NUMA node's cores; none where Linux does not list them."""
    with suppress(OSError, ValueError):
        return numbers_in((root / f"sys/devices/system/node/node{node}/cpulist").read_text())
    return frozenset()


def numbers_in(text: str) -> frozenset[int]:
    """Numbers as Linux lists them: ``0-3,8`` is 0, 1, 2, 3 and 8. Raises ValueError for anything else."""
    found: set[int] = set()
    for part in text.strip().split(",") if text.strip() else []:
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def share_of(
    nodes: Sequence[int | None], local_rank: int, allowed: Collection[int], granted: int, root: Path = _ROOT
) -> Share:
    """A rank's share of the cores. It is kept to its node unless that leaves it fewer than sharing all cores evenly.

    So eight ranks on two sockets are kept to four each, and one rank on such a machine uses both: reading images takes
    more cores than it gains from having them near.

    Args:
        nodes: of every GPU that ranks of this machine use, in the order of the ranks; None where not known.
        allowed: numbers of the cores that this process may use.
        granted: how many of them it is granted time for, all ranks of this machine together.
    """
    even, node = min(len(allowed), granted) // len(nodes), nodes[local_rank]
    if node is None:
        return Share(max(1, even))
    near = cores_of(node, root) & frozenset(allowed)
    each = len(near) // nodes.count(node)
    if each < len(allowed) // len(nodes) or not near:
        return Share(max(1, even), node)
    return Share(max(1, min(each, granted // len(nodes))), node, near)


def keep_near(addresses: Sequence[str | None], local_rank: int) -> Share:
    """Keep this process, with all threads that it has, to the cores near its GPU, where that can be read and pays.

    Args:
        addresses: of ``pci_address``, of every rank's GPU on this machine, in the order of the ranks.

    Returns:
        The rank's share, as it is from now on.
    """
    share = share_of([node_of(one) for one in addresses], local_rank, os.sched_getaffinity(0), allowed_cores())
    if share.near is not None:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended since
                os.sched_setaffinity(int(thread.name), share.near)
    return share
