"""What a loader is opened for in tests, and all that its batches hold."""

from pathlib import Path

from pipeline.batch import Batch
from pipeline.config import AugmentConfig, DataConfig


def garment_data(folder: Path, **settings: object) -> DataConfig:
    options: dict = {"image_size": 28, "patch_size": 4, "augment": AugmentConfig(crop="pad")} | settings
    return DataConfig(train=folder, val=folder, num_classes=10, val_crop_fraction=1.0, **options)


def content(batches: list[Batch]) -> list[tuple[int, int, bytes, bytes, bytes]]:
    """All that a batch holds, row by row: step, row of the global batch, patches, ids, label."""
    return [
        (
            batch.plan.step,
            batch.plan.first_row + row,
            batch.patches[row].numpy().tobytes(),
            batch.ids_keep[row].numpy().tobytes(),
            batch.labels[row].numpy().tobytes(),
        )
        for batch in batches
        for row in range(batch.num_images)
    ]
