"""What the ranks of a run compute on."""

import os
from typing import Any

import torch

from engine.ranks.numa import Share, keep_near, node_of, pci_address
from engine.ranks.rendezvous import Place
from pipeline.cores import allowed_cores
from pipeline.installed import check_cuda, check_driver, dali_build, driver_cuda, driver_version, num_gpus_here


def check_gpus() -> None:
    """No GPU of this machine stands idle unnoticed: one that is here works, unless ``CUDA_VISIBLE_DEVICES`` hides it.

    Raises:
        ValueError: one that does not, with what is in the way; or what ``dali_build`` raises.
    """
    driver = driver_cuda()
    check_driver(driver, torch.version.cuda, dali_build(), os.environ)
    if not torch.cuda.is_available():
        check_cuda(num_gpus_here(), torch.version.cuda, driver, os.environ)


def find_device(local_rank: int = 0) -> torch.device:
    """The GPU of this number, or the processor where no GPU is here or none is wanted.

    Raises:
        ValueError: as ``check_gpus``.
    """
    check_gpus()
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def check_has_gpu(place: Place, num_gpus: int) -> None:
    """Every rank of this host has a GPU of its own, where there are any.

    Raises:
        ValueError: this one has none.
    """
    if 0 < num_gpus <= place.local_rank:
        raise ValueError(
            f"LOCAL_RANK is {place.local_rank}, but this host shows {num_gpus} GPU(s), numbered from 0: start no more "
            "ranks than that on it, or set CUDA_VISIBLE_DEVICES to more; or to nothing, to use the processor"
        )


def take_share(place: Place, device: torch.device) -> Share:
    """This rank's share of the cores; on a GPU the process is kept to those near it from now on, where that pays."""
    if device.type != "cuda":
        return Share(max(1, allowed_cores() // place.local_size))
    gpus = [torch.cuda.get_device_properties(i) for i in range(min(place.local_size, torch.cuda.device_count()))]
    return keep_near([pci_address(gpu) for gpu in gpus], place.local_rank)


def describe_device(device: torch.device, share: Share) -> str:
    """A rank's device and cores, for people."""
    if device.type != "cuda":
        return f"the processor, {share}"
    gpu = torch.cuda.get_device_properties(device)
    memory_gib, driver = gpu.total_memory / 2**30, driver_version() or "not known"
    return f"{gpu.name} ({memory_gib:.0f} GiB, driver {driver}, CUDA {torch.version.cuda}), {share}"


def describe_gpus() -> dict[str, Any]:
    """The GPUs that this process sees, their NUMA nodes (None: not known), the driver, and PyTorch's CUDA."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "gpus": [gpu.name for gpu in gpus],
        "numa_nodes": [node_of(pci_address(gpu)) for gpu in gpus],
        "driver": driver_version(),
        "cuda": torch.version.cuda,
    }
