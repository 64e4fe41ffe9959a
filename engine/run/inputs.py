"""What a run reads, and what it makes of it before there is a model. Nothing here loads torch, DALI or timm."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.config import MonitorConfig, RunConfig
from engine.evaluation.held_images import check_batches, describe_held
from engine.models.weight_place import weights_file
from engine.run_plan import RunPlan, plan_run
from engine.values.anchor import check_fisher_file
from pipeline.looking_ahead import check_cache_fits
from pipeline.plan.step import TrainPlanner
from pipeline.selection.maps import ScoreMaps, map_path
from pipeline.shards.classes import most_classes
from pipeline.shards.data_sets import ValSet, epoch_samples_of, open_train, open_val
from pipeline.shards.index import ShardIndex
from pipeline.shards.mixed import MixedIndex

_PACKAGES = {"tensorboard": "monitor.tensorboard: true", "wandb": "monitor.wandb"}


@dataclass(frozen=True)
class Inputs:
    """The data of a run and its plan over them.

    Attributes:
        maps: the score maps that the selection looks at, by the configuration's key of their data; empty where it
            looks at none.
        held_images: what echo and cache will hold, for people; None where nothing is held.
    """

    plan: RunPlan
    train_index: ShardIndex
    val_sets: tuple[ValSet, ...]
    planner: TrainPlanner
    maps: Mapping[str, ScoreMaps]
    held_images: str | None


def open_inputs(config: RunConfig, world_size: int, local_size: int) -> Inputs:
    """Open and check the data of a run; the weights that it starts from are looked for, too.

    Args:
        world_size: ranks of the run.
        local_size: ranks of it on this host.

    Raises:
        ValueError, OSError: data or numbers of the configuration that cannot be used, or weights that are not there.
    """
    if config.model.pretrained not in (None, "timm"):
        weights_file(config.model.pretrained)
    if config.train.anchor is not None and config.train.anchor.fisher is not None:
        check_fisher_file(config.train.anchor.fisher)
    train_index, val_sets = open_train(config.data), open_val(config.data)
    vals = {one.key: one.index for one in val_sets}
    indexes = {"data.train": train_index, **vals}
    num_classes, needed = config.data.num_classes, 1 + max(index.max_label for index in indexes.values())
    for index in indexes.values():
        check_labels(index, num_classes, needed)
    num_samples = epoch_samples_of(config.data, train_index)
    check_num_train_samples(train_index, num_samples, config.data.num_train_samples)
    check_cache_fits(config.data, train_index, vals)
    maps = open_maps(config.selection.map, indexes)
    plan = plan_run(config, num_samples, world_size)
    check_batches(config, plan.rows_per_rank, max(index.num_samples for index in vals.values()), local_size)
    held_images = describe_held(config.data, train_index, plan.rows_per_rank, local_size)
    planner = TrainPlanner(
        train_index, config.data, config.selection, plan.schedule, config.train.global_batch_size, config.seed
    )
    return Inputs(plan, train_index, val_sets, planner, maps, held_images)


def open_maps(name: str | None, indexes: Mapping[str, ShardIndex]) -> dict[str, ScoreMaps]:
    """The score maps of that name, by the names of the data; empty where there is no name.

    Raises:
        ValueError: a shard has no such map, or one that cannot be used; says which command makes it.
    """
    if name is None:
        return {}
    for folder in (one for index in indexes.values() for one in index.folders):
        if folder.remote is not None:
            folder.remote.beside.renew(map_path(Path(shard.name), name).name for shard in folder.shards)
    maps = {key: ScoreMaps(index, name) for key, index in indexes.items()}
    for one in maps.values():
        one.facts()
    return maps


def check_labels(index: ShardIndex, num_classes: int, needed: int = 0) -> None:
    """Raise ValueError if a label lies outside the model's classes, naming the first such sample.

    Args:
        needed: the number of classes that other data of the run need.
    """
    if index.min_label < 0 or index.max_label >= num_classes:
        needed = max(needed, 1 + index.max_label)
        is_number = needed <= most_classes(index.num_samples)
        way_on = f"set data.num_classes to {needed}" if is_number else "labels so far apart number no classes"
        labels = np.asarray(index.label)
        wrong = int(((labels < 0) | (labels >= num_classes)).argmax())
        raise ValueError(
            f"{index.describe(wrong)} in {index.place} has label {index.label[wrong]}, but data.num_classes is "
            f"{num_classes}: labels are 0 to {num_classes - 1}; {way_on}"
        )


def check_num_train_samples(index: ShardIndex, num_samples: int, stated: int | None) -> None:
    """Raise ValueError if the configuration states another number of training samples than an epoch has."""
    if stated in (None, num_samples):
        return
    what = f"{index.place} holds {num_samples} training samples"
    if isinstance(index, MixedIndex):
        what = f"an epoch of these sources has {num_samples}"
    raise ValueError(f"data.num_train_samples says {stated}, but {what}; correct the number or leave it out")


def check_monitors(config: MonitorConfig) -> None:
    """Raise ValueError if the package of a monitor that is switched on is missing."""
    for package in [*["tensorboard"] * config.tensorboard, *["wandb"] * (config.wandb is not None)]:
        spec = importlib.util.find_spec(package)
        # A mere folder of that name, such as one that W&B has left, is found too, but has no origin.
        if spec is None or spec.origin is None:
            raise ValueError(
                f"{_PACKAGES[package]} needs the package {package}, which is not installed; install it with "
                f"pip install '.[{package}]', or leave monitor.{package} out"
            )
