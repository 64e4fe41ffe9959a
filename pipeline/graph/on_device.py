"""Selection where the images are, in torch: what a GPU does after the DALI graph."""

from collections.abc import Callable

import torch

from pipeline.selection.config import SelectionConfig, open_scores
from pipeline.selection.magnitude import EmbeddingSnapshot, MagnitudeScorer

DeviceScores = Callable[[torch.Tensor], torch.Tensor]  # uint8 [B, S, S, 3] to float32 [B, N] on the same device


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


def magnitude_on_device(images: torch.Tensor, scorer: MagnitudeScorer) -> torch.Tensor:
    """``scorer.scores`` in torch: float32 [B, N] on the device of ``images``, uint8 [B, S, S, 3]."""
    patches = _patches(images, scorer.grid_size).float()
    kernel, offsets, rest = (torch.from_numpy(array).to(images.device) for array in scorer.arrays())
    embedded = patches @ kernel.T + offsets
    total = embedded.square().sum(2).add(rest).sqrt() if scorer.is_squared else embedded.abs().sum(2)
    return total * scorer.scale


def contrast_on_device(images: torch.Tensor, grid_size: int) -> torch.Tensor:
    """``rules.contrast_scores`` in torch, the same to the last bit: float32 [B, N] from uint8 [B, S, S, 3]."""
    pixels = _patches(images, grid_size).unflatten(2, (-1, 3)).long()
    num_pixels = pixels.shape[2]
    spread = num_pixels * pixels.square().sum(2) - pixels.sum(2).square()
    return (spread.sum(2).double().div(3).sqrt() / (num_pixels * 255)).float()


def open_device_scores(
    selection: SelectionConfig, grid_size: int, *, snapshot: EmbeddingSnapshot | None = None, seed: int = 0
) -> DeviceScores | None:
    """``open_scores`` for images that lie on a device; None where the rule looks at no image.

    A rule that is not in ``_IN_TORCH`` scores copies of the images on the CPU.
    """
    score = open_scores(selection, grid_size, snapshot=snapshot, seed=seed)
    if score is None:
        return None
    if selection.rule in _IN_TORCH:
        return _IN_TORCH[selection.rule](selection, grid_size, snapshot, seed)
    return lambda images: torch.from_numpy(score(list(images.cpu().numpy()))).to(images.device)


def _contrast(_: SelectionConfig, grid_size: int, snapshot: EmbeddingSnapshot | None, seed: int) -> DeviceScores:
    return lambda images: contrast_on_device(images, grid_size)


def _magnitude(
    selection: SelectionConfig, grid_size: int, snapshot: EmbeddingSnapshot | None, seed: int
) -> DeviceScores:
    assert snapshot is not None
    scorer = MagnitudeScorer(snapshot, selection, grid_size, seed)
    return lambda images: magnitude_on_device(images, scorer)


_IN_TORCH = {"contrast": _contrast, "magnitude": _magnitude}


def _patches(images: torch.Tensor, grid_size: int) -> torch.Tensor:
    """[B, N, P*P*3] of [B, S, S, 3], in (row, column, channel) order."""
    batch, size = images.shape[:2]
    tiles = images.reshape(batch, grid_size, size // grid_size, grid_size, -1).transpose(2, 3)
    return tiles.reshape(batch, grid_size * grid_size, -1)
