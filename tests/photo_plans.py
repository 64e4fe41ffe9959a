"""Plans over the shards of ``benchmarks/shared/bad_images.py``, and what a loader makes of them, row by row."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pixels import train_planner

from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig
from pipeline.plan.schedule import ScheduleConfig
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.index import ShardIndex

Row = tuple[int, int, int, bytes, bytes]


def photo_data(folder: Path, **settings: Any) -> DataConfig:
    # Crops down to a twentieth of the area: many do not touch the damaged end of a truncated image.
    options = {"image_size": 32, "patch_size": 8, "augment": AugmentConfig(scale=(0.05, 1.0))} | settings
    return DataConfig(train=folder, val=folder, num_classes=100, **options)


def rising_planner(
    index: ShardIndex, selection: SelectionConfig, *, global_batch_size: int, total_steps: int, **settings: Any
) -> TrainPlanner:
    """Plans of a schedule from 0.2 of the patches to all of them; ``settings`` as for ``photo_data``."""
    return train_planner(
        index,
        photo_data(index.folder, **settings),
        selection=selection,
        schedule=ScheduleConfig(kind="linear", keep_rate=[0.2, 1.0]),
        global_batch_size=global_batch_size,
        total_steps=total_steps,
    )


def rows_of(batches: Iterable[Batch]) -> list[Row]:
    """Row by row: step, row of the global batch, label, patches (targets too, where there are any), ids."""
    return [
        (
            batch.plan.step,
            batch.plan.first_row + row,
            int(batch.labels[row]),
            batch.patches[row].numpy().tobytes()
            + (b"" if batch.target_patches is None else batch.target_patches[row].numpy().tobytes()),
            batch.ids_keep[row].numpy().tobytes(),
        )
        for batch in batches
        for row in range(batch.num_images)
    ]
