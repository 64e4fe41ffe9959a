"""Selection where the images are, in torch: what a GPU does after the DALI graph.

Nothing here makes the host wait for the device, but a rule that is not in ``_IN_TORCH``.
"""

from collections.abc import Callable

import numpy as np
import torch

from pipeline.selection.config import SelectionConfig, open_scores
from pipeline.selection.magnitude import EmbeddingSnapshot, MagnitudeScorer

DeviceScores = Callable[[torch.Tensor], torch.Tensor]  # uint8 [B, S, S, 3] to float32 [B, N] on the same device

# What is worked out on the way to a score takes some eight bytes for every byte of the images.
_IMAGES_AT_A_TIME = 128


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
    return tiles[rows, ids // grid, :, ids % grid].reshape(*ids.shape, patch_size * patch_size * 3)


def ranked_on_device(scores: torch.Tensor, num_kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``rules.top_k`` in torch, and what it leaves.

    Args:
        scores: float32 or float64 [B, N], no NaN.

    Returns:
        The ``num_kept`` best patches int32 [B, K] and the others int32 [B, N-K], ascending, on the device of
        ``scores``; ties go to the lower index.
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices.to(torch.int32)
    return order[:, :num_kept].sort(dim=1).values, order[:, num_kept:].sort(dim=1).values


def all_on_device(num_rows: int, num_patches: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``ranked_on_device`` gives where every patch is kept, whatever the scores."""
    ids = torch.arange(num_patches, dtype=torch.int32, device=device).repeat(num_rows, 1)
    return ids, ids[:, num_patches:]


def perturbed_on_device(scores: torch.Tensor, gumbels: torch.Tensor, temperature: float) -> torch.Tensor:
    """``rules.perturbed`` in torch, the same to the last bit, for a temperature above 0: float64 [B, N].

    Args:
        scores: float32 [B, N]; gumbels: float64 [B, N], of ``rules.gumbel``, on the same device.
    """
    return _quotient(scores.double(), temperature) + gumbels


def contrast_on_device(images: torch.Tensor, grid_size: int) -> torch.Tensor:
    """``rules.contrast_scores`` in torch, the same to the last bit: float32 [B, N] from uint8 [B, S, S, 3]."""
    pixels = _patches(images, grid_size).unflatten(2, (-1, 3)).int()
    num_pixels = pixels.shape[2]
    # Sums are of 64 bits.
    spread = num_pixels * pixels.square().sum(2) - pixels.sum(2).square()
    return _quotient(_quotient(spread.sum(2).double(), 3).sqrt(), num_pixels * 255).float()


def open_device_scores(
    selection: SelectionConfig,
    grid_size: int,
    device: torch.device,
    *,
    snapshot: EmbeddingSnapshot | None = None,
    seed: int = 0,
) -> DeviceScores | None:
    """``open_scores`` for images that lie on a device; None where the rule looks at no image.

    What the scores are computed from is laid there now, once for all images. A rule that is not in ``_IN_TORCH`` scores
    copies of the images on the CPU.
    """
    score = open_scores(selection, grid_size, snapshot=snapshot, seed=seed)
    if score is None:
        return None
    if selection.rule not in _IN_TORCH:
        return lambda images: torch.from_numpy(score(list(images.cpu().numpy()))).to(images.device)
    in_torch = _IN_TORCH[selection.rule](selection, grid_size, device, snapshot, seed)
    return lambda images: torch.cat([in_torch(part) for part in images.split(_IMAGES_AT_A_TIME)])


def _contrast(
    _: SelectionConfig, grid_size: int, device: torch.device, snapshot: EmbeddingSnapshot | None, seed: int
) -> DeviceScores:
    return lambda images: contrast_on_device(images, grid_size)


def _magnitude(
    selection: SelectionConfig, grid_size: int, device: torch.device, snapshot: EmbeddingSnapshot | None, seed: int
) -> DeviceScores:
    assert snapshot is not None
    return magnitude_scores(MagnitudeScorer(snapshot, selection, grid_size, seed), device)


_IN_TORCH = {"contrast": _contrast, "magnitude": _magnitude}


def magnitude_scores(scorer: MagnitudeScorer, device: torch.device) -> DeviceScores:
    """``scorer.scores`` in torch, the same within rounding, for images that lie on ``device``."""
    kernel, offsets, rest = scorer.arrays()
    leading = leading_bits(kernel)
    parts = [torch.from_numpy(part).to(device).T for part in (leading, kernel - leading)]
    added, left_out = (torch.from_numpy(array).to(device) for array in (offsets, rest))

    def scores(images: torch.Tensor) -> torch.Tensor:
        patches = _patches(images, scorer.grid_size).float()
        embedded = patches @ parts[0] + patches @ parts[1] + added
        total = embedded.square().sum(2).add(left_out).sqrt() if scorer.is_squared else embedded.abs().sum(2)
        return total * scorer.scale

    return scores


def leading_bits(array: np.ndarray) -> np.ndarray:
    """float32 numbers cut off to the 11 bits that TF32 has.

    Pixel values have eight. So a product of pixels with this part, and with what it leaves, is the same whether or not
    the process lets a GPU round factors to TF32, which is set for the model's sake.
    """
    return (np.ascontiguousarray(array).view(np.int32) & ~0x1FFF).view(np.float32)


def _quotient(numbers: torch.Tensor, by: float) -> torch.Tensor:
    """Rounded as on a CPU: by a number of the host a GPU does not divide, it multiplies by the rounded inverse."""
    return numbers / torch.full((), by, dtype=numbers.dtype, device=numbers.device)


def _patches(images: torch.Tensor, grid_size: int) -> torch.Tensor:
    """[B, N, P*P*3] of [B, S, S, 3], in (row, column, channel) order."""
    batch, size = images.shape[:2]
    tiles = images.reshape(batch, grid_size, size // grid_size, grid_size, -1).transpose(2, 3)
    return tiles.reshape(batch, grid_size * grid_size, -1)
