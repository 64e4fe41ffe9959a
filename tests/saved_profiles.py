"""Profiles as ``tools.profile --json`` writes them, with times that a formula gives instead of a clock."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.ranks.hardware import describe_hardware
from tools.schedule.preview import flops_per_image

Seconds = Callable[[int], float]  # of a step, at a number of patches


def write_profile(
    path: Path,
    config: RunConfig,
    nums_kept: Sequence[int],
    *,
    step_s: Seconds,
    loader_s: Seconds = lambda kept: 1e-9,
    noise: Sequence[float] = (1.0, 1.0, 1.0),
    exchange_s: float = 0.0,
    **others: Any,
) -> Path:
    """A profile of one rank.

    Args:
        noise: factors of each repeat's times.
        others: fields in place of what stands there.
    """
    batch, num_patches = config.train.global_batch_size, config.data.num_patches
    flops = flops_per_image(config, list(nums_kept))
    stages = []
    for kept, operations in zip(nums_kept, flops, strict=True):
        sides = {"loader": loader_s(kept), "step": step_s(kept), "end_to_end": max(loader_s(kept), step_s(kept))}
        rates = {f"{side}_images_per_s": batch / seconds for side, seconds in sides.items()}
        repeats = {f"{side}_repeats": [rate / factor for factor in noise] for side, rate in rates.items()}
        parts = {
            "forward_ms": 300 * step_s(kept),
            "backward_ms": 600 * step_s(kept),
            "communication_ms": exchange_s * 1e3,
        }
        rate = (kept + 1) / (num_patches + 1)
        stages.append({"keep_rate": rate, "num_kept": kept, "flops_per_image": operations, **rates, **repeats, **parts})
    profile = {
        "hardware": describe_hardware(),
        "config": config.model_dump(mode="json"),
        "world_size": 1,
        "hosts": 1,
        "stages": stages,
        **others,
    }
    path.write_text(json.dumps(profile))
    return path
