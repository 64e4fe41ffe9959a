"""What a figure was measured on; every raw result carries it."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.installed import dali_build

_PROCESSOR_NUMBERS = {"family": "cpu family", "model": "model"}


def describe_hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory, GPUs and the versions of what does the work.

    DALI's version stands under the name of its installed build. Raises what ``dali_build`` raises.
    """
    return {
        "cpu": processor(Path("/proc/cpuinfo").read_text()) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", dali_build(), "deepspeed", "timm", "numpy")},
    }


def processor(cpuinfo: str) -> str:
    """The kinds of processor that Linux's ``/proc/cpuinfo`` names; empty where it names none.

    Virtual machines may say no more than the maker in the name, so family and model, where known, are told too.
    """
    kinds = set()
    for block in cpuinfo.split("\n\n"):
        fields = {
            name.strip(): value.strip() for name, _, value in (line.partition(":") for line in block.splitlines())
        }
        if "model name" in fields:
            numbers = [f"{name} {fields[key]}" for name, key in _PROCESSOR_NUMBERS.items() if key in fields]
            kinds.add(fields["model name"] + (f" ({', '.join(numbers)})" if numbers else ""))
    return ", ".join(sorted(kinds))
