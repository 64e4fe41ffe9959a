"""Maps of one image against one cell after another."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.shared.photographs import photograph
from pipeline.jpeg.addressable import units_of
from pipeline.selection.image_maps import bytes_map, contrast_map, scaled, spread


def overlap(low: float, high: float, start: float, end: float) -> float:
    return max(min(high, end) - max(low, start), 0)


def mean_of_cell(
    values: np.ndarray, edges: list[list[int]], size: tuple[int, int], cell: tuple[int, int], grid: int
) -> float:
    """The mean of tiles, by the area that lies in the cell."""
    total = area = 0.0
    for i in range(values.shape[0]):
        height = overlap(cell[0] * size[0] / grid, (cell[0] + 1) * size[0] / grid, edges[0][i], edges[0][i + 1])
        for j in range(values.shape[1]):
            width = overlap(cell[1] * size[1] / grid, (cell[1] + 1) * size[1] / grid, edges[1][j], edges[1][j + 1])
            total += height * width * float(values[i, j])
            area += height * width
    return total / area


def addressable(width: int, height: int, subsampling: str = "4:2:0") -> bytes:
    sink = io.BytesIO()
    image = Image.fromarray(photograph(3, width, height))
    image.save(sink, "JPEG", restart_marker_blocks=1, optimize=True, subsampling=subsampling)
    return sink.getvalue()


@pytest.mark.parametrize(("size", "subsampling"), [((100, 61), "4:2:0"), ((64, 128), "4:4:4"), ((9, 7), "4:2:2")])
def test_bytes_are_means_of_units_by_area(size: tuple[int, int], subsampling: str) -> None:
    units = units_of(addressable(*size, subsampling))
    edges = [
        [min(k * step, side) for k in range(num + 1)]
        for num, step, side in zip(
            units.lengths.shape, (units.unit_height, units.unit_width), (units.height, units.width), strict=True
        )
    ]
    means = [
        [mean_of_cell(units.lengths, edges, (units.height, units.width), (i, j), 6) for j in range(6)] for i in range(6)
    ]
    found, expected = bytes_map(units, 6), scaled(np.array(means))
    assert np.abs(found.astype(int) - expected).max() <= 1, "a mean just between two bytes may round either way"


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(0, 99))
def test_contrast_is_the_deviation_from_each_cells_mean_colour(height: int, width: int, grid: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    edges = [list(range(height + 1)), list(range(width + 1))]

    def deviation(cell: tuple[int, int]) -> float:
        spreads = []
        for channel in range(3):
            values = pixels[..., channel].astype(float)
            mean = mean_of_cell(values, edges, (height, width), cell, grid)
            spreads.append(mean_of_cell((values - mean) ** 2, edges, (height, width), cell, grid))
        return float(np.sqrt(np.mean(spreads)))

    expected = scaled(np.array([[round(deviation((i, j)), 9) for j in range(grid)] for i in range(grid)]))
    assert np.abs(contrast_map(pixels, grid).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(16, 16), (37, 100), (5, 3)])
def test_an_image_of_one_colour_is_all_zeros(size: tuple[int, int]) -> None:
    assert not contrast_map(np.full((*size, 3), (200, 31, 77), np.uint8), 16).any()


def test_flat_cells_score_alike_whatever_their_colour() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = (201, 3, 77)
    pixels[:16, :16] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    found = contrast_map(pixels, 4)
    assert found[0, 0] == 255
    assert np.count_nonzero(found) == 1


def test_scaling_keeps_the_order_and_uses_all_of_the_byte() -> None:
    values = np.random.default_rng(0).normal(size=(8, 8))
    found = scaled(values).reshape(-1)
    assert (found.min(), found.max()) == (0, 255)
    assert (np.diff(found[np.argsort(values, axis=None)].astype(int)) >= 0).all()
    with pytest.raises(ValueError, match="not a finite number"):
        scaled(np.array([[1.0, np.nan]]))


def test_values_of_the_grids_own_size_are_taken_as_they_are() -> None:
    values = np.random.default_rng(0).random((5, 5))
    np.testing.assert_array_equal(spread(values, 5), scaled(values))
    np.testing.assert_array_equal(
        spread(np.arange(4.0).reshape(2, 2), 4), np.repeat(np.repeat([[0, 85], [170, 255]], 2, 0), 2, 1)
    )
