"""Maps of the kind ``attention``: what a trained model's class token attends to in the last block, all patches kept."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.checkpoints.checkpoint import weights_digest
from engine.evaluation.trained import load_trained
from engine.models.patch_embed import PatchModel
from engine.ranks.devices import find_device
from pipeline.selection.patches import patchify
from tools.shards.maps.batches import maps_by_batch, run_facts
from tools.shards.maps.shard_images import MakeMaps


def open_attention(run: Path) -> tuple[MakeMaps, dict[str, Any]]:
    """What makes the maps, and what it is made of.

    Raises:
        ValueError, OSError: it is no finished run, its model has no class token, or a GPU does not work.
    """
    trained = load_trained(run)
    data, model = trained.config.data, trained.model
    check_class_token(model)
    facts = run_facts(trained, weights_digest(model.state_dict()))
    model.to(find_device())

    def score(images: np.ndarray) -> np.ndarray:
        found = class_attention(model, torch.from_numpy(patchify(images, data.patch_size)))
        return found.cpu().numpy().reshape(-1, data.grid_size, data.grid_size)

    return maps_by_batch(score, data.image_size), facts


def check_class_token(model: PatchModel) -> None:
    """Raise ValueError for a model without a class token, by its name."""
    if model.cls_token is None:
        raise ValueError(
            f"model {model.timm_name} has no class token, whose attention these maps would be; score by magnitude:RUN, "
            "or name a run of a model that has one"
        )


def class_attention(model: PatchModel, patches: Tensor) -> Tensor:
    """The class token's attention to every patch in the last block, the mean over the heads: float32 [B, N].

    Args:
        patches: uint8 [B, N, P*P*3], all of them, in raster order.
    """
    attention = model.blocks[-1].attn
    was_fused, seen = attention.fused_attn, []
    attention.fused_attn = False  # fused attention never has the weights in memory
    hook = attention.attn_drop.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    device = next(model.parameters()).device
    ids = torch.arange(patches.shape[1], device=device).expand(len(patches), -1)
    try:
        with torch.no_grad():
            model.forward_features(patches.to(device), ids)
    finally:
        hook.remove()
        attention.fused_attn = was_fused
    (weights,) = seen
    return weights[:, :, 0, model.num_prefix_tokens :].float().mean(dim=1)
