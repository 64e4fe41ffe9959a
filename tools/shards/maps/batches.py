"""Maps that a model makes: images of one size, in batches."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline.selection.image_maps import spread
from tools.shards.maps.contrast import decoded
from tools.shards.maps.shard_images import MakeMaps, ShardImages

BATCH_SIZE = 32
ScoreImages = Callable[[np.ndarray], np.ndarray]  # uint8 [B, S, S, 3] to float [B, h, w]


def maps_by_batch(score: ScoreImages, size: int) -> MakeMaps:
    """What makes maps out of what a model says of whole images, each brought to ``size`` x ``size`` pixels."""

    def maps(images: ShardImages, rows: Sequence[int], grid_size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), BATCH_SIZE):
            batch = [resized(decoded(images, row), size) for row in rows[start : start + BATCH_SIZE]]
            for values in score(np.stack(batch)):
                yield spread(values.astype(np.float64), grid_size)

    return maps


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """A whole image, uint8 [H, W, 3], as a square of ``size``, antialiased as in the pipeline: uint8 [S, S, 3]."""
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def run_facts(trained: Any, digest: str) -> dict[str, Any]:
    """What decides the scores of a finished run's model, as JSON can hold it."""
    data = trained.config.data
    return {
        "model": trained.config.model.name,
        "weights_digest": digest,
        "image_size": data.image_size,
        "patch_size": data.patch_size,
        "mean": list(data.mean),
        "std": list(data.std),
    }
