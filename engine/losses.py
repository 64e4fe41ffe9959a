"""The training loss and the accuracy of a batch, one value a sample, so that any set can be averaged."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of each sample, float32 [B], computed in float32 whatever the logits' precision.

    Args:
        logits: [B, num_classes], any floating dtype.
        labels: integers [B].
        label_smoothing: the share of the target spread evenly over all classes (arXiv 1512.00567, section 7).
    """
    return F.cross_entropy(logits.float(), labels.long(), reduction="none", label_smoothing=label_smoothing)


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each sample's label is among its `k` highest logits, bool [B].

    Equal logits rank by class index, the lower class first, so an untrained model that says the same for
    every class scores at chance. A logit that is not a number ranks before everything: it never makes its own
    label correct. With fewer than `k` classes all of them count as the top.
    """
    labels = labels.long().unsqueeze(1)
    own = logits.gather(1, labels)
    lower_class = torch.arange(logits.shape[1], device=logits.device) < labels
    ahead = ~(logits <= own) | ((logits == own) & lower_class)
    return ahead.sum(1) < min(k, logits.shape[1])
