"""Validation at any keep rate, every sample exactly once on any number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import nn

from engine.bad_data import DataError, read_batches
from engine.config import RunConfig
from engine.losses import cross_entropy, topk_correct
from engine.patch_embed import PatchModel
from engine.ranks import World
from engine.snapshots import take_snapshot
from pipeline.bad_samples import BadRow
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan import ValidationPlanner
from pipeline.shards import ShardIndex
from pipeline.snapshots import fixed_board


@dataclass(frozen=True)
class Accuracy:
    """Shares of the validation set; ``top5`` is over as many classes as there are, if fewer than five.

    ``bad_samples`` could not be decoded (under ``data.on_bad_sample: skip``) and are not among the ``num_samples``.
    """

    keep_rate: float
    num_kept: int
    top1: float
    top5: float
    loss: float
    num_samples: int
    bad_samples: int = 0


def evaluate(
    model: nn.Module,
    index: ShardIndex,
    config: RunConfig,
    keep_rate: float,
    world: World,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> tuple[Accuracy | None, list[BadRow]]:
    """One pass over the validation set, and the bad samples that this rank met.

    A rule that looks through the model sees it as it is now, whatever training selects by.

    Collective: every rank must call it, and gets the same accuracy. ``is_interrupted`` is asked before each batch, must
    answer alike on all ranks, and ends the pass without an accuracy.

    Raises:
        DataError: an image or a shard that cannot be used.
    """
    planner = ValidationPlanner(
        index, config.data, config.selection, keep_rate, config.eval.micro_batch_size, config.seed
    )
    was_training = model.training
    model.eval()
    snapshots = (
        fixed_board(take_snapshot(cast(PatchModel, getattr(model, "module", model)), 0))
        if config.selection.needs_model
        else None
    )
    # correct at 1 and at 5, loss, samples, bad ones; float64 holds counts exactly and keeps the sum of losses steady.
    totals = torch.zeros(5, dtype=torch.float64, device=world.device)
    with (
        torch.no_grad(),
        PatchLoader(
            index,
            validation_plans(planner, rank=world.rank, world_size=world.size),
            data=config.data,
            selection=config.selection,
            crop="centre",
            batch_size=config.eval.micro_batch_size,
            num_threads=config.data.num_threads or world.cores,
            device_id=world.local_rank if config.data.device == "gpu" else None,
            substitutes=planner if config.data.on_bad_sample == "skip" else None,
            snapshots=snapshots,
            seed=config.seed,
        ) as loader,
    ):
        for batch in read_batches(loader):
            if is_interrupted():
                model.train(was_training)
                return None, []
            batch = batch.to(world.device)
            logits = model(batch.patches, batch.ids_keep)[batch.counted].float()
            labels = batch.labels[batch.counted]
            totals[0] += topk_correct(logits, labels, 1).sum()
            totals[1] += topk_correct(logits, labels, 5).sum()
            totals[2] += cross_entropy(logits, labels).double().sum()
            totals[3] += len(labels)
        bad = loader.take_bad_rows()
        totals[4] += len(bad)
    dist.all_reduce(totals)
    model.train(was_training)
    correct1, correct5, loss, num_samples, num_bad = totals.tolist()
    assert num_samples + num_bad == index.num_samples
    if not num_samples:
        raise DataError(f"{index.folder}: not one sample of {index.split} can be decoded", agreed=True)
    accuracy = Accuracy(
        keep_rate,
        planner.plan(0).stage.num_kept,
        correct1 / num_samples,
        correct5 / num_samples,
        loss / num_samples,
        int(num_samples),
        int(num_bad),
    )
    return accuracy, bad
