"""Machines of several sockets are folders that look like Linux's ``/sys``."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.ranks import numa
from engine.ranks.numa import Share, cores_of, keep_near, node_of, numbers_in, pci_address, share_of

ALL = set(range(16))


@pytest.fixture
def two_sockets(tmp_path: Path) -> Path:
    """Eight cores each, hyperthreads counted as Linux counts them; a GPU on each, and one that says nothing."""
    for node, cores in enumerate(["0-3,8-11", "4-7,12-15"]):
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{cores}\n")
    for address, node in {"0000:1b:00.0": 0, "0001:dc:00.0": 1, "0000:01:00.0": -1}.items():
        folder = tmp_path / f"sys/bus/pci/devices/{address}"
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(f"{node}\n")
    return tmp_path


@pytest.mark.parametrize(("text", "numbers"), [("0-2,5", {0, 1, 2, 5}), ("3\n", {3}), ("\n", set())])
def test_lists_of_numbers(text: str, numbers: set[int]) -> None:
    assert numbers_in(text) == numbers


def test_a_gpu_is_found_by_the_address_that_torch_tells() -> None:
    assert pci_address(SimpleNamespace(pci_domain_id=1, pci_bus_id=0xDC, pci_device_id=0)) == "0001:dc:00.0"
    assert pci_address(SimpleNamespace(name="an older torch")) is None


def test_nodes_and_their_cores_are_read(two_sockets: Path) -> None:
    assert node_of("0000:1b:00.0", two_sockets) == 0
    assert node_of("0001:dc:00.0", two_sockets) == 1
    assert cores_of(1, two_sockets) == {4, 5, 6, 7, 12, 13, 14, 15}


def test_where_linux_does_not_say_no_node_is_known(two_sockets: Path) -> None:
    assert node_of("0000:01:00.0", two_sockets) is None
    assert node_of("0000:ff:00.0", two_sockets) is None
    assert node_of(None, two_sockets) is None
    assert cores_of(7, two_sockets) == set()


def test_ranks_on_both_sockets_share_the_cores_of_their_own(two_sockets: Path) -> None:
    nodes = [0, 0, 1, 1]
    shares = [share_of(nodes, rank, ALL, 16, two_sockets) for rank in range(4)]
    assert [share.cores for share in shares] == [4] * 4
    assert shares[0].near == shares[1].near == {0, 1, 2, 3, 8, 9, 10, 11}
    assert shares[3].near == cores_of(1, two_sockets)
    assert str(shares[3]) == "4 core(s) of NUMA node 1"


def test_a_rank_that_would_lose_cores_stays_where_it_is_and_says_so(two_sockets: Path) -> None:
    assert share_of([0], 0, ALL, 16, two_sockets) == Share(16, 0)
    assert share_of([0, 0], 1, ALL, 16, two_sockets) == Share(8, 0)
    assert str(Share(16, 0)) == "16 core(s), not kept to NUMA node 0, which has fewer"


def test_a_node_that_is_not_known_changes_nothing(two_sockets: Path) -> None:
    assert share_of([None, 1], 0, ALL, 16, two_sockets) == Share(8)
    assert str(Share(8)) == "8 core(s)"


def test_only_cores_that_the_process_may_use_are_its_own(two_sockets: Path) -> None:
    assert share_of([0], 0, {0, 1, 2}, 16, two_sockets) == Share(3, 0, frozenset({0, 1, 2}))
    assert share_of([1], 0, {0, 1, 2}, 16, two_sockets) == Share(3, 1), "none of them is near"


def test_fewer_cores_granted_than_there_are_make_the_share_smaller_and_not_the_place(two_sockets: Path) -> None:
    share = share_of([0, 1], 1, ALL, 6, two_sockets)
    assert share == Share(3, 1, cores_of(1, two_sockets))
    assert share_of([0, 1], 1, ALL, 1, two_sockets).cores == 1


def test_the_threads_of_a_process_are_kept_to_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[int, set[int]] = {}
    here = os.sched_getaffinity(0)
    monkeypatch.setattr(numa, "node_of", lambda address: 0)
    monkeypatch.setattr(numa, "cores_of", lambda node, root: frozenset(here))
    monkeypatch.setattr("os.sched_setaffinity", lambda thread, cores: kept.update({thread: set(cores)}))
    assert keep_near(["0000:1b:00.0"], 0).near == here
    assert kept[os.getpid()] == here
    kept.clear()
    monkeypatch.setattr(numa, "node_of", lambda address: None)
    assert keep_near([None], 0).near is None
    assert not kept
