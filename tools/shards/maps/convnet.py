"""Maps of the kind ``convnet``: where a light ConvNet's last features are large.

PaPr (arXiv 2403.16020) keeps the patches on which the mean over the channels of a frozen ConvNet's last feature map is
largest. It sees the whole image at its own size, with the weights that timm publishes or those of a file.
"""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from engine.checkpoints.checkpoint import weights_digest
from engine.models.weight_files import read_weights
from engine.ranks.devices import find_device
from tools.shards.maps.batches import maps_by_batch
from tools.shards.maps.shard_images import MakeMaps


def open_convnet(name: str, weights: Path | None) -> tuple[MakeMaps, dict[str, Any]]:
    """What makes the maps, and what it is made of.

    Args:
        name: timm's. weights: a .safetensors or .pth file; None: those that timm publishes.

    Raises:
        ValueError, OSError: timm has no such model, it is no ConvNet, its weights cannot be had, or a GPU does not
            work.
    """
    model = _loaded(name, weights)
    facts = {"model": name, "weights_digest": weights_digest(model.state_dict())}
    described = resolve_model_data_config(model)
    size = described["input_size"][-1]
    device = find_device()
    mean, std = (torch.tensor(described[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
    model.eval().to(device)

    def score(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            features = model.forward_features((pixels - mean) / std)  # type: ignore[operator]
        return features.mean(dim=1).cpu().numpy()

    with torch.no_grad():
        shape = model.forward_features(torch.zeros(1, 3, size, size, device=device)).shape  # type: ignore[operator]
    if len(shape) != 4 or shape[1] != model.num_features:
        raise ValueError(
            f"{name} is no ConvNet: its last features are not channels over a grid; try mobilenetv3_small_100"
        )
    return maps_by_batch(score, size), facts


def _loaded(name: str, weights: Path | None) -> nn.Module:
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}; light ConvNets are mobilenetv3_small_100 and resnet18")
    model = timm.create_model(name)
    own = model.state_dict()
    try:
        state = read_weights("timm" if weights is None else str(weights), name, own.keys()).state
    except ValueError as error:
        raise ValueError(f"{error}; for score maps: --weights FILE names a file of them") from error
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    model.load_state_dict(fitting, strict=False)
    head = tuple(f"{one}." for one in np.atleast_1d(model.pretrained_cfg.get("classifier") or ()))
    lost = [key for key in own if key not in fitting and not key.startswith(head)]
    if lost:
        raise ValueError(
            f"{weights} has no weights for {', '.join(lost[:6])} of {name}: name a file of this very model"
        )
    return model
