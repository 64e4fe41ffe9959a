"""Positions and patch kernels at other sizes, against timm's own resizing and against what defines it."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

from engine.models.resampling import (
    apply_matrix,
    grid_matrix,
    kernel_matrix,
    resample_kernel,
    resample_positions,
    resize_matrix,
)

CPU = torch.device("cpu")
PAIRS = [(14, 10), (14, 7), (7, 14), (4, 5), (16, 12), (3, 1)]
each_pair = pytest.mark.parametrize(("old", "new"), PAIRS)


def flat_kernel(weight: Tensor) -> Tensor:
    """timm's [D, 3, P, P] as [D, P*P*3]."""
    return weight.permute(0, 2, 3, 1).flatten(1)


@each_pair
def test_a_line_is_resized_as_torch_resizes_an_image_with_antialiasing(old: int, new: int) -> None:
    image = torch.randn(2, 3, old, old, dtype=torch.float64)
    along = resize_matrix(old, new)
    expected = F.interpolate(image, size=(new, new), mode="bilinear", antialias=True)
    torch.testing.assert_close(along @ image @ along.T, expected)
    torch.testing.assert_close(along.sum(1), torch.ones(new, dtype=torch.float64))


@each_pair
def test_positions_of_another_grid_are_timms_with_the_loaders_filter(old: int, new: int) -> None:
    positions = torch.randn(old * old, 8)
    expected = resample_abs_pos_embed(
        positions[None], [new, new], [old, old], num_prefix_tokens=0, interpolation="bilinear"
    )
    torch.testing.assert_close(resample_positions(positions, old, new), expected[0], rtol=1e-5, atol=1e-5)


@each_pair
def test_a_kernel_for_another_patch_size_is_timms_with_the_loaders_filter(old: int, new: int) -> None:
    weight = torch.randn(5, 3, old, old)
    expected = flat_kernel(resample_patch_embed(weight, [new, new], interpolation="bilinear"))
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        resample_kernel(flat_kernel(weight), old, new), expected, rtol=0, atol=1e-4 * scale
    )  # timm's pseudo-inverse is a float32 one


@each_pair
def test_the_matrix_of_a_kernel_is_the_pseudo_inverse_of_the_whole_resize(old: int, new: int) -> None:
    along = resize_matrix(old, new)
    expected = torch.linalg.pinv(torch.kron(along, along).T)
    torch.testing.assert_close(kernel_matrix(old, new, CPU).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [(7, 14), (4, 5), (12, 16), (8, 32)])
def test_an_enlarged_patch_gives_what_the_patch_gave(old: int, new: int) -> None:
    kernel, patch = torch.randn(6, old * old * 3), torch.randn(old, old, 3)
    along = resize_matrix(old, new).float()
    larger = torch.einsum("ij,kl,jlc->ikc", along, along, patch)
    torch.testing.assert_close(
        resample_kernel(kernel, old, new) @ larger.flatten(), kernel @ patch.flatten(), rtol=1e-4, atol=1e-4
    )


@each_pair
def test_in_either_direction_what_is_left_of_a_kernel_is_what_no_resized_patch_can_see(old: int, new: int) -> None:
    kernel = torch.randn(old * old, 4, dtype=torch.float64)
    along = resize_matrix(old, new)
    resize = torch.kron(along, along)
    resized = kernel_matrix(old, new, CPU).double() @ kernel
    torch.testing.assert_close(
        resize @ (resize.T @ resized - kernel), torch.zeros(new * new, 4).double(), atol=1e-5, rtol=0
    )


def test_at_its_own_size_a_parameter_is_given_back_as_it_is() -> None:
    positions, kernel = torch.randn(16, 8), torch.randn(8, 48)
    assert resample_positions(positions, 4, 4) is positions
    assert resample_kernel(kernel, 4, 4) is kernel


def test_matrices_are_made_once() -> None:
    assert grid_matrix(6, 9, CPU) is grid_matrix(6, 9, CPU)
    assert kernel_matrix(6, 9, CPU) is kernel_matrix(6, 9, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_the_product(dtype: torch.dtype) -> None:
    values = torch.randn(36, 8, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        resized = apply_matrix(grid_matrix(6, 9, CPU), values)
    assert resized.dtype == dtype
    assert torch.equal(resized, (grid_matrix(6, 9, CPU) @ values.float()).to(dtype))
