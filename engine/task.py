"""What a run does with a batch: classify its images, or reconstruct what it does not see of them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.config import RunConfig
from engine.losses import classification_loss, cross_entropy, topk_correct
from engine.models.masked_autoencoder import MaskedAutoencoder, reconstruction_loss
from engine.models.patch_embed import PatchModel
from pipeline.batch import Batch
from pipeline.plan.schedule import ScheduleConfig, Stage

Model = PatchModel | MaskedAutoencoder


class Outcome(NamedTuple):
    """What training a batch comes to.

    Attributes:
        losses: float32 [B] with their graph, of each row by itself; of images mixed in pairs, that of the mixed target.
        logits: [B, num_classes], with their graph; None under ``task: pretrain``.
    """

    losses: Tensor
    logits: Tensor | None

    def mean_loss(self, batch: Batch) -> Tensor:
        """The loss that is trained on: the rows' weighted mean, where ``batch`` weighs them. Float32 scalar."""
        return (self.losses if batch.weights is None else self.losses * batch.weights).mean()


def training_outcome(model: nn.Module, batch: Batch, config: RunConfig) -> Outcome:
    """Losses and logits of a batch. ``model`` is a ``Model``, or DeepSpeed around it."""
    if config.task == "pretrain":
        return Outcome(_reconstruction_losses(model, batch, config), None)
    logits = model(batch.patches, batch.ids_keep, **model_sizes(config.schedule, batch.plan.stage))
    losses = classification_loss(
        config.train.loss,
        logits,
        batch.labels,
        label_smoothing=config.train.label_smoothing,
        mix_labels=batch.mix_labels,
        mix_weights=batch.mix_weights,
    )
    return Outcome(losses, logits)


def training_loss(model: nn.Module, batch: Batch, config: RunConfig) -> Tensor:
    """The loss that a batch is trained on, float32 scalar with its graph. ``model`` as for ``training_outcome``."""
    return training_outcome(model, batch, config).mean_loss(batch)


def model_sizes(schedule: ScheduleConfig, stage: Stage) -> dict[str, int]:
    """What the model is told of a training step's sizes in pixels, by argument: those that follow a schedule."""
    return {axis: getattr(stage, axis) for axis in schedule.sizes}


def validation_sums(model: nn.Module, batch: Batch, config: RunConfig) -> Tensor:
    """Sums over the counted rows of a batch, float64 on its device: [loss], or [loss, correct at 1, correct at 5].

    A classifier is told the sizes in ``config.data``, those of the batch, which need not be the ones it was made for.
    """
    if config.task == "pretrain":
        return _reconstruction_losses(model, batch, config)[batch.counted].double().sum()[None]
    sizes = {"image_size": config.data.image_size, "patch_size": config.data.patch_size}
    logits = model(batch.patches, batch.ids_keep, **sizes)[batch.counted].float()
    labels = batch.labels[batch.counted]
    parts = (cross_entropy(logits, labels), topk_correct(logits, labels, 1), topk_correct(logits, labels, 5))
    return torch.stack([part.double().sum() for part in parts])


def _reconstruction_losses(model: nn.Module, batch: Batch, config: RunConfig) -> Tensor:
    assert batch.target_patches is not None
    return reconstruction_loss(
        model(batch.patches, batch.ids_keep, batch.ids_target),
        batch.target_patches,
        mean=config.data.mean,
        std=config.data.std,
        norm_targets=config.pretrain.norm_targets,
    )
