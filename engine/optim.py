"""Parameter groups, the learning rate of a step, and the optimizer."""

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

from engine.models.masked_autoencoder import MaskedAutoencoder
from engine.models.patch_embed import PatchModel
from engine.values.decay import Progress


def param_groups(
    model: PatchModel | MaskedAutoencoder, *, weight_decay: float, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups for an optimizer.

    Norms, biases, layer scales, positions of every kind, class and register tokens get no weight decay. With
    ``layer_decay`` (BEiT, arXiv 2106.08254) a layer's learning rate shrinks by that factor with each layer it lies
    below the head; None means the same rate everywhere.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr_scale`` (the factor on the learning rate, 1.0 for the
        head).

    Raises:
        ValueError: for a negative ``weight_decay`` or a ``layer_decay`` outside (0, 1].
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay must lie in (0, 1], or be left out, got {layer_decay}")
    no_decay = model.no_weight_decay()
    if layer_decay is None:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=no_decay)
    else:
        groups = param_groups_layer_decay(model, weight_decay, no_weight_decay_list=no_decay, layer_decay=layer_decay)
    return [{"lr_scale": 1.0, **group} for group in groups]


def learning_rate(
    step: int,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int,
    warmup_start: float = 0.0,
    final: float = 0.0,
    progress: Progress | None = None,
) -> float:
    """The learning rate of step ``step``, counted from 0: a linear warm-up, then half a cosine.

    With W = warmup_steps, T = total_steps, and p = progress(step), or (step - W) / (T - W) without one:

        step <  W:  warmup_start + (peak - warmup_start) * (step + 1) / (W + 1)
        step >= W:  final + (peak - final) * (1 + cos(pi * p)) / 2

    So step W is the first at the peak, step 0 already moves even if ``warmup_start`` is 0, and the last step, T
    - 1, lies one cosine step above ``final``: no step is wasted on a rate of 0.

    Raises:
        ValueError: for a step outside the run, or a warm-up that is as long as the run.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit a run of {total_steps}: it must be shorter")
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} lies outside the run: steps go from 0 to {total_steps - 1}")
    if step < warmup_steps:
        return warmup_start + (peak - warmup_start) * (step + 1) / (warmup_steps + 1)
    come = (step - warmup_steps) / (total_steps - warmup_steps) if progress is None else progress(step)
    return final + (peak - final) * (1 + math.cos(math.pi * come)) / 2


def build_optimizer(
    groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.AdamW:
    """AdamW over the groups of ``param_groups``, at ``lr`` times each group's ``lr_scale``.

    Fused, on a CPU too: one pass over weights, gradients and moments, whose results repeat bit for bit there.
    """
    scaled = [{**group, "lr": lr * group["lr_scale"]} for group in groups]
    return torch.optim.AdamW(scaled, lr=lr, betas=betas, eps=eps, fused=True)


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Give every group of ``optimizer`` (torch's, or DeepSpeed's around it) the rate ``lr * lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
