"""Mixup and cutmix as arithmetic: which pairs of images are mixed, how, and what comes out.

Row i of the global batch is mixed with row i xor 1. The two are always on one rank and in one micro batch, and share
their weight and their box. Mixup: arXiv 1710.09412; cutmix: arXiv 1905.04899.
"""

import math
from functools import lru_cache

import numpy as np

from pipeline.config import AugmentConfig

NUM_MIX_DRAWS = 5  # random numbers per pair
_TABLE_SIZE = 4096
NO_BOX = (0, 0, 0, 0)


def beta_quantiles(uniform: np.ndarray, alpha: float) -> np.ndarray:
    """The inverse of Beta(alpha, alpha)'s distribution function, within 1e-6 for alpha up to 100.

    Args:
        uniform: float [n] in [0, 1], of any precision.

    Returns:
        float64 [n] in [0, 1].
    """
    uniform = np.asarray(uniform, dtype=np.float64)
    lower = np.minimum(uniform, 1 - uniform)  # the distribution is symmetric
    shares, quantiles = _quantile_table(alpha)
    half = np.interp((2 * lower) ** (1 / alpha), shares, quantiles)
    return np.where(uniform <= 0.5, half, 1 - half)


@lru_cache(maxsize=8)
def _quantile_table(alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """(2 F(x)) ** (1 / alpha) at even steps of x from 0 to 1/2, where F is Beta(alpha, alpha)'s distribution function.

    F itself rises infinitely steeply at 0 where alpha < 1; its power is smooth there, so that straight lines between
    the entries are good. F is a power series of positive terms only (DLMF 8.17.8), so no digits cancel out.
    """
    x = np.linspace(0, 0.5, _TABLE_SIZE + 1)
    term, series, n = np.ones_like(x), np.ones_like(x), 0
    while term[-1] > 1e-17 * series[-1]:
        term = term * x * ((2 * alpha + n) / (alpha + 1 + n))
        series += term
        n += 1
    log_beta = 2 * math.lgamma(alpha) - math.lgamma(2 * alpha)
    log_twice = (math.log(2) - math.log(alpha) - log_beta) / alpha
    shares = x * (1 - x) * np.exp(log_twice + np.log(series) / alpha)
    return shares, x


def plan_pairs(draws: np.ndarray, augment: AugmentConfig, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """How each pair is mixed.

    Args:
        draws: float32 [pairs, 5] in [0, 1): whether, by which of the two, the weight, and the box's centre.

    Returns:
        weights float32 [pairs], an image's own share of its mixture, 1 where a pair is not mixed; boxes int32
        [pairs, 4], (top, left, bottom, right) of what cutmix takes from the partner, all 0 where cutmix is not used.
    """
    assert isinstance(augment.mixup, float), "a step has a number in place of a schedule"
    assert isinstance(augment.cutmix, float), "a step has a number in place of a schedule"
    mixed = (draws[:, 0] < augment.mix_probability) & augment.mixes
    share = augment.cutmix_share if augment.mixup > 0 else 1.0
    cut = (draws[:, 1] < share) if augment.cutmix > 0 else np.zeros(len(draws), dtype=bool)
    middle = draws[:, 2].astype(np.float64) + 2.0**-25  # of the cell on the grid of 2**-24: never 0, never 1
    weights = np.ones(len(draws))
    for chosen, alpha in ((mixed & ~cut, augment.mixup), (mixed & cut, augment.cutmix)):
        if chosen.any():
            weights[chosen] = beta_quantiles(middle[chosen], alpha)
    boxes = _boxes(weights, draws[:, 3:5], image_size)
    boxes[~(mixed & cut)] = NO_BOX
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    weights = np.where(mixed & cut, 1 - area / image_size**2, weights)
    boxes[area == 0] = NO_BOX
    return weights.astype(np.float32), boxes


def _boxes(weights: np.ndarray, centres: np.ndarray, image_size: int) -> np.ndarray:
    """Squares of the area 1 - weight around centres anywhere in the image, which cuts off what lies outside."""
    half = (image_size * np.sqrt(1 - weights)).astype(np.int32)[:, None] // 2
    middle = (centres.astype(np.float64) * image_size).astype(np.int32)
    return np.clip(np.concatenate([middle - half, middle + half], axis=1), 0, image_size).astype(np.int32)


def partners(first_row: int, num_rows: int) -> np.ndarray:
    """For each of some rows of the global batch, the place of its partner among them: int64 [B].

    Its own place where the partner is not among them, as when one row alone is looked at.
    """
    places = np.arange(num_rows)
    partner = ((first_row + places) ^ 1) - first_row
    return np.where((partner >= 0) & (partner < num_rows), partner, places)
