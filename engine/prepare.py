"""From a configuration to all that a run of it works with, looked at before anything begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.checkpoints.resume import identity
from engine.config import RunConfig
from engine.evaluation.held_images import check_batches, describe_held
from engine.evaluation.trained import build_run_model
from engine.models.masked_autoencoder import masked_autoencoder
from engine.monitor import check_monitors
from engine.ranks.world import World
from engine.run_plan import RunPlan, plan_run
from engine.task import Model
from engine.values.autos import Weights, describe_statistics
from pipeline.plan.step import TrainPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.selection.maps import ScoreMaps
from pipeline.shards.classes import describe_classes, most_classes
from pipeline.shards.index import ShardIndex, open_index


@dataclass(frozen=True)
class Prepared:
    """Everything that can be wrong with a run's configuration and data has been looked at once this exists.

    Attributes:
        model: fresh, on the CPU.
        identity: what decides the result of training, by configuration key.
        maps: fingerprints of the score maps that the selection looks at, by the configuration's key of their data;
            empty where it looks at none.
        held_images: what echo and cache will hold, for people; None where nothing is held.
        notes: what the first rank should say of classes and of pixel statistics; nothing where all is as it should be.
    """

    config: RunConfig
    plan: RunPlan
    train_index: ShardIndex
    val_index: ShardIndex
    planner: TrainPlanner
    model: Model
    identity: dict[str, Any]
    maps: Mapping[str, str]
    held_images: str | None
    notes: tuple[str, ...] = ()

    @property
    def indexes(self) -> Mapping[str, ShardIndex]:
        """What the run reads, by the name of the configuration's key."""
        return {"data.train": self.train_index, "data.val": self.val_index}


def prepare(config: RunConfig, world: World) -> Prepared:
    """Open and check every input of the run, and build its model. Nothing collective, nothing written.

    It also sets the number of threads that torch computes with.

    Raises:
        ValueError, OSError: an input that cannot be used.
    """
    if world.is_first:
        check_monitors(config.monitor)
    torch.set_num_threads(config.engine.num_threads or world.cores)
    train_index, val_index = open_index(config.data.train, "train"), open_index(config.data.val, "val")
    num_classes, needed = config.data.num_classes, 1 + max(train_index.max_label, val_index.max_label)
    for index in (train_index, val_index):
        check_labels(index, num_classes, needed)
    says = world.is_first and config.task == "classify"
    notes = describe_classes(train_index, val_index, num_classes) if says else []
    if world.is_first:
        notes += describe_statistics(config.data, Weights(config.model.name, config.model.pretrained))
    check_num_train_samples(train_index, config.data.num_train_samples)
    maps = map_fingerprints(config.selection, {"data.train": train_index, "data.val": val_index})
    plan = plan_run(config, train_index.num_samples, world.size)
    if config.data.device == "gpu" and world.device.type != "cuda":
        raise ValueError("data.device is gpu, but no GPU is visible here; set data.device to cpu")
    check_batches(config, plan.rows_per_rank, val_index.num_samples, world.local_size)
    held_images = describe_held(config.data, train_index, plan.rows_per_rank, world.local_size)
    planner = TrainPlanner(
        train_index, config.data, config.selection, plan.schedule, config.train.global_batch_size, config.seed
    )
    torch.manual_seed(config.seed)
    model = build_task_model(config)
    return Prepared(
        config,
        plan,
        train_index,
        val_index,
        planner,
        model,
        identity(config, train_index, maps.get("data.train")),
        maps=maps,
        held_images=held_images,
        notes=tuple(notes),
    )


def map_fingerprints(selection: SelectionConfig, indexes: Mapping[str, ShardIndex]) -> dict[str, str]:
    """Of the score maps that a selection looks at, by the names of the data; empty where it looks at none.

    Raises:
        ValueError: a shard has no such map, or one that cannot be used; says which command makes it.
    """
    if selection.map is None:
        return {}
    return {key: ScoreMaps(index, selection.map).fingerprint() for key, index in indexes.items()}


def build_task_model(config: RunConfig) -> Model:
    """The model that the configuration's task trains, with the weights that it starts from.

    Raises:
        ValueError, OSError: a model or weights that cannot be used.
    """
    vit = build_run_model(config, pretrained=config.model.pretrained, for_training=True)
    return masked_autoencoder(vit, config.pretrain) if config.task == "pretrain" else vit


def check_labels(index: ShardIndex, num_classes: int, needed: int = 0) -> None:
    """Raise ValueError if a label lies outside the model's classes, naming the first such sample.

    Args:
        needed: the number of classes that other data of the run need.
    """
    if index.min_label < 0 or index.max_label >= num_classes:
        needed = max(needed, 1 + index.max_label)
        is_number = needed <= most_classes(index.num_samples)
        way_on = f"set data.num_classes to {needed}" if is_number else "labels so far apart number no classes"
        wrong = int(((index.label < 0) | (index.label >= num_classes)).argmax())
        raise ValueError(
            f"{index.describe(wrong)} in {index.folder} has label {index.label[wrong]}, but data.num_classes is "
            f"{num_classes}: labels are 0 to {num_classes - 1}; {way_on}"
        )


def check_num_train_samples(index: ShardIndex, stated: int | None) -> None:
    """Raise ValueError if the configuration states another number of training samples than there are."""
    if stated not in (None, index.num_samples):
        raise ValueError(
            f"data.num_train_samples says {stated}, but {index.folder} holds {index.num_samples} training "
            "samples; correct the number or leave it out"
        )
