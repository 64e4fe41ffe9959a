"""Validation at any keep rate, every sample exactly once on any number of ranks."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from engine.bad_data import DataError, read_batches
from engine.config import RunConfig
from engine.loading import open_loader
from engine.models.patch_embed import PatchModel
from engine.ranks.world import World
from engine.snapshots import take_snapshot
from engine.task import validation_sums
from pipeline.graph.bad_samples import BadRow
from pipeline.loader import validation_plans
from pipeline.plan.step import ValidationPlanner
from pipeline.selection.snapshots import fixed_board
from pipeline.shards.index import ShardIndex
from pipeline.storage.errors import StoreGoneError


@dataclass(frozen=True)
class Accuracy:
    """Shares of the validation set; ``top5`` is over as many classes as there are, if fewer than five.

    ``bad_samples`` could not be decoded (under ``data.on_bad_sample: skip``) and are not among the ``num_samples``.
    ``val``: name of the set, None where there is only one and it has none.
    """

    keep_rate: float
    num_kept: int
    top1: float
    top5: float
    loss: float
    num_samples: int
    bad_samples: int = 0
    val: str | None = None

    def __str__(self) -> str:
        return f"{self.top1:.2%}"

    def as_line(self) -> dict[str, Any]:
        return _as_line(self)


@dataclass(frozen=True)
class Reconstruction:
    """The mean reconstruction loss over the validation set; samples and ``val`` are as in ``Accuracy``."""

    keep_rate: float
    num_kept: int
    loss: float
    num_samples: int
    bad_samples: int = 0
    val: str | None = None

    def __str__(self) -> str:
        return f"{self.loss:.4f}"

    def as_line(self) -> dict[str, Any]:
        return _as_line(self)


Evaluation = Accuracy | Reconstruction


def _as_line(evaluation: Evaluation) -> dict[str, Any]:
    """Its part of a line of metrics: without ``val`` where the set has no name."""
    return {key: value for key, value in asdict(evaluation).items() if key != "val" or value is not None}


def by_set(evaluations: Sequence[Evaluation]) -> dict[str | None, list[Evaluation]]:
    """The evaluations by the name of their set, in the order of the sets."""
    found: dict[str | None, list[Evaluation]] = {}
    for one in evaluations:
        found.setdefault(one.val, []).append(one)
    return found


def evaluation_from_line(line: dict[str, Any], config: RunConfig) -> Evaluation:
    """The evaluation that a line of the run's metrics tells of."""
    kind = Reconstruction if config.task == "pretrain" else Accuracy
    return kind(**{field.name: line[field.name] for field in fields(kind) if field.name in line})


def evaluate(
    model: nn.Module,
    index: ShardIndex,
    config: RunConfig,
    keep_rate: float,
    world: World,
    is_interrupted: Callable[[], bool] = lambda: False,
    *,
    image_size: int | None = None,
    patch_size: int | None = None,
    on_store_lost: Callable[[StoreGoneError], object] = lambda error: None,
) -> tuple[Evaluation | None, list[BadRow]]:
    """One pass over the validation set, and the bad samples that this rank met.

    A rule that looks through the model sees it as it is now, whatever training selects by.

    Collective: every rank must call it, and gets the same evaluation. ``is_interrupted`` is asked before each batch,
    must answer alike on all ranks, and ends the pass without an evaluation.

    Args:
        image_size, patch_size: in pixels, of what a classifier is shown; None: as configured.

        on_store_lost: called once the shards' store gives nothing more; two batches are still to come.

    Raises:
        DataError: an image or a shard that cannot be used.
        ValueError: sizes that do not fit one another, or other ones than its own for a masked autoencoder.
    """
    config = _at_sizes(config, image_size, patch_size)
    planner = ValidationPlanner(
        index, config.data, config.selection, keep_rate, config.eval.micro_batch_size, config.seed
    )
    was_training = model.training
    model.eval()
    snapshots = None
    if config.selection.needs_model:
        looked_through = cast(PatchModel, getattr(model, "module", model))
        sizes = {"image_size": config.data.image_size, "patch_size": config.data.patch_size}
        snapshots = fixed_board(take_snapshot(looked_through, 0, **sizes))
    # float64 holds counts exactly and keeps the sum of losses steady.
    sums = torch.zeros((), dtype=torch.float64, device=world.device)
    counts = torch.zeros(2, dtype=torch.float64, device=world.device)  # samples, bad ones
    with (
        torch.no_grad(),
        open_loader(
            planner,
            validation_plans(planner, rank=world.rank, world_size=world.size),
            config,
            world,
            batch_size=config.eval.micro_batch_size,
            snapshots=snapshots,
            reserve=2,
            on_store_lost=on_store_lost,
        ) as loader,
    ):
        for batch in read_batches(loader):
            if is_interrupted():
                model.train(was_training)
                return None, []
            batch = batch.to(world.device)
            sums = sums + validation_sums(model, batch, config)
            counts[0] += batch.counted.sum()
        bad = loader.take_bad_rows()
        counts[1] += len(bad)
    dist.all_reduce(sums)
    dist.all_reduce(counts)
    model.train(was_training)
    num_samples, num_bad = (int(count) for count in counts.tolist())
    assert num_samples + num_bad == index.num_samples
    if not num_samples:
        raise DataError(f"{index.place}: not one sample of {index.split} can be decoded", agreed=True)
    loss, *correct = (value / num_samples for value in sums.tolist())
    num_kept = planner.plan(0).stage.num_kept
    if config.task == "pretrain":
        return Reconstruction(keep_rate, num_kept, loss, num_samples, num_bad), bad
    top1, top5 = correct
    return Accuracy(keep_rate, num_kept, top1, top5, loss, num_samples, num_bad), bad


def _at_sizes(config: RunConfig, image_size: int | None, patch_size: int | None) -> RunConfig:
    data = config.data.at(image_size, patch_size)
    if config.task == "pretrain" and data != config.data:
        raise ValueError(
            f"a masked autoencoder reconstructs images of its own sizes, {config.data.image_size} pixels in patches of "
            f"{config.data.patch_size}; leave image_size and patch_size out"
        )
    return config.model_copy(update={"data": data})
