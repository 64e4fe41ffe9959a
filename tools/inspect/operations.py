"""The operations that a run's automatic augmentation draws from, each on one image of a step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.operations import MAX_MAGNITUDE, OPERATION_NAMES, OPERATIONS, levels_of
from pipeline.plan.augmentation import AugmentPlan
from pipeline.plan.step import StepPlan, TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.patches import unpatchify
from tools.inspect.picture import load, save_sheet

_SHARES = (-1.0, -0.5, 0.3, 0.6, 0.9, 1.0)


def draw_operations(planner: TrainPlanner, plan: StepPlan, title: str, path: Path) -> None:
    """The first image of a plan as it is cropped, and under every operation at several magnitudes, as a PNG file.

    Raises:
        ValueError, OSError: the configuration has no automatic augmentation, an image that cannot be read or decoded,
            or a file that cannot be written.
    """
    auto = planner.data.augment.auto
    if auto is None:
        raise ValueError(
            "data.augment.auto is null, so no operations are drawn from; give --set 'data.augment.auto={kind: "
            "randaugment}' to see those of RandAugment"
        )
    shown: list[tuple[str, float, float]] = [("identity", 0.0, 0.0)]
    for name, level in levels_of(auto.kind, increasing=auto.increasing).items():
        shares = [share for share in _SHARES if share > 0 or level.goes_either_way]
        for share in shares if OPERATIONS[name].has_magnitude else [1.0]:
            shown.append((name, share, float(level.value(np.array([share]))[0])))
    images = _carried_out(planner, plan, shown)
    labels = [_label(name, share, value) for name, share, value in shown]
    save_sheet(images, f"{title}: the operations of {auto.kind}, with magnitude and value", labels, path)


def _carried_out(planner: TrainPlanner, plan: StepPlan, shown: list[tuple[str, float, float]]) -> np.ndarray:
    """uint8 [len(shown), S, S, 3]."""
    arrays: dict[str, Any] = {name: np.repeat(getattr(plan, name)[:1], len(shown), axis=0) for name in _ROWS}
    arrays["noise"] = np.zeros((len(shown), 1), dtype=np.float32)
    augment = AugmentPlan(
        auto_ops=np.array([[OPERATION_NAMES.index(name)] for name, _, _ in shown], dtype=np.int32),
        auto_magnitudes=np.array([[MAX_MAGNITUDE * share] for _, share, _ in shown], dtype=np.float32),
        auto_values=np.array([[value] for _, _, value in shown], dtype=np.float32),
    )
    data = planner.data_at(plan.stage)
    whole = plan.stage.whole(data.num_patches)
    at_full_size: dict[str, Any] = {"levels": None, "level_crops": None}
    rows = replace(plan, stage=whole, first_row=0, augment=augment, views_left=None, **at_full_size, **arrays)
    every_patch = SelectionConfig(rule="grid")  # which rule does not matter: every patch is kept
    on_cpu = planner.data.model_copy(update={"device": "cpu", "echo": 1})
    batch = load(replace(planner, data=on_cpu, selection=every_patch), rows)
    return unpatchify(batch.patches.numpy(), data.patch_size)


_ROWS = ("sample_ids", "labels", "crops", "flips", "counted")


def _label(name: str, share: float, value: float) -> str:
    operation = OPERATIONS[name]
    return f"{name} {MAX_MAGNITUDE * share:+.3g}\n{value:.3g}" if operation.has_magnitude else f"{name}\n"
