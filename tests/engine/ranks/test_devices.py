"""GPUs that are not there: what torch would tell of them is put in its place."""

from types import SimpleNamespace

import pytest
import torch

from engine.ranks import devices, numa
from engine.ranks.devices import check_gpus, check_has_gpu, describe_device, describe_gpus, find_device, take_share
from engine.ranks.numa import Share, pci_address
from engine.ranks.rendezvous import Place
from engine.ranks.world import World
from pipeline.graph.faults import memory_that_ran_out
from pipeline.installed import num_gpus_here

GPU = torch.device("cuda", 1)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them on two sockets, of four cores each."""
    gpus = [
        SimpleNamespace(name="NVIDIA H100", total_memory=79 * 2**30, pci_domain_id=0, pci_bus_id=i, pci_device_id=0)
        for i in range(2)
    ]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda which: gpus[getattr(which, "index", which)])
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr(devices, "driver_version", lambda: "580.65.06")
    monkeypatch.setattr(devices, "driver_cuda", lambda: 13000)
    for module in (devices, numa):
        monkeypatch.setattr(module, "node_of", lambda address: int(address[5:7], 16))
        monkeypatch.setattr(module, "allowed_cores", lambda: 8)
    monkeypatch.setattr(numa, "cores_of", lambda node, root: frozenset(range(4 * node, 4 * node + 4)))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None)


def test_on_a_gpu_a_rank_takes_the_cores_near_it_and_says_all_of_it(two_gpus: None) -> None:
    share = take_share(Place(local_rank=1, local_size=2), GPU)
    assert share == Share(4, 1, frozenset({4, 5, 6, 7}))
    assert describe_device(GPU, share) == (
        "NVIDIA H100 (79 GiB, driver 580.65.06, CUDA 13.0), 4 core(s) of NUMA node 1"
    )


def test_on_the_processor_ranks_share_its_cores_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "allowed_cores", lambda: 9)
    share = take_share(Place(local_rank=1, local_size=2), torch.device("cpu"))
    assert share == Share(4)
    assert describe_device(torch.device("cpu"), share) == "the processor, 4 core(s)"


def test_what_a_result_was_measured_on_holds_gpus_nodes_driver_and_cuda(two_gpus: None) -> None:
    assert describe_gpus() == {
        "gpus": ["NVIDIA H100", "NVIDIA H100"],
        "numa_nodes": [0, 1],
        "driver": "580.65.06",
        "cuda": "13.0",
    }


def test_a_rank_has_threads_of_its_share() -> None:
    def threads(device: torch.device, cores: int) -> tuple[int, int]:
        world = World(0, 1, 0, 1, device, ("here",), share=Share(cores))
        return world.loader_threads, world.trainer_threads

    assert threads(torch.device("cpu"), 2) == (2, 2)
    assert threads(torch.device("cpu"), 16) == (14, 16)
    assert threads(GPU, 16) == (14, 4), "beside a GPU the processor has little to compute"
    assert threads(GPU, 2) == (2, 2)


def test_a_gpu_that_works_is_used_and_none_here_is_the_processor(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_device(1) == GPU
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(devices, "num_gpus_here", lambda: 0)
    assert find_device() == torch.device("cpu")


def test_a_gpu_that_is_here_and_does_not_work_is_not_passed_over(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(devices, "num_gpus_here", lambda: 1)
    with pytest.raises(ValueError, match=r"1 NVIDIA GPU\(s\) are here, but PyTorch can use none: CUDA does not start"):
        find_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_gpus()


def test_a_rank_without_a_gpu_is_told_where_others_have_one() -> None:
    check_has_gpu(Place(local_rank=1, local_size=2), 2)
    check_has_gpu(Place(local_rank=7, local_size=8), 0)  # all of them on the processor
    with pytest.raises(ValueError, match=r"LOCAL_RANK is 1, but this host shows 1 GPU\(s\)"):
        check_has_gpu(Place(local_rank=1, local_size=2), 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_real_gpu_tells_its_address_and_all_that_is_said_of_it() -> None:
    check_gpus()
    assert pci_address(torch.cuda.get_device_properties(0))
    found = describe_gpus()
    assert len(found["gpus"]) == len(found["numa_nodes"]) == torch.cuda.device_count()
    assert num_gpus_here() >= 1
    assert found["cuda"] == torch.version.cuda
    assert str(describe_device(torch.device("cuda", 0), Share(4))).startswith(found["gpus"][0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_real_gpu_that_is_too_small_is_known_for_it() -> None:
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.empty(2**46, dtype=torch.uint8, device="cuda")
    assert memory_that_ran_out(raised.value, on_gpu=True) == "gpu"
