"""Selection where the images are, in torch: what a GPU does after the DALI graph, and a CPU does inside of it."""

import torch

from pipeline.selection.magnitude import MagnitudeScorer


def gather_on_device(images: torch.Tensor, ids_keep: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Kept patches gathered where the images are.

    Args:
        images: uint8 [B, S, S, 3] on any device.
        ids_keep: int32 [B, K] on any device.

    Returns:
        uint8 [B, K, P*P*3] on the device of ``images``.
    """
    batch, size = images.shape[:2]
    grid = size // patch_size
    ids = ids_keep.to(images.device, torch.int64)
    tiles = images.reshape(batch, grid, patch_size, grid, patch_size * 3)
    rows = torch.arange(batch, device=images.device)[:, None]
    return tiles[rows, ids // grid, :, ids % grid].reshape(batch, ids.shape[1], -1)


def score_on_device(images: torch.Tensor, scorer: MagnitudeScorer) -> torch.Tensor:
    """``scorer.scores`` in torch: float32 [B, N] on the device of ``images``, uint8 [B, S, S, 3]."""
    batch, size = images.shape[:2]
    grid = scorer.grid_size
    tiles = images.reshape(batch, grid, size // grid, grid, -1).transpose(2, 3)
    patches = tiles.reshape(batch, grid * grid, -1).float()
    kernel, offsets, rest = (torch.from_numpy(array).to(images.device) for array in scorer.arrays())
    embedded = patches @ kernel.T + offsets
    total = embedded.square().sum(2).add(rest).sqrt() if scorer.is_squared else embedded.abs().sum(2)
    return total * scorer.scale
