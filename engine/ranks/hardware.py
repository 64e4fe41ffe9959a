"""What a figure was measured on; every raw result carries it."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from engine.ranks.devices import describe_gpus
from pipeline.cores import allowed_cores
from pipeline.installed import dali_build

_PROCESSOR_NUMBERS = {"family": "cpu family", "model": "model"}


def describe_hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory, GPUs with their driver, and the versions of what does the work.

    Where there is a GPU, also whether this process multiplies float32 matrices in TF32 (``tf32``).
    DALI's version stands under the name of its installed build. Raises what ``dali_build`` raises.
    """
    gpus = describe_gpus()
    return {
        "cpu": processor(Path("/proc/cpuinfo").read_text()) or platform.processor(),
        "cores": allowed_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        **gpus,
        **({"tf32": torch.get_float32_matmul_precision() != "highest"} if gpus["gpus"] else {}),
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
