"""What a figure was measured on; every raw result carries it."""

import ctypes
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline.installed import dali_build

_PROCESSOR_NUMBERS = {"family": "cpu family", "model": "model"}


def describe_hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory, GPUs, their driver, and the versions of what does the work.

    Where there is a GPU, also whether this process multiplies float32 matrices in TF32 (``tf32``).
    DALI's version stands under the name of its installed build. Raises what ``dali_build`` raises.
    """
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": processor(Path("/proc/cpuinfo").read_text()) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
"gpus": gpus,
        "driver": driver_version(),
        **({"tf32": torch.get_float32_matmul_precision() != "highest"} if gpus else {}),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", dali_build(), "deepspeed", "timm", "numpy")},
    }


def driver_version() -> str | None:
    """NVIDIA's driver, such as "580.65.06"; None where there is none that works."""
    found = ctypes.create_string_buffer(96)
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        failed = library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(found, len(found))
    except (OSError, AttributeError):
        return None
    return None if failed else found.value.decode()


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
