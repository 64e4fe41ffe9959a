"""The loader by itself: images a second by device, number of threads and keep rate."""

import math
import statistics
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.config import load_config
from engine.prepare import Prepared, prepare
from engine.ranks.world import World
from pipeline.plan.schedule import Stage, num_kept_at
from tools.acceptance.runs import config_of, thread_counts, write_config
from tools.acceptance.sizes import Size
from tools.profile.bench import Bench

_FEWEST_STEPS = 4


def measure_loader(size: Size, photographs: Path, num_classes: int, world: World) -> dict[str, Any]:
    """Time the loader, all settings in turn, several times over.

    Returns:
        ``loader``: for each setting ``device``, ``threads``, ``keep_rate``, ``images_per_s`` (the median) and its
        ``repeats``; ``left_out``: devices that are not here; ``problems``.
    """
    devices = ["cpu", "gpu"] if world.device.type == "cuda" else ["cpu"]
    settings = [
        (device, threads, rate)
        for device in devices
        for threads in thread_counts(size.loader_threads, world.cores)
        for rate in size.loader_keep_rates
    ]
    measured: dict[tuple[str, int, float], list[float]] = {setting: [] for setting in settings}
    problems = list[str]()
    with TemporaryDirectory() as folder:
        path = write_config(_config(size, photographs, num_classes), Path(folder) / "loader.yaml")
        for _ in range(size.loader_repeats):
            for device, threads, rate in settings:
                name = f"data.device {device}, {threads} threads, keep rate {rate:g}"
                overrides = [f"data.device={device}", f"data.num_threads={threads}"]
                try:
                    prepared = prepare(load_config(path, overrides), world)
                    rate_found = _images_per_s(prepared, size, threads, rate, world)
                except Exception as error:  # whatever it is, the others are tried as well
                    traceback.print_exc(file=sys.stderr)
                    problems.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
                    continue
                measured[device, threads, rate].append(rate_found)
                print(f"-- {name}: {rate_found:,.0f} images/s", flush=True)
    return {
        "batch_size": size.loader_batch_size,
        "loader": [
            {
                "device": device,
                "threads": threads,
                "keep_rate": rate,
                "images_per_s": statistics.median(found),
                "repeats": found,
            }
            for (device, threads, rate), found in measured.items()
            if found
        ],
        "left_out": sorted({"cpu", "gpu"} - set(devices)),
        "problems": problems,
    }


def _config(size: Size, photographs: Path, num_classes: int) -> dict[str, Any]:
    """The rule that looks at no image, so that the loader's other work shows."""
    values = config_of(
        photographs,
        size,
        name="vit_tiny_patch16_224",
        options=dict(size.model),
        batch_size=size.loader_batch_size,
        num_classes=num_classes,
    )
    values["data"]["augment"]["scale"] = [0.08, 1.0]
    return {**values, "selection": {"rule": "random"}}


def _images_per_s(prepared: Prepared, size: Size, threads: int, keep_rate: float, world: World) -> float:
    bench = Bench(prepared, world, trains=False)
    num_steps = max(_FEWEST_STEPS, math.ceil(threads * size.loader_images / size.loader_batch_size))
    stage = Stage(keep_rate, num_kept_at(keep_rate, prepared.config.data.num_patches))
    return num_steps * size.loader_batch_size / bench.time_loader(stage, num_steps).elapsed_s
