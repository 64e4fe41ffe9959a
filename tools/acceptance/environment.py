"""What there is to run on: the GPU and its driver, DALI and DeepSpeed on it, cores and versions."""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

from engine.ranks.hardware import describe_hardware
from pipeline.graph.decoding import decode_whole
from pipeline.installed import DRIVERS, driver_cuda

_QUERY = ("driver_version", "name", "memory.total", "power.limit", "pci.bus_id")
_PROC = Path("/proc/driver/nvidia/version")
_MOST_OFF_DECODED = 3.0  # levels of 255 on average, between the decoders of CPU and GPU


def look_around(*, on_gpu: bool) -> dict[str, Any]:
    """Look at everything, also after something was found wrong.

    Args:
        on_gpu: whether a GPU is to be used; else what needs one is left out.

    Returns:
        Facts by the name of the check; ``left_out`` and ``problems``; ``is_worthless`` where one of ``NEEDED`` is
        wrong.
    """
    found: dict[str, Any] = {}
    problems, failed, left_out = list[str](), set[str](), list[str]()
    for name, (check, needs_gpu) in CHECKS.items():
        if needs_gpu and not on_gpu:
            left_out.append(name)
            continue
        try:
            found[name] = check()
        except Exception as error:  # whatever it is, the other checks tell more
            traceback.print_exc(file=sys.stderr)
            failed.add(name)
            problems.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return {**found, "left_out": left_out, "problems": problems, "is_worthless": bool(failed & NEEDED)}


def check_branch(driver: str, torch_cuda: str | None) -> None:
    """Whether a driver is of the branch that torch's CUDA needs.

    Raises:
        ValueError: it is not, or torch was built without CUDA.
    """
    if torch_cuda is None:
        raise ValueError("this PyTorch was built for the processor alone: install one that was built for CUDA")
    needed = DRIVERS.get(int(torch_cuda.split(".")[0]))
    if needed is not None and int(driver.split(".")[0]) < int(needed.removeprefix("R")):
        raise ValueError(f"the driver is {driver}, and CUDA {torch_cuda} needs {needed} or newer: renew the driver")


def driver_of(proc_text: str) -> str:
    """The driver's version in ``/proc/driver/nvidia/version``.

    Raises:
        ValueError: it names none.
    """
    found = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", proc_text)
    if found is None:
        raise ValueError(f"no version of a driver in: {proc_text.strip()[:200]}")
    return found.group(1)


def _asked() -> dict[str, Any]:
    """What nvidia-smi says, or the kernel where that is not installed."""
    if shutil.which("nvidia-smi") is None:
        return {"driver_version": driver_of(_PROC.read_text())}
    query = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60)
    return dict(zip(_QUERY, (part.strip() for part in done.stdout.splitlines()[0].split(",")), strict=True))


def _driver() -> dict[str, Any]:
    facts = _asked()
    check_branch(facts["driver_version"], torch.version.cuda)
    return {**facts, "cuda_of_driver": driver_cuda(), "cuda_of_torch": torch.version.cuda}


def _torch() -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
    properties = torch.cuda.get_device_properties(0)
    product = torch.ones(64, 64, device="cuda") @ torch.ones(64, 64, device="cuda")
    if float(product.sum()) != 64**3:
        raise RuntimeError("a product of matrices on the GPU is wrong")
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": list(torch.cuda.get_device_capability(0)),
        "bf16": torch.cuda.is_bf16_supported(),
    }


def _dali() -> dict[str, Any]:
    """One JPEG through DALI's decoder on the GPU, beside that of the CPU."""
    ramp = np.linspace(0, 255, 320).astype(np.uint8)
    picture = np.stack([np.tile(ramp, (240, 1)), np.tile(ramp[::-1], (240, 1)), np.full((240, 320), 90, np.uint8)], 2)
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=90)
    encoded = np.frombuffer(sink.getvalue(), dtype=np.uint8)

    @pipeline_def(batch_size=1, num_threads=2, device_id=0, exec_dynamic=True)
    def graph() -> Any:
        files = fn.external_source(source=lambda: [encoded], batch=True, dtype=types.UINT8, ndim=1)
        return decode_whole(files, "cpu"), decode_whole(files, "mixed")

    pipeline = graph()
    pipeline.build()
    on_cpu, on_gpu = pipeline.run()
    apart = np.abs(np.array(on_cpu.at(0)).astype(int) - np.array(on_gpu.as_cpu().at(0)))
    if apart.mean() > _MOST_OFF_DECODED:
        raise RuntimeError(f"the GPU decodes a JPEG {apart.mean():.1f} levels away from the CPU, on average")
    return {"mean_levels_apart": float(apart.mean()), "most_levels_apart": int(apart.max())}


def _deepspeed() -> dict[str, Any]:
    import deepspeed  # here, so that what it says when it is imported stands in this check's place
    from deepspeed.accelerator import get_accelerator

    chosen = get_accelerator().device_name()
    if chosen != "cuda":
        raise RuntimeError(f"DeepSpeed has chosen the accelerator {chosen}, not cuda")
    return {"version": deepspeed.__version__, "accelerator": chosen}


def _machine() -> dict[str, Any]:
    return {
        **describe_hardware(),
        "cores_of_the_machine": os.cpu_count(),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "compiler": next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None),
        "python_headers": (Path(sysconfig.get_paths()["include"]) / "Python.h").exists(),
    }


# What is looked at, and whether that needs a GPU.
CHECKS: dict[str, tuple[Callable[[], dict[str, Any]], bool]] = {
    "machine": (_machine, False),
    "driver": (_driver, True),
    "torch": (_torch, True),
    "dali": (_dali, True),
    "deepspeed": (_deepspeed, True),
}
# Without these nothing would run on the GPU. Without the others some still does.
NEEDED = {"torch", "deepspeed"}
