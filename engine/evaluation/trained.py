"""A trained model as a run leaves it: its configuration, and its weights from the export."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.config import RunConfig
from engine.models.build import build_model
from engine.models.patch_embed import PatchModel
from engine.run.finished import finished_config
from pipeline.cores import allowed_cores, loader_threads
from pipeline.graph.inputs import row_sizes
from pipeline.graph.score_maps import map_scores
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan.step import ValidationPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.maps import ScoreMaps
from pipeline.selection.patches import unpatchify
from pipeline.shards.data_sets import open_first_val
from pipeline.shards.index import ShardIndex


@dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
        folder: the run folder.
        model: in eval mode, on the CPU.
    """

    folder: Path
    config: RunConfig
    model: PatchModel


def load_trained(folder: Path | str, overrides: list[str] | None = None) -> Trained:
    """Open a run folder that holds ``config.yaml`` and ``model/``.

    Args:
        overrides: ``a.b=value``, such as another place of the data.

    Raises:
        ValueError, OSError: it is no run folder, or the run is not done.
    """
    folder = Path(folder)
    config = finished_config(folder, overrides)
    return Trained(folder, config, build_run_model(config, pretrained=f"local-dir:{folder / 'model'}").eval())


def build_run_model(config: RunConfig, *, pretrained: str | None = None, for_training: bool = False) -> PatchModel:
    """The model that a configuration describes.

    Args:
        pretrained: as ``engine.models.weights.load_pretrained`` reads it.
        for_training: with drop path, dropout and activation checkpointing as configured.
    """
    model, data = config.model, config.data
    return build_model(
        model.name,
        image_size=data.image_size,
        patch_size=data.patch_size,
        num_classes=data.num_classes,
        mean=data.mean,
        std=data.std,
        drop_path=model.drop_path if for_training else 0.0,
        drop_rate=model.drop_rate if for_training else 0.0,
        pretrained=pretrained,
        pretrained_key=model.pretrained_key if for_training else None,
        reset_head=for_training and model.reset_head,
        head_init_std=model.head_init_std if for_training else None,
        checkpoint_activations=for_training and config.engine.checkpoint_activations,
        options=model.options,
    )


def validation_images(config: RunConfig, num_images: int) -> np.ndarray:
    """The first images of the validation set as a model sees them with all patches kept: uint8 [B, S, S, 3].

    Raises:
        ValueError, OSError: the set cannot be opened, or an image cannot be decoded.
    """
    planner, num_images = _planner_of_images(config, open_first_val(config.data), num_images)
    found: list[np.ndarray] = []
    num_threads = loader_threads(allowed_cores())
    plans = validation_plans(planner)
    with PatchLoader(planner, plans, batch_size=planner.micro_batch_size, num_threads=num_threads) as loader:
        while sum(map(len, found)) < num_images:
            found.append(unpatchify(next(loader).patches.numpy(), config.data.patch_size))
    return np.concatenate(found)[:num_images]


def validation_map_scores(config: RunConfig, num_images: int, name: str) -> np.ndarray:
    """The scores of the patches of ``validation_images`` by their score maps of a name: float32 [B, N], 0 to 1.

    Raises:
        ValueError, OSError: the set or its maps cannot be opened.
    """
    index = open_first_val(config.data)
    planner, num_images = _planner_of_images(config, index, num_images)
    maps, found = ScoreMaps(index, name), []
    for plan in validation_plans(planner):
        found.append(map_scores(plan, maps.grids(plan.sample_ids), row_sizes(plan, index), planner.data, planner.crop))
        if sum(map(len, found)) >= num_images:
            break
    return np.concatenate(found)[:num_images]


def _planner_of_images(config: RunConfig, index: ShardIndex, num_images: int) -> tuple[ValidationPlanner, int]:
    """Plans of the first images of the validation set, all patches kept, and how many images there are."""
    num_images = min(num_images, index.num_samples)
    rule = SelectionConfig(rule="grid")  # which one does not matter: every patch is kept
    data = config.data.model_copy(update={"device": "cpu"})
    return ValidationPlanner(index, data, rule, 1.0, min(num_images, 64), config.seed), num_images
