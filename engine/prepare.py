"""From a configuration to all that a run of it works with, looked at before anything begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.checkpoints.resume import identity
from engine.config import RunConfig
from engine.evaluation.trained import build_run_model
from engine.models.masked_autoencoder import masked_autoencoder
from engine.ranks.freed_memory import keep_freed_memory
from engine.ranks.world import World
from engine.run.anchor import Held, describe_held, read_held
from engine.run.compilers import check_can_compile
from engine.run.inputs import check_monitors, open_inputs
from engine.run_plan import RunPlan
from engine.task import Model
from engine.values.autos import Weights, describe_statistics
from pipeline.plan.step import TrainPlanner
from pipeline.shards.classes import describe_classes
from pipeline.shards.data_sets import ValSet, class_names_of
from pipeline.shards.index import ShardIndex
from pipeline.shards.mixed import MixedIndex


@dataclass(frozen=True)
class Prepared:
    """Everything that can be wrong with a run's configuration and data has been looked at once this exists.

    Attributes:
        model: fresh, on the CPU.
        identity: what decides the result of training, by configuration key.
        maps: fingerprints of the score maps that the selection looks at, by the configuration's key of their data;
            empty where it looks at none.
        held_images: what echo and cache will hold, for people; None where nothing is held.
        notes: what the first rank should say of classes, of pixel statistics and of what weights are held to; nothing
            where all is as it should be.
        anchored_to: what weights are held to, on the CPU; None without ``train.anchor``.
    """

    config: RunConfig
    plan: RunPlan
    train_index: ShardIndex
    val_sets: tuple[ValSet, ...]
    planner: TrainPlanner
    model: Model
    identity: dict[str, Any]
    maps: Mapping[str, str]
    held_images: str | None
    notes: tuple[str, ...] = ()
    anchored_to: Held | None = None

    @property
    def indexes(self) -> Mapping[str, ShardIndex]:
        """What the run reads, by the name of the configuration's key: each source, then all with the run's labels."""
        sources = self.train_index.sources if isinstance(self.train_index, MixedIndex) else ()
        return {
            **{f"data.train.{source.name}": source.index for source in sources},
            "data.train": self.train_index,
            **{one.key: one.index for one in self.val_sets},
        }

    @property
    def class_names(self) -> list[str]:
        """In label order; empty where nobody names them. Raises as ``data_sets.class_names_of``."""
        return class_names_of(self.config.data)


def set_up_torch(config: RunConfig, world: World) -> None:
    """Set how many threads torch computes with in this process, and on a GPU how it multiplies float32 matrices.

    Where a CPU trains, what a step frees is kept for the next one.
    """
    torch.set_num_threads(config.engine.num_threads or world.trainer_threads)
    if world.device.type == "cpu":
        keep_freed_memory()
    if world.device.type == "cuda":
        torch.set_float32_matmul_precision("high" if config.engine.tf32 else "highest")  # high is TF32


def prepare(config: RunConfig, world: World) -> Prepared:
    """Open and check every input of the run, and build its model. Nothing collective, nothing written.

    It also sets up torch: see ``set_up_torch``.

    Raises:
        ValueError, OSError: an input that cannot be used.
    """
    if world.is_first:
        check_monitors(config.monitor)
    set_up_torch(config, world)
    inputs = open_inputs(config, world.size, world.local_size)
    if config.data.device == "gpu" and world.device.type != "cuda":
        raise ValueError("data.device is gpu, but no GPU is visible here; set data.device to cpu")
    if config.engine.compile:
        check_can_compile(world.device.type)
    says = world.is_first and config.task == "classify"
    names = class_names_of(config.data) if says else []
    held = {one.name or "validation": one.index for one in inputs.val_sets}
    notes = describe_classes(inputs.train_index, held, names, config.data.num_classes) if says else []
    if world.is_first:
        notes += describe_statistics(config.data, Weights(config.model.name, config.model.pretrained))
    maps = {key: maps.fingerprint() for key, maps in inputs.maps.items()}
    torch.manual_seed(config.seed)
    model = build_task_model(config)
    anchored_to = read_held(config, model)
    return Prepared(
        config,
        inputs.plan,
        inputs.train_index,
        inputs.val_sets,
        inputs.planner,
        model,
        identity(
            config,
            inputs.train_index,
            maps.get("data.train"),
            None if anchored_to is None else anchored_to.fingerprint,
        ),
        maps=maps,
        held_images=inputs.held_images,
        notes=(*notes, *describe_held(config, anchored_to)),
        anchored_to=anchored_to,
    )


def build_task_model(config: RunConfig) -> Model:
    """The model that the configuration's task trains, with the weights that it starts from.

    Raises:
        ValueError, OSError: a model or weights that cannot be used.
    """
    vit = build_run_model(config, pretrained=config.model.pretrained, for_training=True)
    return masked_autoencoder(vit, config.pretrain) if config.task == "pretrain" else vit
