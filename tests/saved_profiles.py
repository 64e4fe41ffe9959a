"""Profiles as ``tools.profile --json`` writes them, with times that a formula gives instead of a clock."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.ranks.hardware import describe_hardware
from tools.schedule.preview import flops_per_image

Seconds = Callable[..., float]  # of a step, at a number of patches; where sizes are given, of its image and patch too


def write_profile(
    path: Path,
    config: RunConfig,
    stages_kept: Sequence[int | tuple[int, int, int]],
    *,
    step_s: Seconds,
    loader_s: Seconds = lambda *stage: 1e-9,
    noise: Sequence[float] = (1.0, 1.0, 1.0),
    exchange_s: float = 0.0,
    **others: Any,
) -> Path:
    """A profile of one rank.

    Args:
        stages_kept: patches kept in each stage, as an earlier version tells it, or these, the image's size and a
            patch's.
        noise: factors of each repeat's times.
        others: fields in place of what stands there.
    """
    batch, num_patches = config.train.global_batch_size, config.data.num_patches
    stages: list[dict[str, Any]] = []
    for stage in stages_kept:
        kept, *sizes = (stage,) if isinstance(stage, int) else stage
        seconds = {"loader": loader_s(kept, *sizes), "step": step_s(kept, *sizes)}
        seconds["end_to_end"] = max(seconds.values())
        rates = {f"{side}_images_per_s": batch / taken_s for side, taken_s in seconds.items()}
        repeats = {f"{side}_repeats": [rate / factor for factor in noise] for side, rate in rates.items()}
        parts = {"forward_ms": 300 * seconds["step"], "backward_ms": 600 * seconds["step"]}
        (flops,) = flops_per_image(config, [kept], sizes[1:] or None)
        if sizes:
            num_patches = (sizes[0] // sizes[1]) ** 2
            parts |= dict(zip(("image_size", "patch_size"), sizes, strict=True))
        told = {"keep_rate": (kept + 1) / (num_patches + 1), "num_kept": kept, "flops_per_image": flops}
        stages.append({**told, **rates, **repeats, **parts, "communication_ms": exchange_s * 1e3})
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
