"""A model's positions for another grid of patches and its kernel for another patch size, by fixed matrices.

What is stored and trained keeps its size; a step at other sizes multiplies it by a matrix inside the graph, so that
gradients and the optimizer's moments belong to the one parameter. Every size is reached from the stored one directly.

The filter is that of the loader's resize: bilinear, with antialiasing where it shrinks. (timm's own resizing of weights
is bicubic.) It works along rows and columns separately, so each matrix, and its pseudo-inverse, is the Kronecker
product of one-dimensional ones, which takes milliseconds to make.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_matrix(old: int, new: int) -> Tensor:
    """The linear map that resizes a line of ``old`` values to ``new`` values: float64 [new, old] on the CPU."""
    lines = torch.eye(old, dtype=torch.float64, device="cpu")[:, None, None, :]
    return F.interpolate(lines, size=(1, new), mode="bilinear", antialias=True)[:, 0, 0, :].T.contiguous()


@functools.cache
def grid_matrix(old: int, new: int, device: torch.device) -> Tensor:
    """The map from a grid [old, old] in raster order to one [new, new]: float32 [new^2, old^2]."""
    along = resize_matrix(old, new)
    return torch.kron(along, along).to(device, torch.float32)


@functools.cache
def kernel_matrix(old: int, new: int, device: torch.device) -> Tensor:
    """FlexiViT's pseudo-inverse resize (arXiv 2212.08013) of a kernel [old, old] to [new, new]: float32 [new^2, old^2].

    With B the resize of a patch x from ``old`` to ``new`` pixels, a kernel w becomes the w' of the smallest norm for
    which B^T w' is as near to w as it can be. Enlarged, patches give what they gave: <B x, w'> = <x, w>.
    """
    along = torch.linalg.pinv(resize_matrix(old, new).T)
    return torch.kron(along, along).to(device, torch.float32)


def apply_matrix(matrix: Tensor, values: Tensor) -> Tensor:
    """``matrix`` float32 [new, old] times ``values`` [old, D]: [new, D] in their dtype, computed in float32.

    That holds under autocast, too; on a GPU ``engine.tf32`` rounds the factors as it does those of every product.
    """
    with torch.autocast(values.device.type, enabled=False):
        return (matrix @ values.float()).to(values.dtype)


def resample_positions(positions: Tensor, old: int, new: int) -> Tensor:
    """Positions [old^2, D] of a grid of ``old`` patches a side, for one of ``new``: [new^2, D] in their dtype."""
    return positions if new == old else apply_matrix(grid_matrix(old, new, positions.device), positions)


def resample_kernel(kernel: Tensor, old: int, new: int) -> Tensor:
    """A patch kernel [D, old * old * 3] in (row, column, channel) order for ``new`` pixels a side, in its dtype."""
    if new == old:
        return kernel
    # Pixels first, for one product over all channels and outputs.
    by_pixel = kernel.unflatten(1, (old * old, 3)).permute(1, 2, 0).flatten(1)
    resized = apply_matrix(kernel_matrix(old, new, kernel.device), by_pixel)
    return resized.unflatten(1, (3, -1)).permute(2, 0, 1).flatten(1)
