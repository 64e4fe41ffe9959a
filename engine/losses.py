"""The training loss and the accuracy of a batch, one value a sample, so that any set can be averaged."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    kind: Literal["cross_entropy", "binary_cross_entropy"],
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    mix_labels: Tensor | None = None,
    mix_weights: Tensor | None = None,
) -> Tensor:
    """The loss ``train.loss`` of each sample, float32 [B].

    Args:
        logits: [B, num_classes], any floating dtype.
        labels: integers [B].
        mix_labels, mix_weights: integers [B] and float32 [B], where images are mixed in pairs: the partner's label, and
            the share of the row's own label; the partner's has the rest.
    """
    loss = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}[kind]
    own = loss(logits, labels, label_smoothing=label_smoothing)
    if mix_labels is None or mix_weights is None:
        return own
    # Both losses are linear in their target, so the loss of the mixed target is the mixture of the losses.
    return mix_weights * own + (1 - mix_weights) * loss(logits, mix_labels, label_smoothing=label_smoothing)


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each sample, float32 [B], computed in float32 whatever the logits' precision.

    Args:
        logits: [B, num_classes], any floating dtype.
        labels: integers [B].
        label_smoothing: the share of the target spread evenly over all classes (arXiv 1512.00567, section 7).
    """
    return F.cross_entropy(logits.float(), labels.long(), reduction="none", label_smoothing=label_smoothing)


def binary_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """A yes-or-no loss per class, its mean over the classes for each sample: float32 [B], computed in float32.

    timm and DeiT III take the mean too, so their learning rates fit; the sum is num_classes times as large.

    Args:
        logits: [B, num_classes], any floating dtype.
        labels: integers [B].
        label_smoothing: the share of the target spread evenly over all classes, as in ``cross_entropy``.
    """
    spread = label_smoothing / logits.shape[1]
    targets = torch.full_like(logits, spread, dtype=torch.float32)
    targets.scatter_(1, labels.long().unsqueeze(1), 1 - label_smoothing + spread)
    return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(1)


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each sample's label is among its ``k`` highest logits, bool [B].

    Equal logits rank by class index, the lower class first, so an untrained model that says the same for
    every class scores at chance. A logit that is not a number ranks before everything: it never makes its own
    label correct. With fewer than ``k`` classes all of them count as the top.
    """
    labels = labels.long().unsqueeze(1)
    own = logits.gather(1, labels)
    lower_class = torch.arange(logits.shape[1], device=logits.device) < labels
    ahead = ~(logits <= own) | ((logits == own) & lower_class)
    return ahead.sum(1) < min(k, logits.shape[1])
