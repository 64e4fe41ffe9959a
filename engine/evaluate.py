"""Validation at any keep rate, every sample exactly once on any number of ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from engine.config import RunConfig
from engine.losses import cross_entropy, topk_correct
from engine.ranks import World
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan import ValidationPlanner
from pipeline.shards import ShardIndex


@dataclass(frozen=True)
class Accuracy:
    """Shares of the validation set; ``top5`` is over as many classes as there are, if fewer than five."""

    keep_rate: float
    num_kept: int
    top1: float
    top5: float
    loss: float
    num_samples: int


def evaluate(
    model: nn.Module,
    index: ShardIndex,
    config: RunConfig,
    keep_rate: float,
    world: World,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> Accuracy | None:
    """One pass over the validation set. Collective: every rank must call it, and gets the same result.

    ``is_interrupted`` is asked before each batch, must answer alike on all ranks, and ends the pass with None.
    """
    planner = ValidationPlanner(
        index, config.data, config.selection, keep_rate, config.eval.micro_batch_size, config.seed
    )
    was_training = model.training
    model.eval()
    # correct at 1, correct at 5, loss, samples; float64 holds counts exactly and keeps the sum of losses steady.
    totals = torch.zeros(4, dtype=torch.float64, device=world.device)
    with (
        torch.no_grad(),
        PatchLoader(
            index,
            validation_plans(planner, rank=world.rank, world_size=world.size),
            data=config.data,
            selection=config.selection,
            crop="resized",
            batch_size=config.eval.micro_batch_size,
            num_threads=config.data.num_threads or world.cores,
            device_id=world.local_rank if config.data.device == "gpu" else None,
        ) as loader,
    ):
        for batch in loader:
            if is_interrupted():
                model.train(was_training)
                return None
            batch = batch.to(world.device)
            logits = model(batch.patches, batch.ids_keep)[batch.counted].float()
            labels = batch.labels[batch.counted]
            totals[0] += topk_correct(logits, labels, 1).sum()
            totals[1] += topk_correct(logits, labels, 5).sum()
            totals[2] += cross_entropy(logits, labels).double().sum()
            totals[3] += len(labels)
    dist.all_reduce(totals)
    model.train(was_training)
    correct1, correct5, loss, num_samples = totals.tolist()
    assert num_samples == index.num_samples
    return Accuracy(
        keep_rate,
        planner.plan(0).stage.num_kept,
        correct1 / num_samples,
        correct5 / num_samples,
        loss / num_samples,
        int(num_samples),
    )
