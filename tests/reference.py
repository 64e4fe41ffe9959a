"""Slow and obvious versions of what the pipeline computes, written from the definitions and not from the code."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def num_kept(keep_rate: Fraction, num_patches: int) -> int:
    """The class token counts as a patch while rounding, and is always kept."""
    return round(keep_rate * (num_patches + 1)) - 1


def ramp_keep_rates(
    kind: str, low: Fraction, high: Fraction, rounding: Fraction | None, step: int, period: int
) -> set[Fraction]:
    """The paper's rule at one step: drop runs from 1 - low to half a grid step beyond 1 - high, is clamped and rounded.

    Exact arithmetic (but for the cosine). ``period`` is the run for linear and cosine, the epoch for cyclic. Where the
    drop lies just between two grid points, both neighbours are right.
    """
    middle = Fraction(1, 2)  # a step stands for the middle of its stretch of the ramp
    progress = (step + middle) / period
    if kind == "cyclic":
        progress = (step % period + middle) / period
        progress = 2 * progress if progress <= Fraction(1, 2) else 2 - 2 * progress
    if kind == "cosine":
        progress = Fraction((1 - math.cos(math.pi * float(progress))) / 2)
    start, end = 1 - low, 1 - high
    if rounding is None:
        return {1 - (start + progress * (end - start))}
    overshot = end - rounding / 2
    drop = start + progress * (overshot - start)
    drop = min(max(drop, end), start)
    slack = Fraction(1, 10**8)
    nearest = {round((drop + shift) / rounding) * rounding for shift in (-slack, slack)}
    return {1 - min(max(value, end), start) for value in nearest}


def top_k(scores: Sequence[float], num_kept: int) -> list[int]:
    """Takes the best remaining index, the lowest one among equals, ``num_kept`` times; then sorts the indices."""
    remaining = list(range(len(scores)))
    kept = []
    for _ in range(num_kept):
        best = remaining[0]
        for index in remaining:
            if scores[index] > scores[best]:
                best = index
        remaining.remove(best)
        kept.append(best)
    return sorted(kept)


def inclusion_chances(weights: Sequence[float], num_kept: int) -> np.ndarray:
    """Chance of each item to be among ``num_kept`` drawn one by one, each with a chance proportional to its weight."""
    chances = np.zeros(len(weights))
    for drawn in itertools.permutations(range(len(weights)), num_kept):
        chance, left = 1.0, sum(weights)
        for item in drawn:
            chance *= weights[item] / left
            left -= weights[item]
        chances[list(drawn)] += chance
    return chances


def patchify(image: np.ndarray, patch_size: int) -> np.ndarray:
    """uint8 [S, S, 3] to [N, P*P*3], pixel by pixel."""
    grid = image.shape[0] // patch_size
    patches = np.zeros((grid * grid, patch_size * patch_size * 3), dtype=image.dtype)
    for row, column, channel in itertools.product(range(grid * patch_size), range(grid * patch_size), range(3)):
        patch = (row // patch_size) * grid + column // patch_size
        within = ((row % patch_size) * patch_size + column % patch_size) * 3 + channel
        patches[patch, within] = image[row, column, channel]
    return patches


def contrast(image: np.ndarray, patch_size: int) -> np.ndarray:
    """Standard deviation of every patch's pixels around the patch's mean colour, over 255: float64 [N]."""
    scores = []
    for patch in patchify(image, patch_size):
        pixels = patch.reshape(-1, 3).astype(np.float64) / 255
        scores.append(np.sqrt(np.mean((pixels - pixels.mean(axis=0)) ** 2)))
    return np.array(scores)


def exact_contrast(image: np.ndarray, patch_size: int) -> np.ndarray:
    """The same from sums of whole numbers, rounded once at the end: float32 [N]."""
    num_pixels = patch_size**2
    pixels = patchify(image, patch_size).reshape(-1, num_pixels, 3).astype(np.int64)
    spread = num_pixels * (pixels**2).sum(axis=1) - pixels.sum(axis=1) ** 2
    return (np.sqrt(spread.mean(axis=1)) / (num_pixels * 255)).astype(np.float32)


def resized_crop(
    height: int, width: int, draws: Sequence[float], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """The box of a random resized crop, as (top, left, bottom, right).

    Up to ten tries of an area and an aspect ratio (uniform in its logarithm); the first that fits the image is placed
    at random. If none fits: the centre, as large as the nearest allowed ratio lets it be.
    """
    for attempt in range(10):
        area_draw, ratio_draw = draws[2 * attempt], draws[2 * attempt + 1]
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        log_ratio = math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * ratio_draw
        crop_width = round(math.sqrt(area * math.exp(log_ratio)))
        crop_height = round(math.sqrt(area / math.exp(log_ratio)))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(draws[20] * (height - crop_height + 1))
            left = int(draws[21] * (width - crop_width + 1))
            return top, left, top + crop_height, left + crop_width
    crop_width, crop_height = width, height
    if width / height < ratio[0]:
        crop_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        crop_width = round(height * ratio[1])
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return top, left, top + crop_height, left + crop_width


def chi_square(counts: Sequence[float] | np.ndarray, expected: Sequence[float] | np.ndarray) -> float:
    counts, expected = np.asarray(counts, dtype=float), np.asarray(expected, dtype=float)
    return float((((counts - expected) ** 2) / expected).sum())


def chi_square_limit(degrees_of_freedom: int) -> float:
    """A value that chance exceeds about once in 30,000 times (Wilson & Hilferty's approximation, four sigmas)."""
    n = degrees_of_freedom
    return n * (1 - 2 / (9 * n) + 4 * math.sqrt(2 / (9 * n))) ** 3


def resized_region(image: np.ndarray, region: Sequence[float], size: int) -> np.ndarray:
    """Region (top, left, bottom, right) of uint8 [H, W, 3] as float64 [size, size, 3]: bilinear with antialiasing.

    The triangle filter over all pixels at once, as two matrices; pixels that are missing have no say.
    """
    top, left, bottom, right = (float(edge) for edge in region)
    matrices = []
    for start, end, length in ((top, bottom, image.shape[0]), (left, right, image.shape[1])):
        scale = (end - start) / size
        centres = start + (np.arange(size)[:, None] + 0.5) * scale
        weights = np.maximum(1 - np.abs(np.arange(length)[None] + 0.5 - centres) / max(scale, 1), 0)
        matrices.append(weights / weights.sum(axis=1, keepdims=True))
    return np.einsum("yi,ijc,xj->yxc", matrices[0], image.astype(np.float64), matrices[1])
