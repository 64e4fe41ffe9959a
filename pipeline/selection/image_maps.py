"""The score map of one image, from its units or its pixels: a grid of bytes whose order within the image counts."""

import numpy as np
import numpy.typing as npt

from pipeline.jpeg.addressable import Units
from pipeline.selection.kernels.contrast import cell_contrast


def bytes_map(units: Units, grid_size: int) -> npt.NDArray[np.uint8]:
    """What the units of an addressable JPEG take, bytes each, as a map: uint8 [G, G]. Nothing is decoded.

    A cell's score is the mean over the units in it, by area. Sums are whole numbers, so equal cells score alike.
    """
    return scaled(_means(units.lengths, (units.unit_height, units.unit_width), (units.height, units.width), grid_size))


def contrast_map(pixels: npt.NDArray[np.uint8], grid_size: int) -> npt.NDArray[np.uint8]:
    """How much pixels differ from their cell's mean colour, uint8 [H, W, 3], as a map: uint8 [G, G]."""
    return scaled(cell_contrast(np.ascontiguousarray(pixels), grid_size))


def spread(values: npt.NDArray[np.floating], grid_size: int) -> npt.NDArray[np.uint8]:
    """Values [rows, columns] that cover the image evenly as a map: means by area, uint8 [G, G]."""
    return scaled(_means(values, (1, 1), values.shape, grid_size))


def scaled(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Values as bytes of the same order: the lowest becomes 0, the highest 255, all of them 0 where they are alike.

    Raises:
        ValueError: a value is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("a score is not a finite number")
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((values - low) / (high - low) * 255).astype(np.uint8)


def _means(
    values: npt.NDArray[np.generic], step: tuple[int, int], size: tuple[int, ...], grid_size: int
) -> npt.NDArray[np.float64]:
    """The mean in each cell, by area: float64 [G, G]. What reaches beyond the image does not count there.

    Args:
        values: [rows, columns], of tiles side by side. step: height and width of a tile.
        size: height and width of the image.
    """
    rows, columns = (
        _overlaps(num, one, side, grid_size) for num, one, side in zip(values.shape, step, size, strict=True)
    )
    # Not matmul, whose order of adding is the library's; whole numbers are added without an error in any order.
    along = np.einsum("ik,kl->il", rows, values.astype(np.float64))
    return np.einsum("il,jl->ij", along, columns) / (size[0] * size[1])


def _overlaps(num: int, step: int, size: int, grid_size: int) -> npt.NDArray[np.float64]:
    """How far cells and tiles overlap along an axis, in units of 1 / G: float64 [G, num], whole numbers."""
    edges = np.minimum(np.arange(num + 1, dtype=np.int64) * step, size) * grid_size
    cells = np.arange(grid_size + 1, dtype=np.int64) * size
    shared = np.minimum(cells[1:, None], edges[None, 1:]) - np.maximum(cells[:-1, None], edges[None, :-1])
    return np.maximum(shared, 0).astype(np.float64)
