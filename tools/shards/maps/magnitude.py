"""Maps of the kind ``magnitude``: the paper's score, the norm of each patch as a trained model embeds it."""

from pathlib import Path
from typing import Any

import numpy as np

from engine.checkpoints.checkpoint import weights_digest
from engine.evaluation.trained import load_trained
from engine.snapshots import take_snapshot
from pipeline.selection.config import SelectionConfig
from pipeline.selection.magnitude import MagnitudeScorer
from tools.shards.maps.batches import maps_by_batch, run_facts
from tools.shards.maps.shard_images import MakeMaps


def open_magnitude(run: Path) -> tuple[MakeMaps, dict[str, Any]]:
    """What makes the maps, and what it is made of.

    Raises:
        ValueError, OSError: it is no finished run.
    """
    trained = load_trained(run)
    data = trained.config.data
    scorer = MagnitudeScorer(take_snapshot(trained.model, 0), SelectionConfig(rule="magnitude"), data.grid_size, 0)

    def score(images: np.ndarray) -> np.ndarray:
        return scorer.scores(list(images)).reshape(-1, data.grid_size, data.grid_size)

    return maps_by_batch(score, data.image_size), run_facts(trained, weights_digest(trained.model.state_dict()))
