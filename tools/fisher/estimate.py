"""The diagonal of a classifier's Fisher information: the mean square of the gradients of single images."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import RunConfig
from engine.models.patch_embed import PatchModel
from pipeline.batch import Batch
from pipeline.cores import allowed_cores, loader_threads
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan.step import ValidationPlanner
from pipeline.selection.config import SelectionConfig
from pipeline.shards.data_sets import open_train
from pipeline.shards.index import ShardIndex

_IMAGES_LOADED = 64  # at a time; their gradients are taken one by one


def fisher_diagonal(model: PatchModel, batches: Iterable[Batch], seed: int) -> tuple[dict[str, Tensor], int]:
    """The diagonal by parameter name, and over how many images it is the mean.

    Of each image: the square of the gradient of log p(y | image), for a class y that is drawn from the model's own
    distribution over classes. With y from the data it would be the empirical Fisher information, which vanishes
    wherever the model is sure and right, though the weights matter there (arXiv 1905.12558).

    Args:
        model: in eval mode, on the CPU.
        batches: as a loader gives them; rows that do not count are left out.
        seed: of the classes that are drawn.

    Returns:
        float32 tensors on the CPU, of the parameters' shapes; and the number of images.
    """
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    drawn, num_images = torch.Generator().manual_seed(seed % 2**63), 0
    for batch in batches:
        for row in np.flatnonzero(batch.plan.counted):
            logits = model(batch.patches[row : row + 1], batch.ids_keep[row : row + 1]).float()
            label = torch.multinomial(logits.detach().softmax(dim=1)[0], 1, generator=drawn)
            loss = F.cross_entropy(logits, label)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient, gradient)
            num_images += 1
    if not num_images:
        raise ValueError("not one of the images can be decoded; see tools.shards verify")
    return {name: total.detach() / num_images for name, total in sums.items()}, num_images


def training_batches(config: RunConfig, num_images: int) -> Iterator[Batch]:
    """Training images at even distances over the whole set, each as validation would show it, with all patches.

    Args:
        num_images: how many; at most all there are.

    Raises:
        ValueError, OSError: the set cannot be opened, or an image cannot be decoded.
    """
    data = config.data.model_copy(update={"device": "cpu", "levels": ()})
    index = some_of(open_train(data), num_images)
    batch_size = min(_IMAGES_LOADED, index.num_samples)
    rule = SelectionConfig(rule="grid")  # which one does not matter: every patch is kept
    planner = ValidationPlanner(index, data, rule, 1.0, batch_size, config.seed)
    num_threads = loader_threads(allowed_cores())
    with PatchLoader(planner, validation_plans(planner), batch_size=batch_size, num_threads=num_threads) as loader:
        yield from loader


def some_of(index: ShardIndex, num_images: int) -> ShardIndex:
    """The set, with all samples excluded but ``num_images`` at even distances; itself where it has no more."""
    if num_images >= index.num_samples:
        return index
    taken = index.sample_ids(np.arange(num_images, dtype=np.int64) * index.num_samples // num_images)
    return replace(index, excluded=np.setdiff1d(np.arange(len(index.shard), dtype=np.int64), taken))
